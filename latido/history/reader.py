"""The SQL: few statements, each a range of a primary key or of an index, within the days that are asked about.

Names are kept by UTC day, so a range over midnight is read day by day. Every statement names the bounds of
`sampled_at` (or `day`), for the servers to leave all other partitions alone. It is the same SQL on MariaDB and MySQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import zip_longest
from typing import Final

from latido.history.model import (
    Counts,
    CpuTick,
    Key,
    Load,
    Memory,
    Names,
    NoDataError,
    ProcessRow,
    Spent,
    Stream,
    StreamReading,
    Stretch,
    Tick,
    Totals,
)

Cell = int | float | str | bytes | Decimal | datetime | date | None
Row = Sequence[Cell]
Query = Callable[[str, Sequence[Cell]], Sequence[Row]]
"""Runs a statement with its arguments and returns all rows."""

LOOKBACK: Final = timedelta(days=1)
"""How far before the moment a sample or keyframe is looked for: the first sample of every UTC day is a keyframe."""
SAME_PASS: Final = timedelta(minutes=1)
"""Of two passes over the same time, made by a clock that was set back, both reach a moment if they come so near."""
_DAY: Final = timedelta(days=1)
_KEYS: Final = 200
"""Processes asked for by one statement."""

STATES: Final = (
    "running",
    "sleeping",
    "disk_sleep",
    "stopped",
    "traced",
    "zombie",
    "dead",
    "idle",
    "parked",
    "other",
)
MODES: Final = (
    "user_ns",
    "nice_ns",
    "system_ns",
    "idle_ns",
    "iowait_ns",
    "irq_ns",
    "softirq_ns",
    "steal_ns",
)
_NUMBERS: Final = tuple(
    field.name for field in fields(ProcessRow) if field.name not in {"tick", "exited", "state", "names", "summed"}
)
_NAMES: Final = tuple(field.name for field in fields(Names))
_MEMORY: Final = tuple(field.name for field in fields(Memory) if field.name != "tick")

_PROCESS: Final = ", ".join(
    ["s.seq", "s.sampled_at", "s.exited", "s.state", *(f"s.{name}" for name in _NUMBERS)]
    + [f"p.{name}" for name in _NAMES]
)
_NAMED: Final = (
    " LEFT JOIN processes p ON p.host_id = %s AND p.day = %s AND p.pid = {0}.pid"
    " AND p.start_ticks = {0}.start_ticks AND p.identity = {0}.identity"
)
_RANGE: Final = "host_id = %s AND sampled_at >= %s AND sampled_at <= %s"


@dataclass(frozen=True, slots=True)
class Outline:
    """How many rows there are of a process, and of when the first and the last one is."""

    rows: int
    first: datetime
    last: datetime


# The words that make these statements are all of this file.
HOSTS: Final = (
    "SELECT DISTINCT name FROM hosts h WHERE EXISTS (SELECT 1 FROM procesos p WHERE p.host_id = h.id) ORDER BY name"
)
STREAMS: Final = "SELECT id, name, stream, boot_id, kernel FROM hosts WHERE name = %s ORDER BY id"
TICKS: Final = f"SELECT seq, sampled_at FROM procesos WHERE {_RANGE}"  # noqa: S608
LAST_TICK: Final = f"{TICKS} ORDER BY sampled_at DESC, seq DESC LIMIT 1"
NEAREST: Final = (
    "SELECT MAX(sampled_at) FROM procesos WHERE host_id = %s AND sampled_at <= %s",
    "SELECT MIN(sampled_at) FROM procesos WHERE host_id = %s AND sampled_at > %s",
)
COUNTS: Final = (
    f"SELECT total, threads, {', '.join(STATES)} FROM procesos"  # noqa: S608
    " WHERE host_id = %s AND sampled_at = %s AND seq = %s"
)
KEYFRAME: Final = (
    f"SELECT seq, sampled_at FROM procesos WHERE keyframe = 1 AND {_RANGE} AND seq <= %s"  # noqa: S608
    " ORDER BY seq DESC LIMIT 1"
)
ELSEWHERE: Final = f"SELECT seq FROM procesos WHERE {_RANGE} AND seq BETWEEN %s AND %s"  # noqa: S608
TABLE: Final = (
    f"SELECT {_PROCESS} FROM process_samples s{_NAMED.format('s')}"  # noqa: S608
    " WHERE s.host_id = %s AND s.sampled_at >= %s AND s.sampled_at <= %s AND s.seq BETWEEN %s AND %s"
)
BASE: Final = (
    "SELECT seq, exited, pid, start_ticks, read_bytes, written_bytes FROM process_samples"  # noqa: S608
    f" WHERE {_RANGE} AND seq BETWEEN %s AND %s"
)
SPENT: Final = (
    f"SELECT g.*, {', '.join(f'p.{name}' for name in _NAMES)} FROM"  # noqa: S608
    " (SELECT pid, start_ticks, identity, SUM(cpu_delta_ns), MIN(seq), MIN(read_bytes), MIN(written_bytes)"
    f" FROM process_samples WHERE {_RANGE} GROUP BY pid, start_ticks, identity) g{_NAMED.format('g')}"
)
ENDED: Final = (
    f"SELECT {_PROCESS} FROM process_samples s{_NAMED.format('s')}"  # noqa: S608
    " WHERE s.host_id = %s AND s.sampled_at >= %s AND s.sampled_at <= %s AND s.exited = 1"
)
CPU: Final = f"SELECT seq, sampled_at, {', '.join(MODES)} FROM cpu WHERE {_RANGE}"  # noqa: S608
LAST_CPU: Final = f"{CPU} ORDER BY sampled_at DESC, seq DESC LIMIT 1"
LOAD: Final = (
    f"SELECT load1_milli, load5_milli, load15_milli, JSON_LENGTH(cores) FROM cpu WHERE {_RANGE}"  # noqa: S608
    " ORDER BY sampled_at DESC, seq DESC LIMIT 1"
)
MEMORY: Final = (
    f"SELECT seq, sampled_at, {', '.join(_MEMORY)} FROM ram WHERE {_RANGE}"  # noqa: S608
    " ORDER BY sampled_at DESC, seq DESC LIMIT 1"
)
ONE: Final = (
    f"SELECT {_PROCESS} FROM process_samples s{_NAMED.format('s')}"  # noqa: S608
    " WHERE s.host_id = %s AND s.pid = %s AND s.sampled_at >= %s AND s.sampled_at <= %s"
)

OUTLINE: Final = (
    f"SELECT start_ticks, COUNT(*), MIN(sampled_at), MAX(sampled_at) FROM process_samples WHERE {_RANGE}"  # noqa: S608
    " AND pid = %s GROUP BY start_ticks"
)
THIN: Final = (
    f"SELECT {_PROCESS}, g.cpu_ns, g.first_seq, g.first_at, g.samples, g.smallest, g.largest,"  # noqa: S608
    " g.first_read, g.first_written FROM"
    " (SELECT start_ticks, identity, exited, (TIMESTAMPDIFF(MICROSECOND, '1970-01-01', sampled_at) - 1) DIV %s AS step,"
    " MAX(seq) AS seq, MAX(sampled_at) AS sampled_at, SUM(cpu_delta_ns) AS cpu_ns, MIN(seq) AS first_seq,"
    " MIN(sampled_at) AS first_at, COUNT(*) AS samples, MIN(rss_bytes) AS smallest, MAX(rss_bytes) AS largest,"
    " MIN(read_bytes) AS first_read, MIN(written_bytes) AS first_written"
    f" FROM process_samples WHERE {_RANGE} AND pid = %s GROUP BY start_ticks, identity, exited, step) g"
    " JOIN process_samples s ON s.host_id = %s AND s.sampled_at = g.sampled_at AND s.seq = g.seq AND s.pid = %s"
    f" AND s.start_ticks = g.start_ticks{_NAMED.format('s')} WHERE s.sampled_at >= %s AND s.sampled_at <= %s"
)


def some(count: int) -> str:
    """Return the statement for the rows of `count` processes; its arguments end with their pids and starts."""
    one = "(s.pid = %s AND s.start_ticks = %s)"
    return (
        f"{TABLE.partition(' WHERE ')[0]} WHERE s.host_id = %s AND s.sampled_at >= %s AND s.sampled_at <= %s AND ("
        + (" OR ".join([one] * count) + ")")
    )


def hosts(query: Query) -> list[str]:
    """Return the names of hosts that have process samples."""
    return [_text(row[0]) for row in query(HOSTS, ())]


def streams(query: Query, host: str) -> list[Stream]:
    """Return the streams of a host, oldest first. Raises NoDataError with the hosts that there are."""
    found = [
        Stream(_number(row[0]), _text(row[1]), _text(row[2]), _text(row[3]), _text(row[4]))
        for row in query(STREAMS, (host,))
    ]
    if not found:
        raise NoDataError(f"no host is called {host!r}; {known(hosts(query))}")
    return found


def known(names: Sequence[str]) -> str:
    """Return a sentence naming the hosts that there are."""
    shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")  # noqa: PLR2004 - a line
    return f"there are: {shown}" if names else "no host has stored a process table yet"


def ticks(query: Query, stream: Stream, first: datetime, last: datetime) -> list[Tick]:
    """Return when samples of a stream were taken, from `first` to `last`, in the order of `seq`."""
    return sorted(_tick(row) for row in query(TICKS, (stream.id, _utc(first), _utc(last))))


def last_tick(query: Query, stream: Stream, at: datetime) -> Tick | None:
    """Return a stream's newest sample at a moment, if there is one within `LOOKBACK`."""
    rows = query(LAST_TICK, (stream.id, _utc(at - LOOKBACK), _utc(at)))
    return _tick(rows[0]) if rows else None


