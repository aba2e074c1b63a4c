"""A client comes back with a token: does `recent` hold what it may have missed? If not, it is read once for all.

That is so after this bridge was started: what another published, or itself before, is in the tables alone.
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import datetime
from typing import Final, NamedTuple

from bridge_ws import rows
from bridge_ws.cursor import OVERLAP, RowKey
from bridge_ws.database import UNAVAILABLE, Database, connect, describe
from bridge_ws.feed import LiveFeed
from bridge_ws.protocol import Encoded, encode_sample
from bridge_ws.reading import Reader
from bridge_ws.recent import Published, Recent, is_too_old
from ingest.contract.wire import Feed
from latido import logs
from latido.settings import Dsn

log = logs.get(__name__)

MAX_ROWS: Final = 200_000
"""Of one feed; 330 hosts at one sample a second for as long as a token lasts, and twice that."""
TRIES: Final = 3


class _Past(NamedTuple):
    feed: Feed
    row: RowKey
    received_at: datetime
    frame: Encoded


class Resumption:
    """What makes `recent` reach back as far as a token needs."""

    def __init__(
        self, dsn: Dsn, context: ssl.SSLContext | None, reader: Reader, feed: LiveFeed, recent: Recent
    ) -> None:
        self._dsn, self._context = dsn, context
        self._reader, self._feed, self._recent = reader, feed, recent
        self._lock = asyncio.Lock()

    async def prepare(self, token: datetime) -> bool:
        """Return whether a client can go on from its token; if not, it starts anew after a gap."""
        now = self._feed.position
        if now is None or is_too_old(token, now):
            return False
        async with self._lock:  # the first reads, the others find it there
            for _ in range(TRIES):
                if self._recent.position(token) is not None:
                    return True
                try:
                    if not await self._extend(token - OVERLAP):
                        return False
                except UNAVAILABLE as error:
                    log.warning("a client cannot resume: the database is away", reason=describe(error))
                    return False
        return False

    async def _extend(self, since: datetime) -> bool:
        """Read what was received since a moment and is not there; return False where that is too much to keep."""
        before = self._recent.since
        async with connect(self._dsn, self._context) as database:
            keys = await self._keys(database, since)
            if keys is None:
                log.warning("a client cannot resume: more was stored since than --bridge.resume-buffer holds")
                return False
            past = [one for feed in Feed for one in await self._read(database, feed, keys[feed])]
        # No await from here on: what the feed has published does not change.
        if self._recent.since != before:
            return True  # it began anew, or had to drop: look again
        present = {
            (published.frame.key, published.frame.seq)
            for published in map(self._recent.__getitem__, range(self._recent.first, self._recent.end))
        }
        missing = [
            one
            for one in past
            if (one.frame.key, one.frame.seq) not in present
            and not self._feed.will_publish(one.feed, one.row, one.received_at)
        ]
        try:
            self._recent.prepend(since, _in_order(missing))
        except ValueError:
            log.warning("a client cannot resume: more was stored since than --bridge.resume-buffer holds")
            return False
        log.info("read what clients that resume have missed", since=since.isoformat(), samples=len(missing))
        return True

    async def _keys(self, database: Database, since: datetime) -> dict[Feed, list[RowKey]] | None:
        keys: dict[Feed, list[RowKey]] = {}
        size = 0
        for feed in Feed:
            found = await database.rows(rows.RECEIVED_WEIGHED[feed], [since, MAX_ROWS])
            size += sum(int(str(row[4])) for row in found)
            if len(found) == MAX_ROWS or size > self._recent.limit:
                return None
            keys[feed] = sorted((rows.row_key(row) for row in found), key=lambda key: (key.host_id, key.seq))
        return keys

    async def _read(self, database: Database, feed: Feed, keys: list[RowKey]) -> list[_Past]:
        hosts = await self._reader.hosts(database, keys)
        return [
            _Past(
                feed,
                stored.row,
                stored.received_at,
                encode_sample(hosts[stored.row.host_id].key(feed), stored.sample, stored.api, late=False),
            )
            async for stored in self._reader.load(database, feed, [key for key in keys if key.host_id in hosts])
        ]


def _in_order(past: list[_Past]) -> list[Published]:
    """Return samples by when they were received, but each stream's ascending by `seq`, as they come here."""
    latest: dict[object, datetime] = {}
    published = []
    for one in past:
        at = latest[one.frame.key] = max(one.received_at, latest.get(one.frame.key, one.received_at))
        published.append(Published(at, one.received_at, one.frame))
    return sorted(published, key=lambda one: one.at)  # stable
