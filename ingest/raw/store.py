"""Pushes into MySQL: what arrives while a transaction runs shares the next one, each is answered after that commit.

A few writers own a connection each. A writer takes what waits, resolves the hosts, and in one transaction inserts the
samples, reads back which of them it won (`batch_id`), and inserts the processes of those. A deadlock or a lock that
takes too long is tried again; an error that a batch's content causes is narrowed down to the push that causes it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from time import monotonic, perf_counter
from typing import Final

import pymysql

from ingest import serving
from ingest.contract import limits
from ingest.contract.metrics import Metrics
from ingest.contract.problems import Problem, ProblemType, pointer
from ingest.contract.wire import Accepted, Feed, ProcesosPush, Push
from ingest.raw import mysql, statements
from ingest.raw.mysql import Connection
from ingest.raw.names import Names, News
from ingest.raw.statements import Placed, ProcessRows
from ingest.schema import partitions
from latido import logs
from latido.settings import Dsn

log = logs.get(__name__)

RETRY_AFTER_SECONDS: Final = 2
TRIES: Final = 5
"""Of a transaction that met a deadlock or a long lock."""
STATEMENTS_SECONDS: Final = limits.TRANSACTION_SECONDS - 2.0
"""A transaction that has not got to its commit by then is given up; the rest is for the commit."""
BATCH_PUSHES: Final = 128
BATCH_PROCESSES: Final = 50_000
"""A batch takes no further push beyond this: it must end within `STATEMENTS_SECONDS`."""
MAX_KNOWN_HOSTS: Final = 100_000
READER_SECONDS: Final = 4.0
BOUNDS_SECONDS: Final = 60.0

Key = tuple[int, int, int]
HostKey = tuple[str, str]
HostRow = tuple[int, str, str]
"""Id, boot and kernel."""


@dataclass(slots=True)
class _Item:
    feed: Feed
    push: Push
    answer: asyncio.Future[Accepted]
    batch_id: int
    since: float

    @property
    def processes(self) -> int:
        push = self.push
        if not isinstance(push, ProcesosPush):
            return 0
        return sum(len(sample.processes) + len(sample.exited) for sample in push.samples)


class Store:
    """The way into the database. `start` in a running loop, `close` at the end."""

    def __init__(self, dsn: Dsn, metrics: Metrics, *, writers: int) -> None:
        self._dsn = dsn
        self._metrics = metrics
        self._waiting: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self._batch_ids = random.Random(secrets.randbits(256))  # noqa: S311 - they need to differ, not to be secret
        self._writer_count = writers
        metrics.pool(writers)
        self._writers: list[asyncio.Task[None]] = []
        self._reader = _Reader(dsn)
        self._names = Names()
        self._hosts: dict[HostKey, HostRow] = {}
        self._bounds: Mapping[Feed, tuple[int, int]] = {}
        self._bounds_read = -BOUNDS_SECONDS
        self._bounds_lock = asyncio.Lock()
        self._away = False

    def start(self) -> None:
        """Start the writers; they connect when there is something to write."""
        self._writers = [asyncio.create_task(self._write()) for _ in range(self._writer_count)]

    async def close(self) -> None:
        """End the writers and cut the connections. Whoever still waits is answered UNAVAILABLE."""
        for writer in self._writers:
            writer.cancel()
        await asyncio.gather(*self._writers, return_exceptions=True)
        while self._waiting:
            _fail(self._waiting.popleft(), _unavailable("the API is stopping"))
        self._reader.close()

    async def ping(self) -> None:
        """Return when the database answers and has its tables. Raises Problem (UNAVAILABLE)."""
        if not await self._read_bounds():
            raise _unavailable("the database has no tables yet; `latido db upgrade` makes them")

    async def store(self, feed: Feed, push: Push) -> Accepted:
        """Store a push and return after the commit. Raises Problem: OUTSIDE_PARTITIONS, UNAVAILABLE or INTERNAL."""
        # Nearly every push passes here, and needs no coroutine for it.
        if monotonic() - self._bounds_read > BOUNDS_SECONDS or self._first_outside(feed, push) is not None:
            await self._check_bounds(feed, push)
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(feed, push, answer, self._batch_ids.getrandbits(63), perf_counter()))
        self._arrived.set()
        accepted: Accepted = await answer
        return accepted

    # --- partitions ---

    async def _check_bounds(self, feed: Feed, push: Push) -> None:
        if monotonic() - self._bounds_read > BOUNDS_SECONDS:
            await self._refresh_bounds()
        if self._first_outside(feed, push) is None:
            return
        await self._refresh_bounds()  # before a refusal: a partition may have been made just now
        outside = self._first_outside(feed, push)
        if outside is not None:
            low, high = self._bounds[feed]
            raise Problem(
                ProblemType.OUTSIDE_PARTITIONS,
                f"partitions hold times from {low} until before {high}",
                pointer("samples", outside, "sampled_at"),
            )

    def _first_outside(self, feed: Feed, push: Push) -> int | None:
        low, high = self._bounds.get(feed, (0, 0))
        samples: Sequence[statements.Sample] = push.samples
        for index, sample in enumerate(samples):
            if not low <= sample.sampled_at < high:
                return index
        return None

    async def _refresh_bounds(self) -> None:
        asked = monotonic()
        async with self._bounds_lock:
            if self._bounds_read > asked:  # whoever held the lock began after we asked
                return
            started = monotonic()
            bounds = await self._read_bounds()
            if not bounds:
                raise _unavailable("the database has no tables yet; `latido db upgrade` makes them")
            self._bounds, self._bounds_read = bounds, started

    async def _read_bounds(self) -> Mapping[Feed, tuple[int, int]]:
        rows = await self._reader.query(
            "SELECT table_name, partition_name FROM information_schema.partitions"
            " WHERE table_schema = DATABASE() AND partition_name IS NOT NULL"
        )
        return partitions.feed_bounds((str(table), str(partition)) for table, partition in rows)

    # --- writers ---

    async def _write(self) -> None:
        connection: Connection | None = None
        try:
            while True:
                batch = await self._take()
                try:
                    with self._metrics.connection():
                        connection = await self._write_batch(connection, batch)
                except Exception as error:  # a defect costs its batch, never the writer
                    problem = serving.without_memory(error)
                    if problem is None:
                        log.exception("a batch met a defect", pushes=len(batch))
                        problem = Problem(ProblemType.INTERNAL, "the log says more")
                    else:
                        log.error("there is no memory for a batch", pushes=len(batch))
                    for item in batch:
                        _fail(item, problem)
                    if connection is not None:
                        connection.close()
                        connection = None
                finally:
                    for item in batch:  # of a writer that is cancelled
                        if not item.answer.done():
                            _fail(item, _unavailable("the API is stopping"))
        finally:
            if connection is not None:
                connection.close()

    async def _take(self) -> list[_Item]:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        batch: list[_Item] = []
        processes = 0
        while self._waiting and len(batch) < BATCH_PUSHES and (not batch or processes < BATCH_PROCESSES):
            item = self._waiting.popleft()
            processes += item.processes
            batch.append(item)
        now = perf_counter()
        for item in batch:
            self._metrics.took("queue", now - item.since)
        return batch

    async def _write_batch(self, connection: Connection | None, batch: Sequence[_Item]) -> Connection | None:
        """Answer every item; return the connection if it is fit for another batch."""
        try:
            if connection is not None and not await connection.is_alive():
                self._forget()
                connection.close()
                connection = None
            if connection is None:
                connection = await Connection.open(self._dsn)
            answers = await self._try(connection, batch)
        except (*mysql.AWAY, pymysql.MySQLError) as error:
            if connection is not None:
                connection.close()
            self._forget()
            if mysql.is_content(error):
                return await self._narrow(batch, error)
            if mysql.code(error) == mysql.NO_PARTITION:
                # A partition was dropped after the check. Let the next check see it; the sender tries again.
                self._bounds_read = -BOUNDS_SECONDS
            self._now_away(mysql.reason(error))
            for item in batch:
                _fail(item, _unavailable("the database does not answer"))
            return None
        self._now_there()
        for item, answer in zip(batch, answers, strict=True):
            if not item.answer.done():
                item.answer.set_result(answer)
        return connection

    def _forget(self) -> None:
        """Forget what is stored: with a connection lost, the server may be another one, or have been restored."""
        self._names.forget()
        self._hosts.clear()

    def _now_away(self, reason: str) -> None:
        if not self._away:
            log.warning("the database does not take samples", reason=reason)
        self._away = True

    def _now_there(self) -> None:
        if self._away:
            log.info("the database takes samples again")
        self._away = False

    async def _narrow(self, batch: Sequence[_Item], error: BaseException) -> Connection | None:
        """Store the pushes of a batch one by one: the server refused something that one of them holds."""
        if len(batch) == 1:
            log.error("the server refuses a push that the contract allows", reason=mysql.reason(error))
            _fail(batch[0], Problem(ProblemType.INTERNAL, "the server refused a value; the log says which"))
            return None
        connection: Connection | None = None
        for item in batch:
            connection = await self._write_batch(connection, [item])
        return connection

    async def _try(self, connection: Connection, batch: Sequence[_Item]) -> list[Accepted]:
        for attempt in range(1, TRIES + 1):
            until = asyncio.get_running_loop().time() + STATEMENTS_SECONDS
            try:
                async with asyncio.timeout_at(until):
                    hosts = await _begin(connection, batch, self._hosts)
                return await self._transaction(connection, batch, hosts, until)
            except pymysql.MySQLError as error:
                if mysql.code(error) not in mysql.DEADLOCK or attempt == TRIES:
                    raise
                log.debug("a transaction met another one", reason=mysql.reason(error), attempt=attempt)
                await connection.execute("ROLLBACK")
            await asyncio.sleep(random.uniform(0.01, 0.1) * attempt)  # noqa: S311 - jitter, not a secret
        raise AssertionError("the last attempt returns or raises")

    async def _transaction(
        self, connection: Connection, batch: Sequence[_Item], hosts: Mapping[HostKey, int], until: float
    ) -> list[Accepted]:
        """Insert until the event loop's time `until`, and commit; the transaction has begun."""
        metrics = self._metrics
        rows: dict[str, int] = {}
        news = News()
        lost: set[tuple[Key, int]] = set()
        places = [_place(item, hosts) for item in batch]
        async with asyncio.timeout_at(until):
            with metrics.timed("insert"):
                for feed in Feed:
                    placed = [
                        sample
                        for item, samples in zip(batch, places, strict=True)
                        if item.feed is feed
                        for sample in samples
                    ]
                    if not placed:
                        continue
                    others = await _insert_samples(connection, feed, placed)
                    rows[feed.value] = len(placed) - len(others)
                    lost |= others
                    if feed is Feed.PROCESOS:
                        fresh = [item for item in placed if (item.key, item.batch_id) not in others]
                        processes = statements.process_rows(fresh, self._names)
                        rows |= await _insert_processes(connection, processes)
                        news = processes.news
        async with asyncio.timeout(limits.TRANSACTION_SECONDS - STATEMENTS_SECONDS):
            with metrics.timed("commit"):
                await connection.execute("COMMIT")
        self._names.learn(news)
        metrics.batch(len(batch))
        for table, count in rows.items():
            metrics.rows(table, count)
        answers = []
        for samples in places:
            accepted = len(samples)
            if lost:
                accepted -= sum((sample.key, sample.batch_id) in lost for sample in samples)
            answers.append(Accepted(accepted, len(samples) - accepted))
        for feed in {item.feed for item in batch}:
            own = [answer for item, answer in zip(batch, answers, strict=True) if item.feed is feed]
            metrics.stored(
                feed, accepted=sum(one.accepted for one in own), duplicates=sum(one.duplicates for one in own)
            )
        return answers


