"""From what streams say to what a person asked: each machine's facts, and a line a process. Pure.

Streams that follow one another are one machine whose spool was made anew; streams that overlap are several machines
(or exporters) under one name, and are told apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median
from typing import Final

from latido.history.model import Counts, CpuTick, Key, Load, Memory, Names, ProcessRow, StreamReading, Tick, Totals

LATE: Final = 3
"""A pause between samples of more than so many usual intervals is said, though none is missing."""


@dataclass(frozen=True, slots=True)
class Gap:
    """No sample was seen between two moments: `missing` were taken and are not here, 0 if none was taken."""

    after: datetime
    before: datetime
    missing: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """What part of the window the samples speak for: their CPU times are of these seconds.

    `steps` are moments at which the host's clock was set back, and how far.
    """

    samples: int
    missing: int
    seconds: float
    interval: float | None
    gaps: list[Gap]
    steps: list[tuple[datetime, timedelta]]


@dataclass(frozen=True, slots=True)
class Line:
    """One process: as it was at the moment, or when it ended in the window, and what it did in the window.

    `cpu_ns_by_name` is its CPU time in the window under each of the names that it had there.
    """

    row: ProcessRow
    ended: bool
    window_cpu_ns: int
    window_read_bytes: int | None
    window_written_bytes: int | None
    cpu_ns_by_name: dict[Names, int]


@dataclass(frozen=True, slots=True)
class HostCpu:
    """CPU time of the machine by mode over `seconds` that its samples cover, `booted` if it was booted meanwhile."""

    modes: dict[str, int]
    seconds: float
    booted: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything about one machine at the moment."""

    readings: list[StreamReading]
    newest: Tick
    counts: Counts
    keyframe: Tick | None
    coverage: Coverage
    cpu: HostCpu | None
    load: Load | None
    memory: Memory | None
    lines: list[Line]


def machines(readings: Iterable[StreamReading]) -> list[Machine]:
    """Return the machines behind a host's streams; those with samples in the window, else the newest alone."""
    known = list(readings)
    active = [reading for reading in known if reading.ticks]
    if not active:
        return [_machine([max(known, key=lambda reading: reading.newest.at)])] if known else []
    chains: list[list[StreamReading]] = []
    for reading in sorted(active, key=lambda reading: _span(reading)[0]):
        first, _ = _span(reading)
        for chain in chains:
            if max(_span(earlier)[1] for earlier in chain) <= first:
                chain.append(reading)
                break
        else:
            chains.append([reading])
    return [_machine(chain) for chain in chains]


def _span(reading: StreamReading) -> tuple[datetime, datetime]:
    times = [tick.at for tick in reading.ticks]
    return min(times), max(times)


def _machine(chain: list[StreamReading]) -> Machine:
    last = chain[-1]
    return Machine(
        readings=chain,
        newest=last.newest,
        counts=last.counts,
        keyframe=last.keyframe,
        coverage=coverage(chain),
        cpu=host_cpu([reading.cpu for reading in chain]),
        load=last.load,
        memory=last.memory,
        lines=_lines(chain),
    )


def coverage(chain: Sequence[StreamReading]) -> Coverage:
    """Return what the samples of streams that follow one another speak for."""
    ticks = [_with_before(reading) for reading in chain]
    pairs = [pair for known in ticks for pair in pairwise(known)]
    usual = [
        (later.at - earlier.at).total_seconds()
        for earlier, later in pairs
        if later.seq == earlier.seq + 1 and later.at > earlier.at
    ]
    interval = median(usual) if usual else None
    seconds = 0.0
    gaps: list[Gap] = []
    steps: list[tuple[datetime, timedelta]] = []
    for reading, known in zip(chain, ticks, strict=True):
        within = set(reading.ticks)
        for earlier, later in pairwise(known):
            if later not in within:
                continue  # the window of a clock that was set back: this one only leads to those that are in it
            elapsed = (later.at - earlier.at).total_seconds()
            between = later.seq - earlier.seq - 1
            missing = between - sum(earlier.seq < seq < later.seq for seq in reading.elsewhere)
            if elapsed < 0:
                steps.append((later.at, earlier.at - later.at))
            if missing or (interval is not None and not between and elapsed > LATE * interval):
                gaps.append(Gap(earlier.at, later.at, missing))
            # With samples missing the interval of this one is not known: it is taken to be an equal part.
            seconds += (interval or 0.0) if elapsed < 0 or between > missing else elapsed / (between + 1)
        following = _following(chain, reading)
        if following is not None and known and (following.at - known[-1].at).total_seconds() > LATE * (interval or 0):
            gaps.append(Gap(known[-1].at, following.at, 0))
        if known and known[0] in within and reading.before is not None:
            seconds += interval or 0.0  # its predecessor is beyond the clock's step
    return Coverage(
        samples=sum(len(reading.ticks) for reading in chain),
        missing=sum(gap.missing for gap in gaps),
        seconds=seconds,
        interval=interval,
        gaps=gaps,
        steps=steps,
    )


