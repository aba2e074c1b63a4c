"""Rows of the tables as wire samples: the statements, and the conversion of what they return. No I/O.

Column names are the wire's field names, so the statements are made from the wire types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

import msgspec

from bridge_ws.cursor import RowKey
from bridge_ws.protocol import AnySample, Api
from ingest.contract.wire import CoreTimes, CpuSample, Feed, ProcesosSample, Process, RamSample

Cell = int | float | str | bytes | datetime | date | None
Row = tuple[Cell, ...]

_SAMPLE_TYPES: Final = {Feed.RAM: RamSample, Feed.CPU: CpuSample, Feed.PROCESOS: ProcesosSample}
_FRAME: Final = ("host_id", "api", "received_at")

SAMPLE_COLUMNS: Final[Mapping[Feed, tuple[str, ...]]] = {
    feed: tuple(name for name in cls.__struct_fields__ if name not in {"processes", "exited"})
    for feed, cls in _SAMPLE_TYPES.items()
}
_NAMED: Final = ("command", "uid", "cgroup", "ppid", "started_at")  # kept in `processes`, the rest in the sample
PROCESS_COLUMNS: Final = tuple(Process.__struct_fields__)

NOW: Final = "SELECT UTC_TIMESTAMP(3)"
HOSTS: Final = "SELECT id, name, stream FROM hosts WHERE id IN ({ids})"
RECEIVED: Final[Mapping[Feed, str]] = {
    feed: f"SELECT host_id, sampled_at, seq, received_at FROM {feed} WHERE received_at >= %s"  # noqa: S608 - our word
    for feed in Feed
}
# The database's clock, and the keys of what was received since a moment (given once a feed): one round trip.
# Numbers in the first part, though nobody reads them: with NULL the column would become a DECIMAL.
POLL: Final = " UNION ALL ".join(
    [
        "SELECT NULL, CAST(0 AS UNSIGNED), UTC_TIMESTAMP(3), CAST(0 AS UNSIGNED), NULL",
        *(
            f"SELECT '{feed}', host_id, sampled_at, seq, received_at FROM {feed} WHERE received_at >= %s"  # noqa: S608
            for feed in Feed
        ),
    ]
)
_BYTES: Final[Mapping[Feed, str]] = {
    # What a sample is as JSON, about: enough to bound an answer before it is read.
    Feed.RAM: "400",
    Feed.CPU: "600 + LENGTH(cores)",
    Feed.PROCESOS: "500 + 500 * (processes_carried + exited_carried)",
}
RECEIVED_WEIGHED: Final[Mapping[Feed, str]] = {
    feed: f"SELECT host_id, sampled_at, seq, received_at, {_BYTES[feed]} FROM {feed}"  # noqa: S608 - our words
    " WHERE received_at >= %s LIMIT %s"
    for feed in Feed
}
STREAMS: Final = "SELECT id, stream FROM hosts WHERE name = %s ORDER BY id DESC LIMIT %s"
NEWEST: Final[Mapping[Feed, str]] = {
    # The newest by seq, as the clock of a host may step back. `received_at` once more: its index finds the row.
    feed: f"SELECT t.host_id, t.sampled_at, t.seq, t.received_at FROM {feed} t JOIN"  # noqa: S608 - our word
    f" (SELECT host_id, MAX(seq) AS seq FROM {feed} WHERE received_at >= %s GROUP BY host_id) newest"
    " ON newest.host_id = t.host_id AND newest.seq = t.seq WHERE t.received_at >= %s"
    for feed in Feed
}
LAST_KEYFRAME: Final = (
    "SELECT sampled_at, seq FROM procesos WHERE host_id = %s AND keyframe = 1 AND seq <= %s ORDER BY seq DESC LIMIT 1"
)
SINCE_KEYFRAME: Final = (
    # An hour before: a clock that was set back by less is followed exactly. After more, the next keyframe heals.
    "SELECT host_id, sampled_at, seq, received_at FROM procesos"
    " WHERE host_id = %s AND seq BETWEEN %s AND %s AND sampled_at >= %s - INTERVAL 1 HOUR ORDER BY seq"
)


def select_window(feed: Feed, streams: int, *, processes: bool) -> str:
    """Return the statement that weighs the samples of `streams` streams, newest first.

    Its arguments are their host_id, the moment of the first sample, and how many rows at most.
    """
    weight = _BYTES[feed] if processes or feed is not Feed.PROCESOS else "500"
    places = ", ".join(["%s"] * streams)
    return (
        f"SELECT host_id, sampled_at, seq, {weight} FROM {feed}"  # noqa: S608 - our words
        f" WHERE host_id IN ({places}) AND sampled_at >= %s ORDER BY sampled_at DESC, seq DESC LIMIT %s"
    )


@dataclass(frozen=True, slots=True)
class Stored:
    """A sample with what the database knows of it. `sample` of `procesos` has its processes."""

    row: RowKey
    received_at: datetime
    api: Api
    sample: AnySample


class RowError(Exception):
    """A row does not match the contract; the message says how."""


def select_samples(feed: Feed, count: int) -> str:
    """Return the statement that reads `count` rows by key; its arguments are `key_arguments`."""
    columns = ", ".join(_FRAME + SAMPLE_COLUMNS[feed])
    return f"SELECT {columns} FROM {feed} WHERE {_keys('', count)}"  # noqa: S608 - column names of ours


def select_processes(count: int) -> str:
    """Return the statement that reads the processes of `count` samples of one day.

    Its arguments are the day, then `key_arguments`. A process without names has NULL for them.
    """
    columns = ", ".join(f"{'p' if name in _NAMED else 's'}.{name}" for name in PROCESS_COLUMNS)
    return (
        f"SELECT s.host_id, s.sampled_at, s.seq, s.exited, {columns} FROM process_samples s"  # noqa: S608 - ours
        " LEFT JOIN processes p ON p.host_id = s.host_id AND p.day = %s AND p.pid = s.pid"
        f" AND p.start_ticks = s.start_ticks AND p.identity = s.identity WHERE {_keys('s.', count)}"
    )


def _keys(prefix: str, count: int) -> str:
    # Not (a, b, c) IN (...): MySQL 9 looks into every partition for that; for this, as MariaDB, into these days' alone.
    one = f"({prefix}host_id = %s AND {prefix}sampled_at = %s AND {prefix}seq = %s)"
    return "(" + " OR ".join([one] * count) + ")"


def key_arguments(keys: Iterable[RowKey]) -> list[Cell]:
    """Return the arguments of a statement by keys."""
    return [cell for key in keys for cell in key]


def by_day(keys: Iterable[RowKey]) -> dict[date, list[RowKey]]:
    """Return keys by UTC day: names are kept by day."""
    days: dict[date, list[RowKey]] = {}
    for key in keys:
        days.setdefault(key.sampled_at.date(), []).append(key)
    return days


def row_key(row: Sequence[Cell]) -> RowKey:
    """Return the key that the first three columns are."""
    host_id, sampled_at, seq = row[:3]
    if not (isinstance(host_id, int) and isinstance(sampled_at, datetime) and isinstance(seq, int)):
        raise TypeError(f"expected host_id, sampled_at and seq, got {row[:3]!r}")
    return RowKey(host_id, sampled_at, seq)


def moment(cell: Cell) -> datetime:
    """Return a DATETIME column."""
    if not isinstance(cell, datetime):
        raise TypeError(f"expected a DATETIME, got {cell!r}")
    return cell


def milliseconds(time: datetime) -> int:
    """Return UTC milliseconds since the epoch of a DATETIME(3)."""
    aware = time.replace(tzinfo=UTC)
    return int(aware.replace(microsecond=0).timestamp()) * 1000 + aware.microsecond // 1000


def from_milliseconds(at: int) -> datetime:
    """Return a DATETIME(3) of UTC milliseconds since the epoch."""
    return datetime.fromtimestamp(at // 1000, UTC).replace(tzinfo=None, microsecond=at % 1000 * 1000)


def sample_key(feed: Feed, row: Row) -> RowKey:
    """Return the key of a row of `select_samples`."""
    fields = dict(zip(_FRAME + SAMPLE_COLUMNS[feed], row, strict=True))
    return row_key([fields["host_id"], fields["sampled_at"], fields["seq"]])


def to_stored(feed: Feed, row: Row, processes: Sequence[Process] = (), exited: Sequence[Process] = ()) -> Stored:
    """Return a row of `select_samples` as a wire sample. Raises RowError."""
    fields: dict[str, object] = dict(zip(_FRAME + SAMPLE_COLUMNS[feed], row, strict=True))
    key = sample_key(feed, row)
    fields["sampled_at"] = milliseconds(key.sampled_at)
    try:
        if feed is Feed.CPU:
            fields["cores"] = msgspec.json.decode(str(fields["cores"]), type=list[CoreTimes])
        elif feed is Feed.PROCESOS:
            fields |= {"keyframe": bool(fields["keyframe"]), "processes": list(processes), "exited": list(exited)}
        return Stored(
            row=key,
            received_at=moment(row[_FRAME.index("received_at")]),
            api=msgspec.convert(fields["api"], Api),
            sample=msgspec.convert(fields, _SAMPLE_TYPES[feed]),
        )
    except msgspec.DecodeError as error:
        raise RowError(str(error)) from None


def to_process(row: Row) -> tuple[RowKey, bool, Process]:
    """Return a row of `select_processes`: its sample, whether it exited, the process. Raises RowError."""
    fields: dict[str, object] = dict(zip(PROCESS_COLUMNS, row[4:], strict=True))
    started_at = fields["started_at"]
    if isinstance(started_at, datetime):
        fields["started_at"] = milliseconds(started_at)
    try:
        return row_key(row), bool(row[3]), msgspec.convert(fields, Process)
    except msgspec.ValidationError as error:
        raise RowError(f"process {fields['pid']}: {error}") from None