def _place(item: _Item, hosts: Mapping[HostKey, int]) -> list[Placed]:
    host_id = hosts[(item.push.host, item.push.stream)]
    return [Placed(host_id, item.batch_id, sample) for sample in item.push.samples]


async def _insert_samples(connection: Connection, feed: Feed, placed: Sequence[Placed]) -> set[tuple[Key, int]]:
    """Insert what is not there; return key and `batch_id` of samples under whose key another one's row stands."""
    inserted = 0
    for statement in statements.feed_rows(feed, placed):
        inserted += await connection.execute(statement)
    if inserted == len(placed):  # a row that was there counts 0 (MySQL 8.4, INSERT … ON DUPLICATE KEY UPDATE)
        return set()
    batches = {item.batch_id for item in placed}
    won: set[tuple[Key, int]] = set()
    for query in statements.winners(feed, placed):
        for row in await connection.query(query):
            host_id, sampled_at, seq, batch_id = row
            if not (
                isinstance(host_id, int)
                and isinstance(sampled_at, datetime)
                and isinstance(seq, int)
                and isinstance(batch_id, int)
            ):
                raise TypeError(f"expected (int, datetime, int, int), got {row}")
            if batch_id in batches:
                won.add(((host_id, statements.milliseconds(sampled_at), seq), batch_id))
    return {(item.key, item.batch_id) for item in placed} - won


