"""Chooses how the kernel is read: the first source that works, and the next one where it stops working."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from exporter.model import CpuSample, ProcessTable, RamSample, Source, SourceError
from exporter.sources.bpf.source import BpfSource
from exporter.sources.kmod import KmodSource
from exporter.sources.procfs import ProcfsSource
from latido import logs

log = logs.get(__name__)

T = TypeVar("T")

Opener = Callable[[Path], Source]

SOURCES: Final[dict[str, Opener]] = {"kmod": KmodSource, "bpf": BpfSource, "procfs": ProcfsSource}
"""By name, best first. Each raises SourceError where it does not work."""

AUTO: Final = "auto"


def source_name(value: str) -> str:
    """Parse --source. Raises ValueError."""
    if value != AUTO and value not in SOURCES:
        raise ValueError(f"expected one of {', '.join([AUTO, *SOURCES])}, got {value!r}")
    return value


def open_source(wanted: str, procfs: Path, reader: str) -> Source:
    """Open the source that `wanted` names; `auto` is the first that works, and goes on with the next when it stops.

    A source that was named is used or refused: it never becomes another. `reader` says in the log who reads by it.
    Raises SourceError.
    """
    if wanted != AUTO:
        return SOURCES[wanted](procfs)
    return FallingBackSource([*SOURCES.items()], procfs, reader)


class FallingBackSource:
    """Reads through the first of `openers` (name and opener, best first) that works.

    `name` is that of the source in use. One that fails is closed and not tried again: a module that was unloaded
    for an upgrade is chosen at the exporter's next start. Raises SourceError when the last one fails; it stays in use.
    """

    def __init__(self, openers: Sequence[tuple[str, Opener]], procfs: Path, reader: str) -> None:
        self._rest = list(openers)
        self._procfs = procfs
        self._reader = reader
        self._lock = threading.Lock()
        self._source = self._next()

    @property
    def name(self) -> str:
        """Return which source is in use."""
        return self._source.name

    def ram(self) -> RamSample:
        """Read memory."""
        return self._read(lambda source: source.ram())

    def cpu(self) -> CpuSample:
        """Read CPU time and load."""
        return self._read(lambda source: source.cpu())

    def processes(self) -> ProcessTable:
        """Read every process."""
        return self._read(lambda source: source.processes())

    def close(self) -> None:
        """Release descriptors; no read may follow."""
        with self._lock:
            self._source.close()

    def _read(self, read: Callable[[Source], T]) -> T:
        with self._lock:
            while True:
                try:
                    return read(self._source)
                except SourceError as error:
                    if not self._rest:
                        raise
                    failed = self._source
                    self._source = self._next()
                    failed.close()
                    log.warning(
                        "source stopped working",
                        source=failed.name,
                        reader=self._reader,
                        error=str(error),
                        now=self._source.name,
                    )

    def _next(self) -> Source:
        """Open the next that works. Raises SourceError: what the last said, or all of them."""
        reasons: list[str] = []
        while self._rest:
            name, opener = self._rest.pop(0)
            try:
                source = opener(self._procfs)
            except SourceError as error:
                log.info("source does not work here", source=name, reader=self._reader, reason=str(error))
                reasons.append(str(error))
                continue
            log.info("source chosen", source=name, reader=self._reader)
            return source
        raise SourceError("; ".join(reasons))
