"""One connection with the rights to alter tables: how upgrade and retain reach the database and take turns."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from hashlib import blake2b
from typing import Final

import pymysql
from sqlalchemy import URL, Connection, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from ingest.schema import partitions
from latido import logs
from latido.settings import Dsn, SettingsError

log = logs.get(__name__)

CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 300
"""A migration that rebuilds a table may take long; a server that vanished must not hold us for ever."""
LOCK_SECONDS: Final = 60
"""How long one upgrade or retain waits for another one's GET_LOCK."""
RETRY_SECONDS: Final = 0.5

ALTER_LOCK_SECONDS: Final = 2
ALTER_TRIES: Final = 10
"""An API's transaction lasts 10 s at most (ingest.contract.limits): 10 tries see it end."""
ALTER_PAUSE_SECONDS: Final = 1.0

_LOCK_WAIT_TIMEOUT: Final = frozenset({1205, 1213})
_REFUSED: Final = frozenset({1044, 1045, 1049, 1698})
"""Access denied, unknown database: waiting does not help (MariaDB: Error Codes)."""


def url(dsn: Dsn) -> URL:
    """Return the SQLAlchemy URL of a DSN, by PyMySQL."""
    return URL.create("mysql+pymysql", dsn.user, dsn.password or None, dsn.host, dsn.port, dsn.database)


def code(error: DBAPIError) -> int | None:
    """Return the server's or client's error number, where there is one."""
    arguments = error.orig.args if error.orig is not None else ()
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def reason(error: DBAPIError) -> str:
    """Return what the driver said, without the statement."""
    return " ".join(str(part) for part in (error.orig.args if error.orig is not None else (error,)))


@contextmanager
def connect(dsn: Dsn, *, wait: float = 0) -> Iterator[Connection]:
    """Yield a connection in autocommit and UTC, waiting up to `wait` seconds for a server that comes up late.

    Raises SettingsError when access is refused, the last DBAPIError when the server stays away.
    """
    connect_args: dict[str, object] = {
        "charset": "utf8mb4",
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": STATEMENT_SECONDS,
        "write_timeout": STATEMENT_SECONDS,
        "init_command": "SET time_zone = '+00:00'",
    }
    if dsn.ssl_ca is not None:
        connect_args["ssl_ca"] = dsn.ssl_ca
    engine = create_engine(url(dsn), poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=connect_args)
    deadline = time.monotonic() + wait
    waited = False
    while True:
        try:
            connection = engine.connect()
            break
        except DBAPIError as error:
            if code(error) in _REFUSED:
                raise SettingsError(f"--db.dsn {dsn}: {reason(error)}") from None
            if time.monotonic() >= deadline:
                raise
            if not waited:
                log.info("waiting for the database", dsn=str(dsn), seconds=wait, reason=reason(error))
                waited = True
        except (OSError, pymysql.MySQLError) as error:  # the CA file, before any server is asked
            raise SettingsError(f"--db.dsn {dsn}: {error}") from None
        time.sleep(RETRY_SECONDS)
    with connection:
        yield connection
    engine.dispose()


@contextmanager
def turn(connection: Connection, database: str) -> Iterator[None]:
    """Hold the server-wide lock under which one program at a time alters the tables of `database`.

    Raises SettingsError when another one holds it for `LOCK_SECONDS`.
    """
    # Names of locks are the server's, at most 64 characters (MySQL 8.4, Locking Functions); database names are as long.
    name = "latido.schema." + blake2b(database.encode(), digest_size=16).hexdigest()
    if connection.exec_driver_sql("SELECT GET_LOCK(%s, %s)", (name, LOCK_SECONDS)).scalar() != 1:
        raise SettingsError(f"another `latido db` command has been altering {database} for {LOCK_SECONDS} s; try later")
    try:
        yield
    finally:
        if not connection.invalidated:
            connection.exec_driver_sql("SELECT RELEASE_LOCK(%s)", (name,))


def alter(connection: Connection, statement: str, table: str) -> None:
    """Run an ALTER TABLE beside programs that use the table.

    One that waits for a table blocks every insert behind it, so each try waits `ALTER_LOCK_SECONDS` at most and steps
    aside. Raises SettingsError when the table stays locked.
    """
    connection.exec_driver_sql(f"SET SESSION lock_wait_timeout = {ALTER_LOCK_SECONDS}")
    for attempt in range(1, ALTER_TRIES + 1):
        try:
            connection.exec_driver_sql(statement)
        except DBAPIError as error:
            if code(error) not in _LOCK_WAIT_TIMEOUT:
                raise
            log.warning("a table is busy", table=table, attempt=attempt, tries=ALTER_TRIES)
        else:
            return
        time.sleep(ALTER_PAUSE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
    raise SettingsError(
        f"table {table} was locked in each of {ALTER_TRIES} tries; is a long query or a backup running?"
    )


def read_days(connection: Connection) -> Mapping[str, tuple[date, ...]]:
    """Return the days that each partitioned table holds, ascending; a table that does not exist is absent."""
    rows = connection.exec_driver_sql(
        "SELECT table_name, partition_name FROM information_schema.partitions"
        " WHERE table_schema = DATABASE() AND partition_name IS NOT NULL"
    )
    found: dict[str, list[date]] = {}
    for table, partition in rows:
        day = partitions.day_of(partition)
        if table in partitions.PARTITIONED and day is not None:
            found.setdefault(table, []).append(day)
    return {table: tuple(sorted(held)) for table, held in found.items()}


def today(connection: Connection) -> date:
    """Return the UTC date by the database's clock: retention must not depend on this machine's."""
    value = connection.exec_driver_sql("SELECT UTC_DATE()").scalar_one()
    if not isinstance(value, date):
        raise TypeError(f"expected a date from UTC_DATE(), got {value!r}")
    return value
