"""Which collectors run, and what they read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exporter.groups import MAX_GROUPS
from latido.settings import boolean, integer, path, setting


@dataclass(frozen=True)
class CollectorSettings:
    """The flags of the reading side. Those of a collector turn its metrics off; nothing is read for them then."""

    procfs: Path = setting("path.procfs", path, "/proc", "where /proc is mounted", metavar="DIRECTORY")
    ram: bool = setting("collector.ram", boolean, "true", "expose memory and swap")
    cpu: bool = setting("collector.cpu", boolean, "true", "expose CPU time, load and context switches")
    processes: bool = setting("collector.processes", boolean, "true", "expose processes by state and group")
    max_groups: int = setting(
        "collector.processes.max-groups",
        integer(2, 10_000),
        str(MAX_GROUPS),
        "groups with series of their own, `other` included; the rest is summed in `other`",
        metavar="NUMBER",
    )
