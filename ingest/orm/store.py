"""Pushes into MySQL through one SQLModel session each.

Whoever inserts the row of a sample stores its processes in the same transaction; `batch_id`, read back, tells which
rows this request won. The transaction is bounded: each statement by the driver's timeouts, their sum by a deadline.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from operator import attrgetter
from typing import Final

import pymysql
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.dialects.mysql import Insert, insert
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlmodel import Session, col, func, select

from ingest.contract import limits
from ingest.contract.identity import identity
from ingest.contract.metrics import Metrics
from ingest.contract.problems import Problem, ProblemType, pointer
from ingest.contract.wire import Feed
from ingest.orm import models, schemas
from ingest.schema import partitions
from latido import logs
from latido.settings import Dsn

log = logs.get(__name__)

RETRY_AFTER_SECONDS: Final = 2
CONNECT_SECONDS: Final = 2
POOL_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 3
"""What the driver gives one statement."""
DEADLINE_SECONDS: Final = limits.TRANSACTION_SECONDS - STATEMENT_SECONDS - 0.5
"""No statement of a transaction, COMMIT included, starts later: it ends before limits.TRANSACTION_SECONDS."""
LOCK_SECONDS: Final = 1
"""A lock of a row, or of a table while a partition is dropped, is waited for this long."""
TRIES: Final = 5
"""Of a transaction that met a deadlock or a long lock."""
ROWS: Final = 1_000
"""In one statement."""
BOUNDS_SECONDS: Final = 60.0

DEADLOCK: Final = frozenset({1205, 1213})
NO_SUCH_TABLE: Final = 1146
NO_PARTITION: Final = 1526
CONTENT: Final = frozenset({1264, 1292, 1366, 1406, 1411, 3140, 4025})
"""A value that a column does not take, whichever class the driver raises for it."""

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - DATETIME has no zone; every connection speaks UTC

FeedTable = type[models.Ram] | type[models.Cpu] | type[models.Procesos]
Sample = schemas.RamSample | schemas.CpuSample | schemas.ProcesosSample
Row = dict[str, object]
SampleKey = tuple[datetime, int]


def connect(dsn: Dsn, *, connections: int) -> Engine:
    """Return an engine whose pool tries a connection before it hands it out. Connects nowhere yet."""
    connect_args: dict[str, object] = {
        "charset": "utf8mb4",
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": STATEMENT_SECONDS,
        "write_timeout": STATEMENT_SECONDS,
        "init_command": (
            "SET time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION',"
            f" innodb_lock_wait_timeout = {LOCK_SECONDS}, lock_wait_timeout = {LOCK_SECONDS}"
        ),
    }
    if dsn.ssl_ca is not None:
        connect_args["ssl_ca"] = dsn.ssl_ca
    return create_engine(
        URL.create("mysql+pymysql", dsn.user, dsn.password or None, dsn.host, dsn.port, dsn.database),
        isolation_level="READ COMMITTED",
        paramstyle="format",  # PyMySQL fills positions in more quickly than names
        pool_size=connections,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args=connect_args,
    )


class Bounds:
    """The times that the partitions hold, read again every minute and before every refusal."""

    def __init__(self) -> None:
        self._held: dict[Feed, tuple[int, int]] = {}
        self._read = -BOUNDS_SECONDS
        self._lock = threading.Lock()

    def check(self, session: Session, feed: Feed, push: schemas.Push) -> None:
        """Raise Problem (OUTSIDE_PARTITIONS) naming the first sample that no partition holds."""
        if time.monotonic() - self._read > BOUNDS_SECONDS:
            self.refresh(session)
        if self._first_outside(feed, push) is None:
            return
        self.refresh(session)
        outside = self._first_outside(feed, push)
        if outside is not None:
            low, high = self._held[feed]
            raise Problem(
                ProblemType.OUTSIDE_PARTITIONS,
                f"partitions hold times from {low} until before {high}",
                pointer("samples", outside, "sampled_at"),
            )

    def refresh(self, session: Session) -> None:
        """Read the partitions. Raises Problem (UNAVAILABLE) when there are no tables, DBAPIError."""
        asked = time.monotonic()
        with self._lock:
            if self._read > asked:  # whoever held the lock began after we asked
                return
            started = time.monotonic()
            rows = session.exec(
                select(models.Partition.TABLE_NAME, models.Partition.PARTITION_NAME).where(
                    col(models.Partition.TABLE_SCHEMA) == func.database(),
                    col(models.Partition.PARTITION_NAME).is_not(None),
                )
            ).all()
            session.rollback()
            held = partitions.feed_bounds((table, name or "") for table, name in rows)
            if not held:
                raise unavailable("the database has no tables yet; `latido db upgrade` makes them")
            self._held, self._read = held, started

    def forget(self) -> None:
        """Read anew at the next check."""
        self._read = -BOUNDS_SECONDS

    def _first_outside(self, feed: Feed, push: schemas.Push) -> int | None:
        low, high = self._held.get(feed, (0, 0))
        samples: Sequence[Sample] = push.samples
        for index, sample in enumerate(samples):
            if not low <= sample.sampled_at < high:
                return index
        return None


class Store:
    """Stores pushes; one of it serves every session."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._bounds = Bounds()
        self._away = False

    def ping(self, session: Session) -> None:
        """Return when the database answers and has its tables. Raises Problem (UNAVAILABLE)."""
        try:
            self._bounds.refresh(session)
        except (DBAPIError, PoolTimeoutError) as error:
            raise self._unavailable(error) from None

    def store(self, session: Session, feed: Feed, push: schemas.Push) -> schemas.Accepted:
        """Store a push and return after the commit. Raises Problem: OUTSIDE_PARTITIONS, UNAVAILABLE or INTERNAL."""
        try:
            with self._metrics.timed("queue"):
                session.connection()  # of the pool, tried before it is handed out
            with self._metrics.connection():
                self._bounds.check(session, feed, push)
                accepted = self._try(session, feed, push)
        except (DBAPIError, PoolTimeoutError) as error:
            if code(error) == NO_PARTITION:
                self._bounds.forget()  # a partition was dropped after the check: the sender tries again
            elif _is_content(error):
                log.error("the server refuses a push that the contract allows", reason=reason(error))
                raise Problem(ProblemType.INTERNAL, "the server refused a value; the log says which") from None
            raise self._unavailable(error) from None
        if self._away:
            self._away = False
            log.info("the database takes samples again")
        answer = schemas.Accepted(accepted=accepted, duplicates=len(push.samples) - accepted)
        self._metrics.stored(feed, accepted=answer.accepted, duplicates=answer.duplicates)
        return answer

    def _unavailable(self, error: DBAPIError | PoolTimeoutError) -> Problem:
        if not self._away:
            self._away = True
            log.warning("the database does not take samples", reason=reason(error))
        return unavailable("the database does not answer")

    def _try(self, session: Session, feed: Feed, push: schemas.Push) -> int:
        for attempt in range(1, TRIES + 1):
            try:
                host_id = _resolve_host(session, push)
                # Before the transaction: its time is the server's, and bounded.
                processes = _process_rows(host_id, push) if isinstance(push, schemas.ProcesosPush) else {}
                return _Transaction(session, self._metrics).store(feed, push, host_id, processes)
            except DBAPIError as error:
                session.rollback()
                if code(error) not in DEADLOCK or attempt == TRIES:
                    raise
                log.debug("a transaction met another one", reason=reason(error), attempt=attempt)
            time.sleep(random.uniform(0.01, 0.1) * attempt)  # noqa: S311 - jitter, not a secret
        raise AssertionError("the last attempt returns or raises")