async def _insert_processes(connection: Connection, rows: ProcessRows) -> dict[str, int]:
    for statement in rows.samples:
        await connection.execute(statement)
    for statement in rows.processes:
        await connection.execute(statement)
    return {"process_samples": rows.sample_count, "processes": rows.process_count}


async def _begin(
    connection: Connection, batch: Sequence[_Item], known: dict[HostKey, HostRow]
) -> Mapping[HostKey, int]:
    """Begin a transaction; return the ids of the hosts, having made rows for new ones and kept boot and kernel current.

    As a rule all are `known`, and whether they are still there is asked in the same round trip. What changes `hosts`
    commits by itself before: no transaction of samples holds a lock on that table.
    """
    wanted = {(item.push.host, item.push.stream): (item.push.boot_id, item.push.kernel) for item in batch}
    ids = {host: row[0] for host, values in wanted.items() if (row := known.get(host)) and row[1:] == values}
    if len(ids) == len(wanted):
        ((count,),) = await connection.query_and_begin(statements.host_count(ids.values()))
        if count == len(ids):
            return ids
        await connection.execute("ROLLBACK")
    found = _hosts(await connection.query(statements.host_query(wanted)))
    if _values(found) != wanted:
        found = await _change_hosts(connection, wanted, found)
    if len(known) > MAX_KNOWN_HOSTS:
        known.clear()
    known |= {host: (row[0], *wanted[host]) for host, row in found.items()}
    await connection.execute("START TRANSACTION")
    return {host: row[0] for host, row in found.items()}


