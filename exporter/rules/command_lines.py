"""Command lines of processes, read where a rule needs them: /proc/PID/cmdline (proc(5)).

They can hold secrets, so only who asks for them by a flag gets them; they decide a group and go nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from exporter.model import SourceError
from exporter.rules.expressions import SUBJECT_CHARACTERS
from exporter.sources import procfs_parse as parse

_BUFFER: Final = 4096


class CommandLines(Protocol):
    """Gives the command line of a process."""

    def read(self, pid: int, start_ticks: int) -> str | None:
        """Return it, its arguments joined by spaces; None if this process has none to be read."""


@dataclass(frozen=True, slots=True)
class ProcfsCommandLines:
    """Reads the /proc that is mounted at `root`."""

    root: Path

    def read(self, pid: int, start_ticks: int) -> str | None:
        """Return the command line, cut at SUBJECT_CHARACTERS bytes; None if it is empty, refused, or the process ended.

        The start is compared afterwards: a pid that was used again in between belongs to someone else.
        """
        try:
            line = _head(self.root / str(pid) / "cmdline", SUBJECT_CHARACTERS)
            stat = parse.process_stat(_head(self.root / str(pid) / "stat", _BUFFER), f"{self.root}/{pid}/stat")
        except (OSError, SourceError):
            return None  # it ended, or is hidden from this user: to the rules it has none
        if stat.start_ticks != start_ticks or not line:
            return None
        return line.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


def _head(path: Path, size: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)