@dataclass(frozen=True)
class _ProcessRows:
    """What a sample stores of its processes."""

    numbers: list[Row] = field(default_factory=list)
    names: dict[tuple[date, int, int, int], Row] = field(default_factory=dict)
    """By the primary key of `processes` without the host."""


class _Transaction:
    """One transaction with its deadline."""

    def __init__(self, session: Session, metrics: Metrics) -> None:
        self._session = session
        self._metrics = metrics
        self._deadline = time.monotonic() + DEADLINE_SECONDS
        self._rows: dict[str, int] = {}

    def store(self, feed: Feed, push: schemas.Push, host_id: int, processes: Mapping[SampleKey, _ProcessRows]) -> int:
        """Store the samples that are not there yet with their `processes`; return how many those were."""
        batch_id = secrets.randbits(63)
        with self._metrics.timed("insert"):
            won = self._insert_samples(feed, push, host_id, batch_id)
            if processes:
                self._insert_processes([processes[key] for key in sorted(won)])
        with self._metrics.timed("commit"):
            self._check_deadline()
            self._session.commit()
        self._metrics.batch(1)
        for table, count in self._rows.items():
            self._metrics.rows(table, count)
        return len(won)

    def _insert_samples(self, feed: Feed, push: schemas.Push, host_id: int, batch_id: int) -> set[tuple[datetime, int]]:
        table: FeedTable = _TABLES[feed]
        frame: Row = {"host_id": host_id, "api": "orm", "batch_id": batch_id}
        samples: Sequence[Sample] = push.samples
        rows = [frame | _sample_row(sample) for sample in sorted(samples, key=lambda s: (s.sampled_at, s.seq))]
        self._execute(insert(table).on_duplicate_key_update(seq=col(table.seq)), rows)
        self._check_deadline()
        stored = self._session.exec(
            select(table.sampled_at, table.seq).where(
                table.host_id == host_id,
                col(table.sampled_at).in_({moment(sample.sampled_at) for sample in push.samples}),
                table.batch_id == batch_id,
            )
        ).all()
        self._rows[feed.value] = len(stored)
        return set(stored)

    def _insert_processes(self, fresh: Sequence[_ProcessRows]) -> None:
        numbers = [row for rows in fresh for row in rows.numbers]
        names = {key: row for rows in reversed(fresh) for key, row in rows.names.items()}  # the first of each stays
        self._execute(insert(models.ProcessSample), numbers)
        # In the order of the primary key: two APIs that store the same processes lock them in the same order.
        ordered = [names[key] for key in sorted(names)]
        self._execute(insert(models.Process).on_duplicate_key_update(identity=col(models.Process.identity)), ordered)
        self._rows |= {"process_samples": len(numbers), "processes": len(ordered)}

    def _execute(self, statement: Insert, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), ROWS):
            self._check_deadline()
            self._session.connection().execute(statement, rows[start : start + ROWS])

    def _check_deadline(self) -> None:
        if time.monotonic() > self._deadline:
            self._session.rollback()
            raise unavailable("the transaction took too long and was rolled back")