def _values(hosts: Mapping[HostKey, HostRow]) -> dict[HostKey, tuple[str, str]]:
    return {host: (boot_id, kernel) for host, (_, boot_id, kernel) in hosts.items()}


async def _change_hosts(
    connection: Connection, wanted: Mapping[HostKey, tuple[str, str]], known: dict[HostKey, HostRow]
) -> dict[HostKey, HostRow]:
    new = [host for host in wanted if host not in known]
    if new:
        await connection.execute(statements.hosts((*host, *wanted[host]) for host in sorted(new)))
        known = _hosts(await connection.query(statements.host_query(wanted)))
    for host, (host_id, *values) in known.items():
        if tuple(values) != wanted[host]:
            await connection.execute(statements.host_update(host_id, *wanted[host]))
    return known


def _hosts(rows: Iterable[mysql.Row]) -> dict[HostKey, HostRow]:
    return {
        (str(name), str(stream)): (int(str(host_id)), str(boot_id), str(kernel))
        for host_id, name, stream, boot_id, kernel in rows
    }


class _Reader:
    """One connection for questions, opened when needed, asked by one task at a time."""

    def __init__(self, dsn: Dsn) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()

    async def query(self, query: str) -> list[mysql.Row]:
        """Run a query. Raises Problem (UNAVAILABLE)."""
        try:
            async with asyncio.timeout(READER_SECONDS), self._lock:
                if self._connection is not None:
                    # It may have gone since the last question: that one is asked again on a new one.
                    with suppress(*mysql.AWAY):
                        return await self._ask(self._connection, query)
                self._connection = await Connection.open(self._dsn)
                return await self._ask(self._connection, query)
        except (*mysql.AWAY, pymysql.MySQLError) as error:
            log.warning("the database does not answer", reason=mysql.reason(error))
            raise _unavailable("the database does not answer") from None

    async def _ask(self, connection: Connection, query: str) -> list[mysql.Row]:
        try:
            return await connection.query(query)
        except BaseException:
            connection.close()
            self._connection = None
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _fail(item: _Item, problem: Problem) -> None:
    if not item.answer.done():
        item.answer.set_exception(problem)


def _unavailable(detail: str) -> Problem:
    return Problem(ProblemType.UNAVAILABLE, detail, retry_after=RETRY_AFTER_SECONDS)