def nearest(query: Query, found: Sequence[Stream], at: datetime) -> tuple[datetime | None, datetime | None]:
    """Return when the newest sample at or before a moment was taken, and the first after it, of any of the streams."""
    before, after = (
        [_moment(rows[0][0]) for stream in found if (rows := query(statement, (stream.id, _utc(at)))) and rows[0][0]]
        for statement in NEAREST
    )
    return max(before, default=None), min(after, default=None)


def read(query: Query, stream: Stream, at: datetime, window: timedelta) -> StreamReading | None:
    """Return all that a stream says of a moment and the window before it; None where it says nothing."""
    after = at - window + timedelta(milliseconds=1)
    within = ticks(query, stream, after, at)
    newest = newest_of(within, at) or last_tick(query, stream, at)
    if newest is None:
        return None
    before = last_tick(query, stream, at - window)
    base_keyframe = _keyframe(query, stream, before) if before else None
    keyframe = _keyframe(query, stream, newest)
    table = _table(query, stream, keyframe, newest) if keyframe else {}
    spent, ended = _spent(query, stream, after, at), _rows(query, ENDED, stream, after, at)
    ended += _vanished(
        query, stream, after, at, {item.key for item in spent} - table.keys() - {row.key for row in ended}
    )
    return StreamReading(
        stream=stream,
        newest=newest,
        counts=_counts(query, stream, newest),
        keyframe=keyframe,
        table=table,
        base=_base(query, stream, base_keyframe, before) if before and base_keyframe else None,
        spent=spent,
        ended=ended,
        before=before,
        ticks=within,
        elsewhere=elsewhere(query, stream, [*within, *([before] if before else [])]) if within else frozenset(),
        cpu=_cpu(query, stream, at, window),
        load=_load(query, stream, at),
        memory=_memory(query, stream, at),
    )


