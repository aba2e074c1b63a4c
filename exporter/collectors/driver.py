"""Runs the collectors of one scrape: each is timed, and one that fails takes none with it."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from exporter.collectors.cpu import CpuCollector
from exporter.collectors.processes import ProcessesCollector
from exporter.collectors.ram import RamCollector
from exporter.collectors.reading import Collector, Reading
from exporter.collectors.settings import CollectorSettings
from exporter.exposition import Family, Kind
from exporter.grouping import Rule, by_command
from exporter.model import Source, SourceError
from latido import logs, settings

log = logs.get(__name__)


def make_collectors(chosen: CollectorSettings, rule: Rule = by_command) -> list[Collector]:
    """Return the collectors that `chosen` turns on, in the order in which they read; groups are by `rule`."""
    collectors: list[Collector] = []
    if chosen.ram:
        collectors.append(RamCollector())
    if chosen.cpu:
        collectors.append(CpuCollector())
    if chosen.processes:
        collectors.append(ProcessesCollector(max_groups=chosen.max_groups, rule=rule))
    return collectors


class MachineCollector:
    """The machine's part of a scrape: reads `source` anew and runs `collectors` over it.

    `clock` gives seconds and never steps back. Not for two threads at once.
    """

    def __init__(
        self,
        source: Source,
        collectors: Sequence[Collector],
        *,
        clock: Callable[[], float] = time.monotonic,
        version: str | None = None,
        python: str | None = None,
    ) -> None:
        self._source = source
        self._collectors = tuple(collectors)
        self._clock = clock
        self._build = {
            "version": settings.version() if version is None else version,
            "python": platform.python_version() if python is None else python,
        }
        self._waiting = {collector.name for collector in self._collectors}

    def collect(self) -> Iterator[Family]:
        """Yield the families of one scrape. Raises nothing that a collector raises."""
        yield _info("latido_build", "The exporter.", self._build)
        yield _info("latido_source", "How the kernel is read.", {"source": self._source.name})
        reading = Reading(self._source, self._clock())
        success: list[bool] = []
        duration: list[float] = []
        for collector in self._collectors:
            start = self._clock()
            families = _run(collector, reading)
            duration.append(self._clock() - start)
            success.append(families is not None)
            if families is not None:
                self._waiting.discard(collector.name)
                yield from families
        rows = tuple((collector.name,) for collector in self._collectors)
        if rows:
            label = ("collector",)
            documentation = "Whether the collector worked at this scrape."
            yield Family("latido_collector_success", Kind.GAUGE, documentation, success, label, rows)
            documentation = "What the collector took at this scrape."
            yield Family("latido_collector_duration_seconds", Kind.GAUGE, documentation, duration, label, rows)

    def waits_for(self) -> str | None:
        """Return why this is not ready, in words: a collector has not worked yet. None: all have."""
        if not self._waiting:
            return None
        return f"no read has worked yet for: {', '.join(sorted(self._waiting))}"


def _info(name: str, documentation: str, values: Mapping[str, str]) -> Family:
    names, row = zip(*sorted(values.items()), strict=True)
    return Family(name, Kind.INFO, documentation, (1,), names, (row,))


def _run(collector: Collector, reading: Reading) -> list[Family] | None:
    try:
        return list(collector.collect(reading))
    except SourceError as error:
        log.warning("collector failed", collector=collector.name, error=str(error))
    except Exception:
        # A defect in one collector must not take the metrics of the others away.
        log.exception("collector failed", collector=collector.name)
    return None
