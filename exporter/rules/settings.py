"""What group rules take: their file, and what they may look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latido.settings import boolean, path, setting


@dataclass(frozen=True)
class RuleSettings:
    """The flags of group rules."""

    file: Path | None = setting(
        "collector.processes.config-file",
        path,
        None,
        "YAML file of group rules; processes that no rule matches go by their command",
        metavar="FILE",
    )
    command_line: bool = setting(
        "collector.processes.command-line",
        boolean,
        "false",
        "let rules look at command lines, which can hold secrets; they are shown only as far as a rule's name says",
    )
    rootfs: Path = setting(
        "path.rootfs", path, "/", "where the host's file system is; its /etc/passwd names users", metavar="DIRECTORY"
    )