def newest_of(within: Sequence[Tick], at: datetime) -> Tick | None:
    """Return the sample that shows the moment: of ticks in the order of `seq`, the last of the pass that reaches it.

    Where the clock was set back, time was passed twice: the later pass is taken if it comes as near.
    """
    ends = [tick for tick, following in zip_longest(within, within[1:]) if following is None or following.at < tick.at]
    if not ends:
        return None
    near = [tick for tick in ends if at - tick.at <= SAME_PASS]
    return max(near) if near else max(ends, key=lambda tick: tick.at)


def elsewhere(query: Query, stream: Stream, known: Sequence[Tick]) -> frozenset[int]:
    """Return the `seq`s between some ticks that are stored under other times: the host's clock was set meanwhile."""
    seqs = [tick.seq for tick in known]
    if not seqs or max(seqs) - min(seqs) + 1 == len(seqs):
        return frozenset()
    low, high = min(tick.at for tick in known) - LOOKBACK, max(tick.at for tick in known) + LOOKBACK
    rows = query(ELSEWHERE, (stream.id, _utc(low), _utc(high), min(seqs), max(seqs)))
    return frozenset(_number(row[0]) for row in rows) - frozenset(seqs)


def one_process(query: Query, stream: Stream, pid: int, first: datetime, last: datetime) -> list[ProcessRow]:
    """Return every row of a pid from `first` to `last`, in the order of `seq`: several processes may have had it."""
    rows: list[ProcessRow] = []
    for day, low, high in days(first, last):
        found = query(ONE, (stream.id, day, stream.id, pid, _utc(low), _utc(high)))
        rows += [_process(row) for row in found]
    return sorted(rows, key=_order)


