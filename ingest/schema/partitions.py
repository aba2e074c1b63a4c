"""Arithmetic of day partitions: which days exist, which to make, which to drop. Pure: dates in, dates and DDL out.

A partition `pYYYYMMDD` holds that UTC day. Partitions are RANGE COLUMNS without MAXVALUE, so a row beyond the last is
refused by the server (error 1526); one before the first is refused by the APIs, which read the first one's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from ingest.contract.wire import Feed

PARTITIONED: Final = ("ram", "cpu", "procesos", "process_samples", "processes")
"""Tables with day partitions. `hosts` has none."""

TABLES: Final[Mapping[Feed, tuple[str, ...]]] = {
    Feed.RAM: ("ram",),
    Feed.CPU: ("cpu",),
    Feed.PROCESOS: ("procesos", "process_samples", "processes"),
}
"""The tables that a sample of each feed goes into."""

_NAME: Final = re.compile(r"p(\d{4})(\d{2})(\d{2})")
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True)
class Plan:
    """What one table needs, days ascending. `make` comes first: a table cannot lose its last partition (error 1508)."""

    make: tuple[date, ...]
    drop: tuple[date, ...]


def name(day: date) -> str:
    """Return the partition's name of a UTC day."""
    return f"p{day:%Y%m%d}"


def day_of(partition: str) -> date | None:
    """Return the UTC day that a partition holds, or None for a name that is not ours."""
    match = _NAME.fullmatch(partition)
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def days(first: date, last: date) -> tuple[date, ...]:
    """Return every day from `first` to `last`, both included."""
    return tuple(first + index * _DAY for index in range((last - first).days + 1))


def plan(existing: Iterable[date], today: date, *, keep: int, ahead: int) -> Plan:
    """Return what makes a table hold the `keep` days before `today`, today, and `ahead` days after it.

    Partitions grow at their end alone. After a pause longer than `keep` the days between are not made: the first new
    partition would be dropped in the same run.
    """
    present = sorted(existing)
    oldest = today - keep * _DAY
    start = oldest if not present else max(oldest, present[-1] + _DAY)
    return Plan(make=days(start, today + ahead * _DAY), drop=tuple(day for day in present if day < oldest))


def missing(existing: Iterable[date], today: date, *, ahead: int) -> tuple[date, ...]:
    """Return the days to add to a table that has partitions, so that it reaches `ahead` days after `today`."""
    return days(max(existing) + _DAY, today + ahead * _DAY)


def definition(day: date) -> str:
    """Return the DDL of one partition. A date stands for its midnight in a DATETIME column too."""
    return f"PARTITION {name(day)} VALUES LESS THAN ('{day + _DAY:%Y-%m-%d}')"


def definitions(wanted: Sequence[date]) -> str:
    """Return the DDL of several partitions, in parentheses."""
    return "(" + ", ".join(definition(day) for day in wanted) + ")"


def feed_bounds(rows: Iterable[tuple[str, str]]) -> dict[Feed, tuple[int, int]]:
    """Return the times that each feed's tables all hold, from (table, partition name) pairs.

    A time t in milliseconds is held if low <= t < high. Empty where a table has no partition or does not exist.
    """
    held: dict[str, list[date]] = {table: [] for table in PARTITIONED}
    for table, partition in rows:
        day = day_of(partition)
        if table in held and day is not None:
            held[table].append(day)
    if not all(held.values()):
        return {}
    bounds: dict[Feed, tuple[int, int]] = {}
    for feed, tables in TABLES.items():
        limits = [limit for table in tables if (limit := bounds_ms(held[table])) is not None]
        bounds[feed] = (max(low for low, _ in limits), min(high for _, high in limits))
    return bounds


def bounds_ms(existing: Iterable[date]) -> tuple[int, int] | None:
    """Return the first millisecond that the partitions hold and the first beyond them, or None without any."""
    present = sorted(existing)
    if not present:
        return None
    return _milliseconds(present[0]), _milliseconds(present[-1] + _DAY)


def _milliseconds(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000