def _following(chain: Sequence[StreamReading], reading: StreamReading) -> Tick | None:
    """Return the first sample of the stream that came after this one."""
    number = chain.index(reading) + 1
    return chain[number].ticks[0] if number < len(chain) else None


def _with_before(reading: StreamReading) -> list[Tick]:
    return sorted({*reading.ticks, *([reading.before] if reading.before else [])})


def host_cpu(streams: Iterable[Sequence[CpuTick]]) -> HostCpu | None:
    """Return the CPU time between the first and last tick of each stream, over boots too."""
    modes: dict[str, int] = defaultdict(int)
    seconds = 0.0
    booted = False
    for ticks in streams:
        for earlier, later in pairwise(ticks):
            # iowait may step back a little (proc(5)); all together fall only when the kernel starts anew.
            anew = sum(later.modes.values()) < sum(earlier.modes.values())
            booted |= anew
            for mode, value in later.modes.items():
                modes[mode] += value if anew else max(0, value - earlier.modes[mode])
            seconds += max(0.0, (later.tick.at - earlier.tick.at).total_seconds())
    return HostCpu(dict(modes), seconds, booted) if any(modes.values()) else None


def _lines(chain: Sequence[StreamReading]) -> list[Line]:
    lines: dict[Key, Line] = {}
    for number, reading in enumerate(chain):
        is_last = number == len(chain) - 1
        for line in _stream_lines(reading):
            earlier = lines.get(line.row.key)
            lines[line.row.key] = line if earlier is None else _joined(earlier, line)
        if not is_last:
            # Until the next stream shows it, a process of an earlier one is gone; one that did nothing is not told of.
            lines = {
                key: Line(
                    line.row,
                    True,
                    line.window_cpu_ns,
                    line.window_read_bytes,
                    line.window_written_bytes,
                    line.cpu_ns_by_name,
                )
                for key, line in lines.items()
                if line.ended or line.window_cpu_ns or key in {spent.key for spent in reading.spent}
            }
    return list(lines.values())


def _joined(earlier: Line, later: Line) -> Line:
    by_name = dict(earlier.cpu_ns_by_name)
    for names, cpu_ns in later.cpu_ns_by_name.items():
        by_name[names] = by_name.get(names, 0) + cpu_ns
    return Line(
        row=later.row,
        ended=later.ended,
        window_cpu_ns=earlier.window_cpu_ns + later.window_cpu_ns,
        window_read_bytes=_sum(earlier.window_read_bytes, later.window_read_bytes),
        window_written_bytes=_sum(earlier.window_written_bytes, later.window_written_bytes),
        cpu_ns_by_name=by_name,
    )


def _stream_lines(reading: StreamReading) -> list[Line]:
    by_name: dict[Key, dict[Names, int]] = defaultdict(dict)
    first: dict[Key, tuple[int, Totals]] = {}
    for spent in reading.spent:
        names = by_name[spent.key]
        names[spent.names] = names.get(spent.names, 0) + spent.cpu_ns
        if spent.key not in first or spent.first_seq < first[spent.key][0]:
            first[spent.key] = (spent.first_seq, spent.first)
    start = reading.ticks[0].seq if reading.ticks else 0
    rows = {row.key: row for row in reading.ended if row.key not in reading.table}
    lines = []
    for row in [*reading.table.values(), *rows.values()]:
        base = _base(row.key, reading, first.get(row.key), start)
        in_window = row.key in by_name
        lines.append(
            Line(
                row=row,
                ended=row.key in rows,
                window_cpu_ns=sum(by_name[row.key].values()) if in_window else 0,
                window_read_bytes=_increase(row.read_bytes, base.read_bytes) if in_window else _none(row.read_bytes),
                window_written_bytes=(
                    _increase(row.written_bytes, base.written_bytes) if in_window else _none(row.written_bytes)
                ),
                cpu_ns_by_name=by_name[row.key] if in_window else {row.names: 0},
            )
        )
    return lines


def _base(key: Key, reading: StreamReading, first: tuple[int, Totals] | None, start: int) -> Totals:
    """Return a process's I/O at the window's start: 0 for one that began in it."""
    if reading.base is not None:
        return reading.base.get(key, Totals(0, 0))
    if first is not None and (first[0] == start or reading.before is not None):
        return first[1]  # the stream began in the window, or its keyframe is not here: counted from the first sample on
    return Totals(0, 0)


def _increase(end: int | None, base: int | None) -> int | None:
    if end is None or base is None:
        return None
    return end - base if end >= base else end  # less than before: another process, of the boot that followed


def _none(end: int | None) -> int | None:
    return None if end is None else 0


def _sum(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second