def outline(query: Query, stream: Stream, pid: int, first: datetime, last: datetime) -> dict[int, Outline]:
    """Return how much there is of each process that had a pid, by its start."""
    rows = query(OUTLINE, (stream.id, _utc(first), _utc(last), pid))
    return {_number(row[0]): Outline(_number(row[1]), _moment(row[2]), _moment(row[3])) for row in rows}


def thinned(
    query: Query, stream: Stream, pid: int, bounds: tuple[datetime, datetime], step: timedelta
) -> list[ProcessRow]:
    """Return the rows of a pid summed by the database: one for each name in each step since the epoch, by `seq`.

    Where a clock that was set back hides the last row of a step, its samples are missing from all `stretch`es.
    """
    rows: list[ProcessRow] = []
    width = step // timedelta(microseconds=1)
    for day, low, high in days(*bounds):
        span = (_utc(low), _utc(high))
        for row in query(THIN, (width, stream.id, *span, pid, stream.id, pid, stream.id, day, *span)):
            cpu_ns, first_seq, first_at, samples, smallest, largest, read, written = row[-8:]
            stretch = Stretch(
                first=Tick(_number(first_seq), _moment(first_at)),
                samples=_number(samples),
                smallest_rss_bytes=_number(smallest),
                largest_rss_bytes=_number(largest),
                totals=Totals(_optional(read), _optional(written)),
            )
            rows.append(replace(_process(row[:-8]), cpu_delta_ns=_number(cpu_ns), summed=stretch))
    return sorted(rows, key=_order)


def days(first: datetime, last: datetime) -> Iterator[tuple[date, datetime, datetime]]:
    """Yield each UTC day that a range touches, with the part of the range in it; both ends belong to the range."""
    day = first.astimezone(UTC).date()
    while day <= last.astimezone(UTC).date():
        midnight = datetime.combine(day, time(), UTC)
        yield day, max(first, midnight), min(last, midnight + _DAY - timedelta(milliseconds=1))
        day += _DAY


def _keyframe(query: Query, stream: Stream, tick: Tick) -> Tick | None:
    # A step back of the clock makes a keyframe, so time never falls between a keyframe and what belongs to it.
    rows = query(KEYFRAME, (stream.id, _utc(tick.at - LOOKBACK), _utc(tick.at), tick.seq))
    return _tick(rows[0]) if rows else None


def _counts(query: Query, stream: Stream, tick: Tick) -> Counts:
    total, threads, *states = map(_number, query(COUNTS, (stream.id, _utc(tick.at), tick.seq))[0])
    return Counts(total, threads, dict(zip(STATES, states, strict=True)))


def _table(query: Query, stream: Stream, keyframe: Tick, newest: Tick) -> dict[Key, ProcessRow]:
    table: dict[Key, ProcessRow] = {}
    for row in _rows(query, TABLE, stream, keyframe.at, newest.at, keyframe.seq, newest.seq):
        if row.exited:
            table.pop(row.key, None)  # one that lived shorter than an interval was never in it
        else:
            table[row.key] = row
    return table


def _base(query: Query, stream: Stream, keyframe: Tick, before: Tick) -> dict[Key, Totals]:
    base: dict[Key, Totals] = {}
    rows = query(BASE, (stream.id, _utc(keyframe.at), _utc(before.at), keyframe.seq, before.seq))
    for row in sorted(rows, key=lambda row: (_number(row[0]), _number(row[1]))):
        key = (_number(row[2]), _number(row[3]))
        if row[1]:
            base.pop(key, None)
        else:
            base[key] = Totals(_optional(row[4]), _optional(row[5]))
    return base


def _spent(query: Query, stream: Stream, first: datetime, last: datetime) -> list[Spent]:
    return [
        Spent(
            key=(_number(row[0]), _number(row[1])),
            cpu_ns=_number(row[3]),
            first_seq=_number(row[4]),
            first=Totals(_optional(row[5]), _optional(row[6])),
            names=_names(row[7:]),
        )
        for day, low, high in days(first, last)
        for row in query(SPENT, (stream.id, _utc(low), _utc(high), stream.id, day))
    ]


