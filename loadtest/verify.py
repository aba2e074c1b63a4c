"""What MySQL holds of a run's hosts, against what was acknowledged to them: by count, host and feed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import pymysql
from msgspec import Struct

from ingest.contract.wire import Feed
from latido.settings import Dsn
from loadtest.ledger import Account, HostLedger

CONNECT_SECONDS: Final = 10
SHOWN: Final = 5
"""Differences that are named; the rest is counted."""
_TABLES: Final = {Feed.RAM: "ram", Feed.CPU: "cpu", Feed.PROCESOS: "procesos"}


class Counts(Struct, frozen=True):
    """What was compared. `doubtful` samples were sent and not acknowledged: they may be stored, and are left out."""

    hosts: int
    acknowledged: dict[str, int]
    stored: dict[str, int]
    doubtful: int
    doubtful_stored: int
    differences: list[str]
    """What is not as it was acknowledged, in words; the first of them."""
    different: int
    """How many such there are."""

    @property
    def equal(self) -> bool:
        """Whether MySQL holds exactly what was acknowledged."""
        return not self.different


def connect(dsn: Dsn, *, read_timeout: int | None = None) -> pymysql.Connection[pymysql.cursors.Cursor]:
    """Return a connection that sees what is committed now; `read_timeout` is in seconds. Raises pymysql.MySQLError."""
    tls: dict[str, Any] = {"ssl": {"ca": dsn.ssl_ca}} if dsn.ssl_ca else {}
    return pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        database=dsn.database,
        autocommit=True,
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_timeout,
        init_command="SET time_zone = '+00:00'",
        **tls,
    )


def verify(
    connection: pymysql.Connection[pymysql.cursors.Cursor], prefix: str, ledgers: Sequence[HostLedger]
) -> Counts:
    """Count what the run's hosts (`prefix`) have stored, by host and stream, against what they know.

    A host that the database knows and no ledger does is a difference: who pushed for it did not come to its end.
    """
    known = {(ledger.host, ledger.stream): ledger for ledger in ledgers}
    ids = {(str(name), str(stream)): int(number) for number, name, stream in _hosts(connection, prefix)}
    differences = [
        f"{host} (stream {stream}) is stored, and no ledger knows it" for host, stream in ids.keys() - known.keys()
    ]
    acknowledged = dict.fromkeys((*_TABLES.values(), "process_samples"), 0)
    stored = dict.fromkeys(acknowledged, 0)
    doubtful = doubtful_stored = 0
    for table in acknowledged:
        feed = Feed.PROCESOS if table == "process_samples" else Feed(table)
        whole = _counts(connection, table, ids.values())
        for key, ledger in known.items():
            account = ledger.feeds.get(feed.value, Account())
            expected = account.rows if table == "process_samples" else account.acknowledged
            number = ids.get(key)
            found = whole.get(number, 0) if number is not None else 0
            unsure = _unsure(connection, table, number, account.doubt)
            if table != "process_samples":
                doubtful += len(account.doubt)
                doubtful_stored += unsure
            acknowledged[table] += expected
            stored[table] += found - unsure
            if expected != found - unsure:
                differences.append(f"{key[0]}: {table} holds {found - unsure} of {expected} acknowledged")
    return Counts(
        len(known), acknowledged, stored, doubtful, doubtful_stored, sorted(differences)[:SHOWN], len(differences)
    )


def _hosts(connection: pymysql.Connection[pymysql.cursors.Cursor], prefix: str) -> Iterable[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        # Names hold neither % nor \; an underscore matches any character, and prefixes hold none.
        cursor.execute("SELECT id, name, stream FROM hosts WHERE name LIKE %s", (f"{prefix}%",))
        return list(cursor.fetchall())


def _counts(connection: pymysql.Connection[pymysql.cursors.Cursor], table: str, ids: Iterable[int]) -> dict[int, int]:
    numbers = ",".join(map(str, ids))
    if not numbers:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT host_id, COUNT(*) FROM {table} WHERE host_id IN ({numbers}) GROUP BY host_id"  # noqa: S608 - ours
        )
        return {int(host): int(count) for host, count in cursor.fetchall()}


def _unsure(
    connection: pymysql.Connection[pymysql.cursors.Cursor], table: str, host: int | None, doubt: Sequence[int]
) -> int:
    if host is None or not doubt:
        return 0
    numbers = ",".join(map(str, doubt))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COUNT(*) FROM {table} WHERE host_id = {host} AND seq IN ({numbers})")  # noqa: S608 - ours
        row = cursor.fetchone()
    return int(row[0]) if row else 0
