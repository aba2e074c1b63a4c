"""One scrape's view of the machine: each feed is read at most once, whoever asks, and only if someone does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from exporter.exposition import Family
from exporter.model import CpuSample, ProcessTable, RamSample, Source, SourceError

T = TypeVar("T")

NS: Final = 1_000_000_000
"""Metrics are in seconds; the model counts nanoseconds."""


class Reading:
    """Reads `source` on demand. A feed that failed fails again for everyone who asks: nothing is read twice."""

    def __init__(self, source: Source, now: float) -> None:
        self.now: Final = now
        """When the scrape began, in seconds of a clock that never steps back."""
        self.ram: Callable[[], RamSample] = _Once(source.ram)
        self.cpu: Callable[[], CpuSample] = _Once(source.cpu)
        self.processes: Callable[[], ProcessTable] = _Once(source.processes)


class Collector(Protocol):
    """A part of the scrape that can fail by itself."""

    name: str

    def collect(self, reading: Reading) -> Iterable[Family]:
        """Return the families of one scrape. Raises SourceError."""


class _Once(Generic[T]):
    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._value: list[T] = []
        self._error: SourceError | None = None

    def __call__(self) -> T:
        if self._error is not None:
            raise self._error
        if not self._value:
            try:
                self._value.append(self._read())
            except SourceError as error:
                self._error = error
                raise
        return self._value[0]