def _vanished(query: Query, stream: Stream, first: datetime, last: datetime, keys: set[Key]) -> list[ProcessRow]:
    """Return the last rows of processes that are gone though no sample says that they exited: the host was booted."""
    newest: dict[Key, ProcessRow] = {}
    ordered = sorted(keys)
    for start in range(0, len(ordered), _KEYS):
        chunk = ordered[start : start + _KEYS]
        wanted = [cell for key in chunk for cell in key]
        for day, low, high in days(first, last):
            rows = query(some(len(chunk)), (stream.id, day, stream.id, _utc(low), _utc(high), *wanted))
            for process in sorted((_process(row) for row in rows), key=_order):
                newest[process.key] = process
    return list(newest.values())


def _cpu(query: Query, stream: Stream, at: datetime, window: timedelta) -> list[CpuTick]:
    start = at - window
    rows = [
        *query(LAST_CPU, (stream.id, _utc(start - LOOKBACK), _utc(start))),
        *query(CPU, (stream.id, _utc(start + timedelta(milliseconds=1)), _utc(at))),
    ]
    found = [CpuTick(_tick(row), dict(zip(MODES, map(_number, row[2:]), strict=True))) for row in rows]
    return sorted(found, key=lambda cpu: cpu.tick)


def _load(query: Query, stream: Stream, at: datetime) -> Load | None:
    rows = query(LOAD, (stream.id, _utc(at - LOOKBACK), _utc(at)))
    if not rows:
        return None
    load1, load5, load15, cpus = map(_number, rows[0])
    return Load(load1 / 1000, load5 / 1000, load15 / 1000, cpus)


def _memory(query: Query, stream: Stream, at: datetime) -> Memory | None:
    rows = query(MEMORY, (stream.id, _utc(at - LOOKBACK), _utc(at)))
    return Memory(_tick(rows[0]), *map(_number, rows[0][2:])) if rows else None


def _rows(
    query: Query, statement: str, stream: Stream, first: datetime, last: datetime, *seqs: int
) -> list[ProcessRow]:
    """Return process rows in the order in which they count: by `seq`, what exited last."""
    found = [
        _process(row)
        for day, low, high in days(first, last)
        for row in query(statement, (stream.id, day, stream.id, _utc(low), _utc(high), *seqs))
    ]
    return sorted(found, key=_order)


def _order(row: ProcessRow) -> tuple[int, bool]:
    return row.tick.seq, row.exited


# --- cells: what a driver returns, as what the columns are ---


def _process(row: Row) -> ProcessRow:
    end = 4 + len(_NUMBERS)
    numbers = dict(zip(_NUMBERS, row[4:end], strict=True))

    def must(name: str) -> int:
        return _number(numbers[name])

    return ProcessRow(
        tick=_tick(row),
        exited=bool(row[2]),
        state=_text(row[3]),
        pid=must("pid"),
        start_ticks=must("start_ticks"),
        threads=must("threads"),
        cpu_ns=must("cpu_ns"),
        cpu_delta_ns=must("cpu_delta_ns"),
        user_ns=must("user_ns"),
        rss_bytes=must("rss_bytes"),
        virtual_bytes=must("virtual_bytes"),
        minor_faults=must("minor_faults"),
        major_faults=must("major_faults"),
        swap_bytes=_optional(numbers["swap_bytes"]),
        read_bytes=_optional(numbers["read_bytes"]),
        written_bytes=_optional(numbers["written_bytes"]),
        voluntary_switches=_optional(numbers["voluntary_switches"]),
        involuntary_switches=_optional(numbers["involuntary_switches"]),
        names=_names(row[end:]),
    )


def _names(row: Row) -> Names:
    command, uid, cgroup, ppid, started_at = row
    return Names(
        command=None if command is None else _text(command),
        uid=_optional(uid),
        cgroup=None if cgroup is None else _text(cgroup),
        ppid=_optional(ppid),
        started_at=None if started_at is None else _moment(started_at),
    )


def _tick(row: Row) -> Tick:
    return Tick(_number(row[0]), _moment(row[1]))


def _number(cell: Cell) -> int:
    if not isinstance(cell, (int, Decimal)):
        raise TypeError(f"expected a number, got {cell!r}")
    return int(cell)


def _optional(cell: Cell) -> int | None:
    return None if cell is None else _number(cell)


def _text(cell: Cell) -> str:
    if not isinstance(cell, str):
        raise TypeError(f"expected text, got {cell!r}")
    return cell


def _moment(cell: Cell) -> datetime:
    if not isinstance(cell, datetime):
        raise TypeError(f"expected a DATETIME, got {cell!r}")
    return cell.replace(tzinfo=UTC)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
