"""One typed connection over aiomysql, and what its errors mean to an API.

Every connection speaks UTC, READ COMMITTED and strict SQL, so that the server never bends a value to make it fit.
"""

from __future__ import annotations

import asyncio
import ssl
from time import monotonic
from typing import Final

import aiomysql
import pymysql

from latido.settings import Dsn

CONNECT_SECONDS: Final = 2
LOCK_SECONDS: Final = 1
"""A lock of a row, or of a table while a partition is dropped, is waited for this long; then the transaction is
tried again (error 1205)."""
IDLE_SECONDS: Final = 1.0
"""A connection that was used less long ago is not tried before it is used again."""

_SESSION: Final = (
    # No backslash-free mode: `ingest.raw.statements` escapes with backslashes.
    "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    f"SET innodb_lock_wait_timeout = {LOCK_SECONDS}, lock_wait_timeout = {LOCK_SECONDS}",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
)

Row = tuple[object, ...]

AWAY: Final = (OSError, EOFError, pymysql.OperationalError, pymysql.InterfaceError, pymysql.InternalError)
"""What a server raises that is not there, is going, or refuses us (TimeoutError is an OSError)."""

NO_SUCH_TABLE: Final = 1146
NO_PARTITION: Final = 1526
CONTENT: Final = frozenset({1264, 1292, 1366, 1406, 1411, 3140, 4025})
"""A value that a column does not take, whichever class the driver raises for it."""
DEADLOCK: Final = frozenset({1205, 1213})


def code(error: BaseException) -> int | None:
    """Return the number of a server's error."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else None


def is_content(error: BaseException) -> bool:
    """Whether the server refused a value or a statement, rather than being away, busy or without tables."""
    number = code(error)
    if isinstance(error, (pymysql.DataError, pymysql.IntegrityError, pymysql.NotSupportedError)) or number in CONTENT:
        return True
    return isinstance(error, pymysql.ProgrammingError) and number != NO_SUCH_TABLE


def reason(error: BaseException) -> str:
    """Return an error in words; it never holds a statement."""
    return f"{type(error).__name__}: {' '.join(str(part) for part in error.args)}"[:500]


class Connection:
    """A connection in autocommit. Not for two tasks at once; after any error but a server's, close it."""

    def __init__(self, connection: aiomysql.Connection) -> None:
        self._connection = connection
        self._used = monotonic()

    @classmethod
    async def open(cls, dsn: Dsn) -> Connection:
        """Connect and set the session up. Raises what is in `AWAY`."""
        context = ssl.create_default_context(cafile=dsn.ssl_ca) if dsn.ssl_ca is not None else None
        async with asyncio.timeout(2 * CONNECT_SECONDS):
            # Not by connect_timeout: that is a wait_for, which in Python 3.11 drops a cancellation that comes with the
            # end of what it waits for.
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await aiomysql.connect(
                    host=dsn.host,
                    port=dsn.port,
                    user=dsn.user,
                    password=dsn.password,
                    db=dsn.database,
                    charset="utf8mb4",
                    autocommit=True,
                    ssl=context,
                )
            opened = cls(connection)
            try:
                for statement in _SESSION:
                    await opened.execute(statement)
            except BaseException:
                opened.close()
                raise
        return opened

    async def is_alive(self) -> bool:
        """Whether it can be used: the server may have gone, or ended it, since it was used last."""
        if monotonic() - self._used < IDLE_SECONDS:
            return True
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self.execute("DO 0")
        except (*AWAY, pymysql.MySQLError):
            return False
        return True

    async def execute(self, statement: str) -> int:
        """Run a statement that returns no rows; return how many it changed."""
        changed: int = await self._connection.query(statement)  # a cursor would only cost
        self._used = monotonic()
        return changed

    async def query(self, statement: str) -> list[Row]:
        """Run a query; return its rows."""
        async with self._connection.cursor() as cursor:
            await cursor.execute(statement)
            rows: list[Row] = list(await cursor.fetchall())
        return rows

    async def query_and_begin(self, statement: str) -> list[Row]:
        """Run a query, and begin a transaction after it, in one round trip; return the query's rows."""
        async with self._connection.cursor() as cursor:
            await cursor.execute(f"{statement};START TRANSACTION")  # aiomysql asks for CLIENT_MULTI_STATEMENTS
            rows: list[Row] = list(await cursor.fetchall())
            if not await cursor.nextset():
                raise pymysql.InternalError("the server did not begin a transaction")
        self._used = monotonic()
        return rows

    def close(self) -> None:
        """Cut the connection at once: what was not committed never will be."""
        self._connection.close()
