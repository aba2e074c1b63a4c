"""Processes by state and by group: `ProcessTable` to metric families."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Final

from exporter.collectors.reading import NS, Reading
from exporter.exposition import Family, Kind, Labels
from exporter.grouping import Rule, by_command
from exporter.groups import MAX_GROUPS, Group, GroupTracker
from exporter.model import STATES, USER_HZ, CpuSample, SourceError
from latido import logs

log = logs.get(__name__)

_GAUGES: Final[Sequence[tuple[str, str, Callable[[Group], int]]]] = (
    ("latido_group_processes", "Processes.", attrgetter("processes")),
    ("latido_group_threads", "Threads.", attrgetter("threads")),
    (
        "latido_group_resident_memory_bytes",
        "Resident memory; shared pages count in each process.",
        attrgetter("rss_bytes"),
    ),
    ("latido_group_virtual_memory_bytes", "Address space.", attrgetter("virtual_bytes")),
)
_COUNTERS: Final[Sequence[tuple[str, str, str, Mapping[str, tuple[str, int]]]]] = (
    # name, documentation, label ("" for none), then by label value the column and how many of its units make one
    (
        "latido_group_cpu_seconds",
        "CPU time of the group's processes, ended threads included.",
        "mode",
        {"user": ("user_ns", NS), "system": ("system_ns", NS)},
    ),
    ("latido_group_read_bytes", "Bytes read from block devices.", "", {"": ("read_bytes", 1)}),
    ("latido_group_written_bytes", "Bytes written to block devices.", "", {"": ("written_bytes", 1)}),
    (
        "latido_group_page_faults",
        "Page faults; major ones had to wait for a disk.",
        "kind",
        {"minor": ("minor_faults", 1), "major": ("major_faults", 1)},
    ),
    (
        "latido_group_context_switches",
        "Context switches; of voluntary ones the process waited for something.",
        "kind",
        {"voluntary": ("voluntary_switches", 1), "involuntary": ("involuntary_switches", 1)},
    ),
)
_STATES: Final = tuple((state,) for state in (*STATES.values(), "other"))


class ProcessesCollector:
    """Exposes `latido_processes`, `latido_threads` and `latido_group_*`.

    `rule` says which group a process is in. Where the table does not know what processes used that ended between two
    scrapes, what the machine used beyond all groups is `latido_cpu_unattributed_seconds_total`: counted from when
    that became so, since a source may fall back to one that knows less.
    """

    name = "processes"

    def __init__(self, *, max_groups: int = MAX_GROUPS, rule: Rule = by_command) -> None:
        self._tracker = GroupTracker(max_groups=max_groups, rule=rule)
        self._rows = _Rows()
        self._unattributed = Unattributed()

    def collect(self, reading: Reading) -> Iterator[Family]:
        """Yield the families of one scrape. Raises SourceError."""
        cpu = _cpu(reading)
        table = reading.processes()
        groups = self._tracker.update(table, reading.now)
        self._rows.groups(tuple(group.name for group in groups))

        states = table.states()
        counts = [states[state] for (state,) in _STATES]
        yield Family("latido_processes", Kind.GAUGE, "Processes by state.", counts, ("state",), _STATES)
        yield Family("latido_threads", Kind.GAUGE, "Threads of all processes.", (table.threads(),))
        yield from self._gauges(groups)
        if cpu is not None:
            yield _oldest(groups, cpu.boot_time_seconds)
        yield from self._counters(groups)
        if cpu is not None and table.exits is None:
            yield Family(
                "latido_cpu_unattributed_seconds",
                Kind.COUNTER,
                "CPU time in user, nice and system mode that no process seen at a scrape accounts for.",
                (self._unattributed.update(cpu, self._tracker.cpu_ns) / NS,),
            )

    def _gauges(self, groups: Sequence[Group]) -> Iterator[Family]:
        for name, documentation, value in _GAUGES:
            yield Family(name, Kind.GAUGE, documentation, list(map(value, groups)), ("group",), self._rows.of())
        swap = {(group.name,): group.swap_bytes for group in groups if group.swap_bytes is not None}
        if swap:
            documentation = "Anonymous memory in swap."
            yield Family(
                "latido_group_swap_bytes", Kind.GAUGE, documentation, list(swap.values()), ("group",), tuple(swap)
            )
        names = [state for (state,) in _STATES]
        yield Family(
            "latido_group_states",
            Kind.GAUGE,
            "Processes by state.",
            [group.states[state] for group in groups for state in names],
            ("group", "state"),
            self._rows.of(*names),
        )

    def _counters(self, groups: Sequence[Group]) -> Iterator[Family]:
        for name, documentation, label, parts in _COUNTERS:
            found = [
                ((group.name, part) if label else (group.name,), group.counters[column], unit)
                for group in groups
                for part, (column, unit) in parts.items()
                if column in group.counters
            ]
            if found:
                whole = len(found) == len(groups) * len(parts)
                yield Family(
                    name,
                    Kind.COUNTER,
                    documentation,
                    [total if unit == 1 else total / unit for _, total, unit in found],
                    ("group", label) if label else ("group",),
                    self._rows.of(*parts) if whole else tuple(row for row, _, _ in found),
                )
        yield Family(
            "latido_group_exits",
            Kind.COUNTER,
            "Processes that ended since they were seen at a scrape.",
            [group.exits for group in groups],
            ("group",),
            self._rows.of(),
        )


class _Rows:
    """The label rows of all groups, kept from scrape to scrape while the groups are the same: the encoder looks."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._made: dict[tuple[str, ...], tuple[Labels, ...]] = {}

    def groups(self, names: tuple[str, ...]) -> None:
        """Say which groups there are at this scrape."""
        if names != self._names:
            self._names = names
            self._made.clear()

    def of(self, *parts: str) -> tuple[Labels, ...]:
        """Return a row for each group, or for each group and part ("" adds no label)."""
        rows = self._made.get(parts)
        if rows is None:
            each = [(part,) if part else () for part in parts] or [()]
            rows = self._made[parts] = tuple((name, *part) for name in self._names for part in each)
        return rows


class Unattributed:
    """CPU time that the machine spent and no process that was seen accounts for: those that lived between two scrapes.

    The largest lead, since the first scrape, of the machine's CPU time over that of the groups. Both are read some
    milliseconds apart and the machine's is sampled by ticks, so the lead goes up and down; its maximum does not.
    Interrupts are no process's time: only user, nice and system count.
    """

    def __init__(self) -> None:
        self._start: int | None = None
        self._largest = 0

    def update(self, cpu: CpuSample, attributed_ns: int) -> int:
        """Take the machine's times and what groups have counted so far; return nanoseconds, never fewer than before."""
        lead = cpu.total.user_ns + cpu.total.nice_ns + cpu.total.system_ns - attributed_ns
        if self._start is None:
            self._start = lead
        self._largest = max(self._largest, lead - self._start)
        return self._largest


def _cpu(reading: Reading) -> CpuSample | None:
    try:
        return reading.cpu()
    except SourceError as error:
        # The process table is whole without it.
        log.warning("start times and unattributed CPU time are absent", error=str(error))
        return None


def _oldest(groups: Iterable[Group], boot_time_seconds: int) -> Family:
    found = {
        (group.name,): boot_time_seconds + group.oldest_start_ticks / USER_HZ
        for group in groups
        if group.oldest_start_ticks is not None
    }
    return Family(
        "latido_group_oldest_start_time_seconds",
        Kind.GAUGE,
        "When the oldest process started, in Unix time.",
        list(found.values()),
        ("group",),
        tuple(found),
    )
