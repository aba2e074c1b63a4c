"""Reading back what MySQL holds: samples as rows, and the process table of a moment rebuilt by plain SQL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pymysql

from latido.settings import dsn as parse_dsn

Key = tuple[int, int]
PLAIN_COLUMNS = (
    "pid",
    "start_ticks",
    "threads",
    "user_ns",
    "rss_bytes",
    "virtual_bytes",
    "minor_faults",
    "major_faults",
    "uid",
    "ppid",
)
"""Those that are the same number in the model and in a row, always known."""
PROCESS_COLUMNS = (
    "pid",
    "start_ticks",
    "state",
    "threads",
    "cpu_ns",
    "user_ns",
    "rss_bytes",
    "virtual_bytes",
    "minor_faults",
    "major_faults",
    "swap_bytes",
    "read_bytes",
    "written_bytes",
    "voluntary_switches",
    "involuntary_switches",
    "command",
    "uid",
    "cgroup",
    "ppid",
)


def connect(dsn: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    """Return a connection that sees what is committed now."""
    parts = parse_dsn(dsn)
    return pymysql.connect(
        host=parts.host,
        port=parts.port,
        user=parts.user,
        password=parts.password,
        database=parts.database,
        autocommit=True,
        init_command="SET time_zone = '+00:00'",
    )


def query(dsn: str, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    with connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def seqs(dsn: str, feed: str) -> list[int]:
    """Return the sequence numbers that a feed's table holds, ascending, as often as they stand there."""
    return [row[0] for row in query(dsn, f"SELECT seq FROM {feed} ORDER BY seq")]  # noqa: S608 - a feed's name


def columns(dsn: str, feed: str, seq: int, names: Iterable[str]) -> tuple[Any, ...]:
    """Return some columns of one sample; it must be there once."""
    (row,) = query(dsn, f"SELECT {', '.join(names)} FROM {feed} WHERE seq = %s", seq)  # noqa: S608 - names of the tests
    return row


def rebuild(dsn: str, seq: int) -> dict[Key, dict[str, object]]:
    """Return the process table as of a sample: the last keyframe up to it, and what followed."""
    (keyframe,) = query(dsn, "SELECT MAX(seq) FROM procesos WHERE keyframe AND seq <= %s", seq)[0]
    rows = query(
        dsn,
        "SELECT s.seq, s.exited, s.pid, s.start_ticks, state, threads, cpu_ns, user_ns, rss_bytes, virtual_bytes,"
        " minor_faults, major_faults, swap_bytes, read_bytes, written_bytes, voluntary_switches,"
        " involuntary_switches, command, uid, cgroup, ppid FROM process_samples s"
        " JOIN processes p ON p.host_id = s.host_id AND p.day = DATE(s.sampled_at) AND p.pid = s.pid"
        " AND p.start_ticks = s.start_ticks AND p.identity = s.identity"
        " WHERE s.seq BETWEEN %s AND %s ORDER BY s.seq, s.exited",
        keyframe,
        seq,
    )
    table: dict[Key, dict[str, object]] = {}
    for _, exited, *values in rows:
        row = dict(zip(PROCESS_COLUMNS, values, strict=True))
        key = (values[0], values[1])
        if exited:
            table.pop(key, None)
        else:
            table[key] = row
    return table
