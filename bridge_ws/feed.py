"""The cursor over MySQL: polls the three tables, keeps what is newest, and publishes every sample once.

It starts before the database, outlives it, and says when it is away. Which rows are new is `cursor`'s to know, what
they mean `live`'s, who gets them `hub`'s; here they are read in the right order.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from typing import Final

from bridge_ws import rows
from bridge_ws.cursor import Cursor, RowKey
from bridge_ws.database import UNAVAILABLE, Database, connect
from bridge_ws.hub import Hub
from bridge_ws.live import Live, Outcome
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import ErrorCode, Key, encode_sample
from bridge_ws.rows import Cell, RowError, Stored
from bridge_ws.tables import ProcessTable, rebuild
from ingest.contract.wire import Feed, ProcesosSample, Process
from latido import logs
from latido.settings import Dsn

log = logs.get(__name__)

CHUNK: Final[dict[Feed, int]] = {Feed.RAM: 200, Feed.CPU: 50, Feed.PROCESOS: 20}
"""Samples read by one statement: a few MiB at most but for the largest tables."""
MAX_HOST_NAMES: Final = 10_000
"""Names of hosts that are kept; beyond, they are read again."""
BACKOFF_SECONDS: Final = (0.2, 5.0)
"""First and longest pause between two tries to connect (full jitter)."""


class LiveFeed:
    """What keeps `live` and every client of `hub` at the database's newest."""

    def __init__(
        self,
        dsn: Dsn,
        context: ssl.SSLContext | None,
        live: Live,
        hub: Hub,
        metrics: Metrics,
        *,
        poll_interval: float,
        host_timeout: float,
    ) -> None:
        self._dsn, self._context = dsn, context
        self._live, self._hub, self._metrics = live, hub, metrics
        self._poll_interval = poll_interval
        self._host_timeout = timedelta(seconds=host_timeout)
        self._cursor: Cursor | None = None
        self._hosts: dict[int, tuple[str, str]] = {}
        self._stale: dict[Key, int] = {}  # streams whose table must be rebuilt, and their host_id
        self._reason: str | None = "the database was not reached yet"
        self._announced: str | None = None

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
                        await self._poll(database)
                        self._up()
                        attempt = 0
                        await asyncio.sleep(self._poll_interval)
            except UNAVAILABLE as error:
                self._away(_describe(error))
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

    async def _poll(self, database: Database) -> None:
        begin = time.perf_counter()
        now = rows.moment((await database.rows(rows.NOW))[0][0])
        cursor = self._cursor
        if cursor is None or cursor.lost(now):
            await self._start(database, now)
        else:
            for feed in Feed:
                await self._poll_feed(database, feed, cursor, now)
            cursor.advance(now)
            self._live.forget(now - self._host_timeout)
        self._metrics.poll.observe(time.perf_counter() - begin)

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
                await self._learn_hosts(database, keys)
                async for stored in self._load(database, feed, keys):
                    table = None
                    if feed is Feed.PROCESOS:
                        table = await self._table(database, stored.row.host_id, stored.sample.seq)
                    newest.append((self._key(feed, stored.row), stored, table))
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
        self._hub.publish_restart(missed=missed)

    async def _poll_feed(self, database: Database, feed: Feed, cursor: Cursor, now: datetime) -> None:
        received: dict[RowKey, datetime] = {}
        for row in await database.rows(rows.RECEIVED[feed], [cursor.start]):
            row_key = rows.row_key(row)
            if cursor.is_new(feed, row_key):
                received[row_key] = rows.moment(row[3])
        if not received:
            return
        await self._learn_hosts(database, received)
        # A stream's samples ascend; what the clock of its host says does not matter.
        ascending = sorted(received, key=lambda key: (key.host_id, key.seq))
        async for stored in self._load(database, feed, ascending):
            key = self._key(feed, stored.row)
            if key in self._stale and stored.sample.seq > self._live.newest_seq(key):
                await self._refresh(database, key)  # the table is exact before it goes on
            # No await from here to the mark: a sample that was published is never read again.
            self._take(key, stored, now)
            cursor.mark(feed, stored.row, stored.received_at)
        for row_key, at in received.items():
            cursor.mark(feed, row_key, at)  # those that did not match the contract, too: they were logged
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
        self._hub.publish(encode_sample(key, stored.sample, stored.api, late=late))

    async def _refresh(self, database: Database, key: Key) -> None:
        """Rebuild a stream's table, up to the newest sample that was published: once for a run of late ones."""
        table = await self._table(database, self._stale[key], self._live.newest_seq(key))
        self._live.set_table(key, table)
        del self._stale[key]
        self._metrics.rebuilds.inc()
        self._hub.publish_snapshot(key)

    # --- reading ---

    async def _table(self, database: Database, host_id: int, newest_seq: int) -> ProcessTable | None:
        """Return a stream's process table at `newest_seq`, from the last keyframe up to it; None without a keyframe."""
        last = await database.rows(rows.LAST_KEYFRAME, [host_id, newest_seq])
        if not last:
            return None
        sampled_at, keyframe_seq = last[0]
        arguments: list[Cell] = [host_id, keyframe_seq, newest_seq, sampled_at]
        keys = [rows.row_key(row) for row in await database.rows(rows.SINCE_KEYFRAME, arguments)]
        samples = [stored.sample async for stored in self._load(database, Feed.PROCESOS, keys)]
        return rebuild(sample for sample in samples if isinstance(sample, ProcesosSample))

    async def _load(self, database: Database, feed: Feed, keys: Sequence[RowKey]) -> AsyncIterator[Stored]:
        """Yield the samples of some keys in their order; what does not match the contract is logged and left out."""
        for start in range(0, len(keys), CHUNK[feed]):
            chunk = keys[start : start + CHUNK[feed]]
            found = {
                rows.sample_key(feed, row): row
                for row in await database.rows(rows.select_samples(feed, len(chunk)), rows.key_arguments(chunk))
            }
            processes = await self._load_processes(database, chunk) if feed is Feed.PROCESOS else {}
            for key in chunk:
                if key not in found:
                    continue  # retention dropped its partition since its key was read
                try:
                    yield rows.to_stored(feed, found[key], *processes.get(key, ((), ())))
                except RowError as error:
                    self._report(feed, key, error)

    async def _load_processes(
        self, database: Database, keys: Sequence[RowKey]
    ) -> dict[RowKey, tuple[list[Process], list[Process]]]:
        result: dict[RowKey, tuple[list[Process], list[Process]]] = {key: ([], []) for key in keys}
        for day, of_day in rows.by_day(keys).items():
            statement = rows.select_processes(len(of_day))
            for row in await database.rows(statement, [day, *rows.key_arguments(of_day)]):
                try:
                    key, exited, process = rows.to_process(row)
                except RowError as error:
                    self._report(Feed.PROCESOS, rows.row_key(row), error)
                else:
                    result[key][exited].append(process)
        return result

    def _report(self, feed: Feed, key: RowKey, error: RowError) -> None:
        self._metrics.invalid.labels(feed).inc()
        log.warning("a row does not match the contract", feed=feed, host_id=key.host_id, seq=key.seq, reason=str(error))

    async def _learn_hosts(self, database: Database, keys: Sequence[RowKey] | dict[RowKey, datetime]) -> None:
        if len(self._hosts) > MAX_HOST_NAMES:
            self._hosts.clear()
        unknown: list[Cell] = list({key.host_id for key in keys} - self._hosts.keys())
        if unknown:
            statement = rows.HOSTS.format(ids=", ".join(["%s"] * len(unknown)))
            for host_id, name, stream in await database.rows(statement, unknown):
                if isinstance(host_id, int):
                    self._hosts[host_id] = str(name), str(stream)

    def _key(self, feed: Feed, row: RowKey) -> Key:
        name, stream = self._hosts[row.host_id]
        return Key(feed, name, stream)


def _describe(error: BaseException) -> str:
    # MySQL's errors are (code, message): the message names the user and the server's address, never the password.
    return " ".join(str(part) for part in error.args) or type(error).__name__
