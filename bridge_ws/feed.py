"""The cursor over MySQL: polls the three tables, keeps what is newest, and publishes every sample once.

It starts before the database, outlives it, and says when it is away. Which rows are new is `cursor`'s to know, what
they mean `live`'s, who gets them `hub`'s; here they are read in the right order.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from bridge_ws import rows
from bridge_ws.cursor import Cursor, RowKey
from bridge_ws.database import UNAVAILABLE, Database, connect, describe
from bridge_ws.hub import Hub
from bridge_ws.live import Live, Outcome
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import ErrorCode, Key, Resume, encode, encode_sample, resume_token
from bridge_ws.reading import Reader
from bridge_ws.recent import Recent
from bridge_ws.rows import Stored
from bridge_ws.tables import ProcessTable
from ingest.contract.wire import Feed
from latido import logs
from latido.settings import Dsn

log = logs.get(__name__)

BACKOFF_SECONDS: Final = (0.2, 5.0)
"""First and longest pause between two tries to connect (full jitter)."""
NARROW: Final = timedelta(seconds=1)
"""How far before the previous poll most polls look: transactions commit within milliseconds."""
WIDE_SECONDS: Final = 1.0
"""Every so often a poll looks back by the whole `OVERLAP`, for what committed later."""
QUICK_SECONDS: Final = 10.0
"""Polls stay quick for so long after the last sample: twice the interval at which exporters push by default."""
RESUME_SECONDS: Final = 1.0
"""The least time between two resume tokens."""


class Pace:
    """How long to pause between polls: quick while samples come, then longer each time, up to `idle`. Seconds. Pure."""

    def __init__(self, quick: float, idle: float) -> None:
        self._quick, self._idle = quick, max(quick, idle)
        self._pause = quick
        self._last: float | None = None

    def next(self, now: float, *, found: bool) -> float:
        """Return the pause after a poll of moment `now` that did or did not find a sample."""
        if found or self._last is None:
            self._last = now
        self._pause = self._quick if now - self._last < QUICK_SECONDS else min(self._idle, 2 * self._pause)
        return self._pause


class LiveFeed:
    """What keeps `live` and every client of `hub` at the database's newest."""

    def __init__(  # noqa: PLR0917 - the parts it joins, in the order of the way
        self,
        dsn: Dsn,
        context: ssl.SSLContext | None,
        live: Live,
        hub: Hub,
        recent: Recent,
        metrics: Metrics,
        *,
        poll_interval: float,
        idle_interval: float,
        host_timeout: float,
    ) -> None:
        self._dsn, self._context = dsn, context
        self._live, self._hub, self._recent, self._metrics = live, hub, recent, metrics
        self._reader = Reader(metrics)
        self._pace = Pace(poll_interval, idle_interval)
        self._host_timeout = timedelta(seconds=host_timeout)
        self._cursor: Cursor | None = None
        self._polled: datetime | None = None
        self._position: datetime | None = None
        self._wide_due = 0.0
        self._resume_due = 0.0
        self._unannounced = False  # samples were sent since the last resume token
        self._stale: dict[Key, int] = {}  # streams whose table must be rebuilt, and their host_id
        self._reason: str | None = "the database was not reached yet"
        self._announced: str | None = None

    @property
    def position(self) -> datetime | None:
        """Up to where, by the database's clock, all that had committed was published; None before the start."""
        return self._position

    @property
    def not_ready(self) -> str | None:
        """Why the feed does not follow the database now; None when it does."""
        return self._reason

    async def run(self) -> None:
        """Follow the database until cancelled."""
        attempt = 0
        while True:
            try:
                async with connect(self._dsn, self._context) as database:
                    while True:
                        found = await self._poll(database)
                        self._up()
                        attempt = 0
                        await asyncio.sleep(self._pace.next(time.monotonic(), found=found))
            except UNAVAILABLE as error:
                self._away(describe(error))
            except Exception as error:
                # A defect must not end the feed: it is logged with its trace, shown by /-/ready, and tried again.
                log.exception("the feed failed", error=repr(error))
                self._away("a defect; see the log")
            first, longest = BACKOFF_SECONDS
            await asyncio.sleep(random.uniform(0, min(longest, first * 2**attempt)))  # noqa: S311 - jitter
            attempt = min(attempt + 1, 10)

    def _up(self) -> None:
        if self._reason is not None:
            self._reason = self._announced = None
            self._metrics.database_up.set(1)
            log.info("following the database", dsn=str(self._dsn), hosts=len(self._live.hosts()))

    def _away(self, reason: str) -> None:
        was_up = self._reason is None
        self._reason = reason
        self._metrics.database_up.set(0)
        if reason != self._announced:
            self._announced = reason
            log.warning("the database is away", dsn=str(self._dsn), reason=reason)
        if was_up:
            self._hub.publish_error(ErrorCode.DATABASE_UNAVAILABLE, "the bridge lost its database and tries again")

    # --- start and poll ---

    async def _poll(self, database: Database) -> bool:
        """Publish what is new; return whether there was any."""
        begin = time.perf_counter()
        cursor, polled = self._cursor, self._polled
        wide = cursor is None or polled is None or time.monotonic() >= self._wide_due
        if cursor is None or polled is None:
            now, found = rows.moment((await database.rows(rows.NOW))[0][0]), 0
            await self._start(database, now)
        else:
            since = cursor.start if wide else max(cursor.start, polled - NARROW)
            (_, _, at, _, _), *received = await database.rows(rows.POLL, [since] * len(Feed))
            now = rows.moment(at)
            if cursor.lost(now):
                found = 0
                await self._start(database, now)
            else:
                found = await self._publish_new(database, cursor, now, received)
                self._live.forget(now - self._host_timeout)
                if wide:
                    cursor.advance(now)
                    self._recent.forget(now)
        self._polled = now
        if wide:
            self._wide_due = time.monotonic() + WIDE_SECONDS
            self._advance(now)
        self._metrics.poll.observe(time.perf_counter() - begin)
        return found > 0

    def _advance(self, now: datetime) -> None:
        """End a poll that found all that had committed at `now`: there a client may resume."""
        self._position = now
        if self._unannounced and time.monotonic() >= self._resume_due:
            self._unannounced = False
            self._resume_due = time.monotonic() + RESUME_SECONDS
            self._hub.publish(encode(Resume(token=resume_token(now))))

    async def _start(self, database: Database, now: datetime) -> None:
        """Read the newest of every host, and mark as seen what it came from: both at one moment, so none is between."""
        cursor = Cursor(now)
        newest: list[tuple[Key, Stored, ProcessTable | None]] = []
        async with database.one_moment():
            for feed in Feed:
                for row in await database.rows(rows.RECEIVED[feed], [cursor.start]):
                    cursor.mark(feed, rows.row_key(row), rows.moment(row[3]))
                since = now - self._host_timeout
                keys = [rows.row_key(row) for row in await database.rows(rows.NEWEST[feed], [since, since])]
                hosts = await self._reader.hosts(database, keys)
                keys = [key for key in keys if key.host_id in hosts]
                async for stored in self._reader.load(database, feed, keys):
                    table = None
                    if feed is Feed.PROCESOS:
                        table = await self._reader.table(database, stored.row.host_id, stored.sample.seq)
                    newest.append((hosts[stored.row.host_id].key(feed), stored, table))
        missed = self._cursor is not None
        if missed:
            log.warning("clients start anew: the database was away for too long, or its clock was set back")
        self._live.clear()
        self._stale.clear()
        for key, stored, table in newest:
            self._live.apply(key, stored.sample, stored.api, stored.received_at)
            if key.feed is Feed.PROCESOS:
                self._live.set_table(key, table)
        self._cursor = cursor
        self._recent.start(now)
        self._hub.publish_restart(missed=missed)

    async def _publish_new(
        self, database: Database, cursor: Cursor, now: datetime, received: Sequence[rows.Row]
    ) -> int:
        new: dict[Feed, dict[RowKey, datetime]] = {feed: {} for feed in Feed}
        for word, *row in received:
            feed, row_key = Feed(str(word)), rows.row_key(row)
            if cursor.is_new(feed, row_key):
                new[feed][row_key] = rows.moment(row[3])
        for feed, keys in new.items():
            if keys:
                await self._publish_feed(database, feed, cursor, now, keys)
        return sum(len(keys) for keys in new.values())

    async def _publish_feed(
        self, database: Database, feed: Feed, cursor: Cursor, now: datetime, received: dict[RowKey, datetime]
    ) -> None:
        hosts = await self._reader.hosts(database, received)
        # A stream's samples ascend; what the clock of its host says does not matter.
        known = (key for key in received if key.host_id in hosts)
        ascending = sorted(known, key=lambda key: (key.host_id, key.seq))
        async for stored in self._reader.load(database, feed, ascending):
            key = hosts[stored.row.host_id].key(feed)
            if key in self._stale and stored.sample.seq > self._live.newest_seq(key):
                await self._refresh(database, key)  # the table is exact before it goes on
            # No await from here to the mark: a sample that was published is never read again.
            self._take(key, stored, now)
            cursor.mark(feed, stored.row, stored.received_at)
        for row_key, at in received.items():
            cursor.mark(feed, row_key, at)  # also those of no host, and those that did not match the contract: logged
        for key in list(self._stale):
            await self._refresh(database, key)

    def _take(self, key: Key, stored: Stored, now: datetime) -> None:
        outcome = self._live.apply(key, stored.sample, stored.api, stored.received_at)
        if outcome in {Outcome.LATE_IN_TABLE, Outcome.UNKNOWN_BEFORE}:
            self._stale[key] = stored.row.host_id
        late = outcome in {Outcome.LATE, Outcome.LATE_IN_TABLE}
        self._metrics.samples.labels(key.feed, "true" if late else "false").inc()
        if not late:
            self._metrics.sample_age.labels(key.feed).observe(max(0.0, (now - stored.row.sampled_at).total_seconds()))
        frame = encode_sample(key, stored.sample, stored.api, late=late)
        self._recent.append(now, stored.received_at, frame)
        self._unannounced = True
        self._hub.publish(frame)

    def will_publish(self, feed: Feed, row: RowKey, received_at: datetime) -> bool:
        """Whether a row that is in the tables now was not published yet, and will be."""
        cursor = self._cursor
        return cursor is not None and received_at >= cursor.start and cursor.is_new(feed, row)

    async def _refresh(self, database: Database, key: Key) -> None:
        """Rebuild a stream's table, up to the newest sample that was published: once for a run of late ones."""
        table = await self._reader.table(database, self._stale[key], self._live.newest_seq(key))
        self._live.set_table(key, table)
        del self._stale[key]
        self._metrics.rebuilds.inc()
        self._hub.publish_snapshot(key)
