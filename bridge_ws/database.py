"""The bridge's one connection to MySQL: read only, in UTC, every statement bounded in time."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final, cast

import aiomysql
import pymysql

from bridge_ws.rows import Cell, Row
from latido.settings import Dsn

CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 30.0

UNAVAILABLE: Final = (pymysql.MySQLError, OSError, TimeoutError, EOFError)
"""What a database that is away, restarting or without our tables raises: try again later."""


def tls(dsn: Dsn) -> ssl.SSLContext | None:
    """Return the TLS context that `?ssl-ca=` asks for."""
    return None if dsn.ssl_ca is None else ssl.create_default_context(cafile=dsn.ssl_ca)


def describe(error: BaseException) -> str:
    """Return what an error says, in words. A time-out says nothing by itself."""
    # MySQL's errors are (code, message): the message names the user and the server's address, never the password.
    return " ".join(str(part) for part in error.args) or type(error).__name__


class Database:
    """An open connection."""

    def __init__(self, connection: aiomysql.Connection) -> None:
        self._connection = connection

    async def rows(self, statement: str, arguments: Sequence[Cell] = ()) -> list[Row]:
        """Return what a statement selects."""
        async with asyncio.timeout(STATEMENT_SECONDS), self._connection.cursor() as cursor:
            await cursor.execute(statement, tuple(arguments) or None)
            return cast(list[Row], list(await cursor.fetchall()))

    @asynccontextmanager
    async def one_moment(self) -> AsyncIterator[None]:
        """Read everything inside as it was when the block began (a consistent snapshot)."""
        await self.rows("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        yield
        await self.rows("COMMIT")


@asynccontextmanager
async def connect(dsn: Dsn, context: ssl.SSLContext | None) -> AsyncIterator[Database]:
    """Yield a connection; it is closed without a word to the server, which may be gone. Raises UNAVAILABLE."""
    # Not by connect_timeout: it is a wait_for, which in Python 3.11 drops a cancellation that comes with the answer.
    async with asyncio.timeout(CONNECT_SECONDS):
        connection = await aiomysql.connect(
            host=dsn.host,
            port=dsn.port,
            user=dsn.user,
            password=dsn.password,
            db=dsn.database,
            charset="utf8mb4",
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
            ssl=context,
        )
    try:
        database = Database(connection)
        # The default elsewhere may be READ COMMITTED, under which `one_moment` would be many.
        await database.rows("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield database
    finally:
        connection.close()
