"""One process through time: its samples, joined to the stream's so that a rate has its interval. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

from latido.history.model import ProcessRow, Stream, Tick, Totals

_TICK: Final = timedelta(milliseconds=1)
"""The precision of a sample's time: a step holds its end, not its beginning."""
_BOOT_TIME_STEP: Final = timedelta(seconds=1)
"""A start is known from the time of the boot, which the kernel tells in whole seconds (`btime`, proc(5))."""


@dataclass(frozen=True, slots=True)
class Life:
    """The rows of one process in a range, in the order in which they were taken."""

    stream: Stream
    rows: list[ProcessRow]

    @property
    def exited(self) -> bool:
        """Whether a sample said that it ended."""
        return self.rows[-1].exited

    @property
    def start_ticks(self) -> int:
        """When it began, in USER_HZ ticks since the boot."""
        return self.rows[0].start_ticks


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of a life: CPU and I/O are sums over (`after`, `until`], the rest is as of its last row.

    `samples` are those of the stream; `row` is None where the process did nothing, so that none carried it.
    Of the first sample that shows a process already running the I/O is None: what was before is not known.
    """

    after: datetime
    until: datetime
    samples: int
    row: ProcessRow | None
    cpu_ns: int
    read_bytes: int | None
    written_bytes: int | None

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.until - self.after).total_seconds()


@dataclass(frozen=True, slots=True)
class Followed:
    """A process from `first` to `last`, over all streams that saw it, with their samples.

    `missing` samples were taken in that time and are not in the database.
    """

    life: Life
    first: datetime
    last: datetime
    steps: list[Step]
    ticks: list[Tick]
    missing: int


def lives(stream: Stream, rows: Iterable[ProcessRow]) -> list[Life]:
    """Return the processes that had a pid, first ones first."""
    found: dict[int, list[ProcessRow]] = {}
    for row in rows:
        found.setdefault(row.start_ticks, []).append(row)
    return sorted((Life(stream, mine) for mine in found.values()), key=lambda life: life.rows[0].tick)


def samples(life: Life, ticks: Sequence[Tick]) -> list[Step]:
    """Return a step for each of the life's rows; `ticks` are the stream's, in the order of `seq`."""
    before = {tick.seq: earlier for earlier, tick in pairwise(ticks)}
    steps: list[Step] = []
    previous: ProcessRow | None = None
    for row in life.rows:
        start = row.stretch.first
        earlier = before.get(start.seq)
        after = earlier.at if earlier is not None and earlier.at < start.at else start.at
        base = Totals(previous.read_bytes, previous.written_bytes) if previous else _first(row, earlier)
        steps.append(
            Step(
                after=after,
                until=row.tick.at,
                samples=row.stretch.samples,
                row=row,
                cpu_ns=row.cpu_delta_ns,
                read_bytes=_since(row.read_bytes, base.read_bytes),
                written_bytes=_since(row.written_bytes, base.written_bytes),
            )
        )
        previous = row
    return steps


def _first(row: ProcessRow, earlier: Tick | None) -> Totals:
    """Return the I/O that a process's first row is compared with."""
    if _is_new(row, earlier):
        return Totals(0, 0)
    return row.stretch.totals if row.stretch.samples > 1 else Totals(None, None)


def _is_new(row: ProcessRow, earlier: Tick | None) -> bool:
    """Whether a process began since the sample before, so that all that it ever did is in this one."""
    began = row.names.started_at
    return (
        earlier is not None
        and began is not None
        and began >= earlier.at - _BOOT_TIME_STEP
        and row.cpu_delta_ns == row.cpu_ns
    )


def _since(value: int | None, base: int | None) -> int | None:
    return None if value is None or base is None or value < base else value - base


def bucketed(steps: Sequence[Step], ticks: Sequence[Tick], size: timedelta) -> list[Step]:
    """Return steps of one size from the first to the last; one in which the process did nothing has no row."""
    if not steps:
        return []
    times = sorted(tick.at for tick in ticks)
    first, last = min(step.after for step in steps), max(step.until for step in steps)
    start = _floor(min(step.until for step in steps) - _TICK, size)
    buckets: dict[int, list[Step]] = {}
    for step in steps:
        buckets.setdefault((step.until - start - _TICK) // size, []).append(step)
    found = []
    for number in range(max(buckets) + 1):
        low = start + number * size
        mine = buckets.get(number, [])
        found.append(
            Step(
                after=first if number == 0 else low,
                until=min(low + size, last),
                samples=bisect_right(times, low + size) - bisect_right(times, low),
                row=mine[-1].row if mine else None,
                cpu_ns=sum(step.cpu_ns for step in mine),
                read_bytes=_total(step.read_bytes for step in mine),
                written_bytes=_total(step.written_bytes for step in mine),
            )
        )
    return found


def _floor(moment: datetime, size: timedelta) -> datetime:
    epoch = datetime.fromtimestamp(0, UTC)
    return epoch + (moment - epoch) // size * size


def _total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