def moment(milliseconds: int) -> datetime:
    """Return the DATETIME(3) of UTC milliseconds since the epoch."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def code(error: DBAPIError | PoolTimeoutError) -> int | None:
    """Return the number of a server's error."""
    original = error.orig if isinstance(error, DBAPIError) else None
    first = original.args[0] if original is not None and original.args else None
    return first if isinstance(first, int) else None


def reason(error: DBAPIError | PoolTimeoutError) -> str:
    """Return an error in words, without the statement and its values."""
    original: BaseException = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(original).__name__}: {' '.join(str(part) for part in original.args)}"[:500]


def unavailable(detail: str) -> Problem:
    """Return the problem of a database that is away."""
    return Problem(ProblemType.UNAVAILABLE, detail, retry_after=RETRY_AFTER_SECONDS)


def _is_content(error: DBAPIError | PoolTimeoutError) -> bool:
    original = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(original, (pymysql.DataError, pymysql.IntegrityError, pymysql.NotSupportedError)):
        return True
    if isinstance(original, pymysql.ProgrammingError):
        return code(error) != NO_SUCH_TABLE
    return code(error) in CONTENT


def _resolve_host(session: Session, push: schemas.Push) -> int:
    """Return the host's id, making its row and keeping boot and kernel current; committed by itself."""
    wanted = select(models.Host).where(models.Host.name == push.host, models.Host.stream == push.stream)
    host = session.exec(wanted).first()
    if host is None:
        values = {"name": push.host, "stream": push.stream, "boot_id": push.boot_id, "kernel": push.kernel}
        session.connection().execute(insert(models.Host).on_duplicate_key_update(name=col(models.Host.name)), values)
        session.commit()
        host = session.exec(wanted).one()
    if (host.boot_id, host.kernel) != (push.boot_id, push.kernel):
        host.boot_id, host.kernel = push.boot_id, push.kernel
        session.add(host)
    host_id = host.id
    session.commit()
    if host_id is None:
        raise TypeError("a stored host has an id")
    return host_id


def _sample_row(sample: Sample) -> Row:
    row: Row = {name: getattr(sample, name) for name in type(sample).model_fields if name not in _ARRAYS}
    row["sampled_at"] = moment(sample.sampled_at)
    if isinstance(sample, schemas.CpuSample):
        row["cores"] = [{name: getattr(core, name) for name in type(core).model_fields} for core in sample.cores]
    elif isinstance(sample, schemas.ProcesosSample):
        row["processes_carried"], row["exited_carried"] = len(sample.processes), len(sample.exited)
    return row


def _process_rows(host_id: int, push: schemas.ProcesosPush) -> dict[SampleKey, _ProcessRows]:
    """Return the rows of each sample's processes."""
    made: dict[SampleKey, _ProcessRows] = {}
    for sample in push.samples:
        at = moment(sample.sampled_at)
        day = at.date()
        rows = made[(at, sample.seq)] = _ProcessRows()
        frame: Row = {"host_id": host_id, "sampled_at": at, "seq": sample.seq}
        for exited, processes in ((False, sample.processes), (True, sample.exited)):
            for process in processes:
                number = identity(process.command, process.uid, process.cgroup, process.ppid)
                values = zip(_PROCESS_NUMBERS, _process_numbers(process), strict=True)
                rows.numbers.append({**frame, "exited": exited, "identity": number, **dict(values)})
                key = (day, process.pid, process.start_ticks, number)
                if key not in rows.names:
                    rows.names[key] = _process_row(host_id, at, process, number)
    return made


def _process_row(host_id: int, at: datetime, process: schemas.Process, number: int) -> Row:
    return {
        "host_id": host_id,
        "day": at.date(),
        "pid": process.pid,
        "start_ticks": process.start_ticks,
        "identity": number,
        "command": process.command,
        "uid": process.uid,
        "cgroup": process.cgroup,
        "ppid": process.ppid,
        "started_at": moment(process.started_at),
    }


_TABLES: Final[dict[Feed, FeedTable]] = {
    Feed.RAM: models.Ram,
    Feed.CPU: models.Cpu,
    Feed.PROCESOS: models.Procesos,
}
_ARRAYS: Final = frozenset({"cores", "processes", "exited"})
_PROCESS_NUMBERS: Final = tuple(
    name for name in schemas.Process.model_fields if name in models.ProcessSample.model_fields
)
_process_numbers: Final = attrgetter(*_PROCESS_NUMBERS)
