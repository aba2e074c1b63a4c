"""What is stored of a host and feed of the last minutes, for one client: read and sent a piece at a time.

By connections of its own and a few at once, so that neither the feed nor another client waits for it; a piece is read
when the client has taken the one before it, so an answer costs one piece of memory however slow its client is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from bridge_ws import rows
from bridge_ws.cursor import RowKey
from bridge_ws.database import UNAVAILABLE, Database, connect, describe
from bridge_ws.hub import Client, Hub
from bridge_ws.live import Live
from bridge_ws.protocol import Api, Backfill, Error, ErrorCode, Key, ProtocolError, encode, encode_backfill, encode_body
from bridge_ws.reading import Reader
from latido import logs
from latido.settings import Dsn

log = logs.get(__name__)

AT_WORK: Final = 2
"""Answers at once, each with a connection of its own."""
MAX_WAITING: Final = 200
MAX_WAITING_EACH: Final = 8
"""Questions that wait: of the bridge and of one client; a page asks for the three feeds of a host at once."""
MAX_SAMPLES: Final = 3_600
"""Of one answer: an hour at one a second."""
MAX_BYTES: Final = 8 << 20
"""Of one answer, about: from there on the oldest are left out."""
PIECE_BYTES: Final = 128 << 10
MAX_STREAMS: Final = 32
"""Streams of one host name that are looked at, the newest: each wiped spool begins another."""
ANSWER_SECONDS: Final = 60.0
"""An answer that its client did not take in so long ends: others wait for its connection."""


class _Piece(NamedTuple):
    stream: str
    samples: list[tuple[bytes, Api]]


class _Weighed(NamedTuple):
    key: RowKey
    bytes: int


class Backfills:
    """Every question that waits or is being answered."""

    def __init__(self, dsn: Dsn, context: ssl.SSLContext | None, reader: Reader, live: Live, hub: Hub) -> None:
        self._dsn, self._context = dsn, context
        self._reader, self._live, self._hub = reader, live, hub
        self._slots = asyncio.Semaphore(AT_WORK)
        self._questions: dict[Client, deque[Backfill]] = {}
        self._tasks: dict[Client, asyncio.Task[None]] = {}

    def ask(self, client: Client, asked: Backfill) -> None:
        """Queue a question; the answers of one client come in turn. Raises ProtocolError (BUSY)."""
        waiting = self._questions.setdefault(client, deque())
        if len(waiting) >= MAX_WAITING_EACH or sum(map(len, self._questions.values())) >= MAX_WAITING:
            raise ProtocolError(ErrorCode.BUSY, f"too many backfills wait; {asked.feed} of {asked.host} was not taken")
        waiting.append(asked)
        if client not in self._tasks:
            self._tasks[client] = asyncio.create_task(self._work(client, waiting))

    def forget(self, client: Client) -> None:
        """Drop what a client that is gone has asked."""
        self._questions.pop(client, None)
        if (task := self._tasks.pop(client, None)) is not None:
            task.cancel()

    async def _work(self, client: Client, waiting: deque[Backfill]) -> None:
        try:
            while waiting:
                async with self._slots:
                    asked = waiting[0]
                    await self._answer(client, asked)
                    waiting.popleft()
        except Exception:
            log.exception("a backfill failed")
        finally:
            if self._tasks.get(client) is asyncio.current_task():
                del self._tasks[client], self._questions[client]

    async def _answer(self, client: Client, asked: Backfill) -> None:
        limit = asyncio.timeout(ANSWER_SECONDS)
        try:
            async with limit:
                await self._send(client, asked)
        except UNAVAILABLE as error:
            if limit.expired():
                detail = f"the backfill of {asked.feed} of {asked.host} took longer than {ANSWER_SECONDS:.0f} s"
                self._hub.send(client, encode(Error(code=ErrorCode.BUSY, detail=detail)))
                return
            reason = describe(error)
            log.warning("a backfill did not reach the database", host=asked.host, feed=asked.feed, reason=reason)
            detail = f"the backfill of {asked.feed} of {asked.host} did not reach the database"
            self._hub.send(client, encode(Error(code=ErrorCode.DATABASE_UNAVAILABLE, detail=detail)))

    async def _send(self, client: Client, asked: Backfill) -> None:
        held: _Piece | None = None
        truncated = False
        if client.subscription.may_see(asked.host):
            async with connect(self._dsn, self._context) as database:
                streams = await _streams(database, asked.host)
                chosen, truncated = await self._choose(database, asked, streams)
                async for piece in self._pieces(database, asked, streams, chosen):
                    if held is not None and not await self._send_one(client, asked, held, truncated=truncated):
                        return
                    held = piece
        await self._send_one(client, asked, held, truncated=truncated, last=True)

    async def _send_one(
        self, client: Client, asked: Backfill, piece: _Piece | None, *, truncated: bool, last: bool = False
    ) -> bool:
        if not await self._hub.drained(client):
            return False
        stream, samples = piece or (None, [])
        self._hub.send(client, encode_backfill(asked, stream, samples, truncated=truncated, last=last))
        return True

    async def _choose(
        self, database: Database, asked: Backfill, streams: dict[int, str]
    ) -> tuple[list[_Weighed], bool]:
        """Return the newest samples that fit an answer, each stream's in order, and whether older ones do not."""
        if not streams:
            return [], False
        now = rows.moment((await database.rows(rows.NOW))[0][0])
        statement = rows.select_window(asked.feed, len(streams), processes=asked.processes)
        found = await database.rows(statement, [*streams, self._since(asked, streams.values(), now), MAX_SAMPLES + 1])
        chosen: list[_Weighed] = []
        size = 0
        for row in found[:MAX_SAMPLES]:
            weight = int(str(row[3]))
            size += weight
            if size > MAX_BYTES and chosen:
                break
            chosen.append(_Weighed(rows.row_key(row), weight))
        first: dict[int, datetime] = {}
        for key, _ in chosen:
            first[key.host_id] = min(first.get(key.host_id, key.sampled_at), key.sampled_at)
        chosen.sort(key=lambda one: (first[one.key.host_id], one.key.host_id, one.key.seq))
        return chosen, len(chosen) < len(found)

    def _since(self, asked: Backfill, streams: Iterable[str], now: datetime) -> datetime:
        # A host whose clock is behind is asked by its own.
        newest = [self._live.sampled_at(Key(asked.feed, asked.host, stream)) for stream in streams]
        moments = [now, *(rows.from_milliseconds(at) for at in newest if at is not None)]
        return min(moments) - timedelta(minutes=asked.minutes)

    async def _pieces(
        self, database: Database, asked: Backfill, streams: dict[int, str], chosen: Sequence[_Weighed]
    ) -> AsyncIterator[_Piece]:
        start = 0
        while start < len(chosen):
            host_id, size, end = chosen[start].key.host_id, 0, start
            while end < len(chosen) and chosen[end].key.host_id == host_id and (size < PIECE_BYTES or end == start):
                size += chosen[end].bytes
                end += 1
            keys = [one.key for one in chosen[start:end]]
            start = end
            samples = [
                (encode_body(stored.sample), stored.api)
                async for stored in self._reader.load(database, asked.feed, keys, processes=asked.processes)
            ]
            if samples:
                yield _Piece(streams[host_id], samples)


async def _streams(database: Database, host: str) -> dict[int, str]:
    found = await database.rows(rows.STREAMS, [host, MAX_STREAMS])
    return {host_id: str(stream) for host_id, stream in found if isinstance(host_id, int)}
