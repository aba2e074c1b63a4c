"""What `latido exporter` does for people instead of running: check group rules, explain a process, convert a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from exporter.model import Source, SourceError
from exporter.rules.errors import RulesError
from exporter.rules.live import COMMAND_LINE_FLAG, LiveRules, read_text
from latido.settings import SettingsError, boolean, integer, path, setting

_PID_MAX = 2**22
"""PID_MAX_LIMIT of 64-bit kernels (include/linux/threads.h)."""


@dataclass(frozen=True)
class ToolSettings:
    """The flags that ask for something else than to run."""

    check_config: bool = setting(
        "check-config", boolean, "false", "read the settings and group rules, print what was understood, and end"
    )
    explain: int | None = setting(
        "explain", integer(1, _PID_MAX), None, "print which group a process is in, and why, and end", metavar="PID"
    )
    from_process_exporter: Path | None = setting(
        "from-process-exporter",
        path,
        None,
        "print the group rules that stand for a configuration of process-exporter, and end",
        metavar="FILE",
    )


def use_tool(
    wanted: ToolSettings, live_rules: Callable[[], LiveRules], open_source: Callable[[], Source]
) -> int | None:
    """Do what is asked for and return the exit status; None if nothing is. Raises SettingsError."""
    if wanted.from_process_exporter is not None:
        return _convert(wanted.from_process_exporter)
    if wanted.check_config:
        from exporter.rules.show import rules_shown  # noqa: PLC0415 - for the tool alone

        rules = live_rules()
        _write(rules_shown(rules.rules, rules.users))
        return 0
    if wanted.explain is not None:
        return _explain(wanted.explain, live_rules(), open_source())
    return None


def _explain(pid: int, rules: LiveRules, source: Source) -> int:
    from exporter.rules.show import explained  # noqa: PLC0415 - for the tool alone

    with closing(source):
        try:
            table = source.processes()
        except SourceError as error:
            raise SettingsError(str(error)) from None
    try:
        _write(explained(table, pid, rules.groups))
    except KeyError:
        raise SettingsError(f"--explain: there is no process {pid}, or it is hidden from this user") from None
    return 0


def _convert(file: Path) -> int:
    from exporter.rules.process_exporter import convert  # noqa: PLC0415 - for the tool alone

    try:
        conversion = convert(read_text(file))
    except RulesError as error:
        raise SettingsError(f"--from-process-exporter: {error.in_file(str(file)) if error.place else error}") from None
    sys.stdout.write(conversion.text)
    for warning in conversion.warnings:
        sys.stderr.write(f"{file}: {warning}\n")
    if conversion.needs_command_lines:
        sys.stderr.write(f"{file}: some rules look at command lines: run with {COMMAND_LINE_FLAG}\n")
    return 0


def _write(lines: Iterable[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
