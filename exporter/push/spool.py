"""The spool: samples wait in a SQLite file until every ingest API has acknowledged them or a bound pushes them out.

One file holds the stream's identity, the sequence numbers, the samples, each API's cursor, dead letters, and the
process table of the last sample, from which a restarted exporter computes its first deltas. What belongs together is
committed together, so that a crash leaves no sample without its baseline and no number used twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import msgspec

from exporter.push.payload import Row
from ingest.contract import wire
from ingest.contract.wire import Feed
from latido import logs

log = logs.get(__name__)

VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE samples (
    feed TEXT NOT NULL, seq INTEGER NOT NULL, sampled_at INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (feed, seq)
) WITHOUT ROWID;
CREATE INDEX samples_by_time ON samples (sampled_at, seq);
CREATE TABLE cursors (
    api TEXT NOT NULL, feed TEXT NOT NULL,
    backlog INTEGER NOT NULL, backlog_end INTEGER NOT NULL, live INTEGER NOT NULL,
    PRIMARY KEY (api, feed)
) WITHOUT ROWID;
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY, api TEXT NOT NULL, feed TEXT NOT NULL, seq INTEGER NOT NULL, sampled_at INTEGER NOT NULL,
    body BLOB NOT NULL, status INTEGER NOT NULL, problem TEXT NOT NULL, refused_at INTEGER NOT NULL
);
CREATE TABLE baseline (
    pid INTEGER NOT NULL, start_ticks INTEGER NOT NULL, command BLOB NOT NULL, process BLOB NOT NULL,
    PRIMARY KEY (pid, start_ticks)
) WITHOUT ROWID;
"""


# A destination has acknowledged all up to `backlog`, and all after `backlog_end` up to `live`. Usually there is no
# backlog and `backlog_end` is `backlog`'s equal or less; after an outage live samples go on from the newest, and the
# range between is the backlog, which drains beside them.
_ACKNOWLEDGED: Final = "(seq <= backlog OR (seq > backlog_end AND seq <= live))"
_DELIVERED: Final = f"""
feed = ?1 AND seq BETWEEN ?2 AND ?3
AND NOT EXISTS (SELECT 1 FROM cursors WHERE cursors.feed = samples.feed AND NOT {_ACKNOWLEDGED})
"""  # noqa: S608 - a constant


class SpoolError(Exception):
    """The spool cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Stored:
    """A sample in the spool: `body` is the JSON of its wire form."""

    seq: int
    sampled_at: int
    body: bytes


@dataclass(frozen=True)
class Refusal:
    """Why an API will never take a sample: the status, and its problem document as text."""

    status: int
    problem: str


@dataclass(frozen=True)
class Loss:
    """What a bound pushed out: by feed, how many samples, and how many of these no API had acknowledged."""

    dropped: dict[Feed, int]
    lost: dict[Feed, int]


_DROPPED: Final = "dropped"
_LOST: Final = "lost"


@dataclass(frozen=True)
class Depth:
    """How full the spool is. `pending` counts by (api, feed) what that API has not acknowledged."""

    bytes: int
    samples: int
    oldest_sampled_at: int | None
    pending: dict[tuple[str, Feed], int]
    dead_letters: int


class Spool:
    """The spool of one exporter, opened by one process at a time. Calls block on the disk: keep them off the loop.

    `stream` is the UUID made with the file; `apis` are the URLs pushed to. Raises SpoolError.
    """

    def __init__(self, path: Path, apis: Sequence[str]) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(path)
            self._db = _connect(path)
        except (OSError, sqlite3.Error) as error:
            raise SpoolError(f"{path}: cannot be opened: {error}; --spool.path names another place") from None
        try:
            try:
                self._begin(apis)
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self._db.close()
                _move_aside(path, error)
                self._db = _connect(path)
                self._begin(apis)
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise SpoolError(f"{path}: not a usable spool: {error}; move it aside to begin a new stream") from None
        except SpoolError:
            self.close()
            raise

    def _begin(self, apis: Sequence[str]) -> None:
        self._prepare()
        self.stream = self._get("stream")
        self._next = {feed: int(self._get(f"next_seq:{feed}")) for feed in Feed}
        self._bytes = int(self._one("SELECT COALESCE(SUM(LENGTH(body)), 0) FROM samples"))
        self._adopt(apis)

    def _prepare(self) -> None:
        # FULL: a number once sent must never be used again, not even after a power cut (it would look a duplicate).
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA journal_mode=WAL")
        version = int(self._one("PRAGMA user_version"))
        if version == 0:
            with self._transaction():
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._set("stream", str(uuid.uuid4()))
                for feed in Feed:
                    self._set(f"next_seq:{feed}", "1")
                self._db.execute(f"PRAGMA user_version={VERSION}")
        elif version != VERSION:
            raise SpoolError(f"{self.path}: written by another version of Latido (format {version}, ours is {VERSION})")

    def _adopt(self, apis: Sequence[str]) -> None:
        """Give each API a cursor; forget those no longer pushed to, for they would hold the spool for ever."""
        with self._transaction():
            marks = ",".join("?" * len(apis))
            self._db.execute(f"DELETE FROM cursors WHERE api NOT IN ({marks})", tuple(apis))  # noqa: S608 - only marks
            for api in apis:
                for feed in Feed:
                    self._db.execute(
                        "INSERT INTO cursors SELECT ?1, ?2, first, first, first"
                        " FROM (SELECT COALESCE(MIN(seq), ?3) - 1 AS first FROM samples WHERE feed = ?2) WHERE true"
                        " ON CONFLICT DO NOTHING",
                        (api, feed, self._next[feed]),
                    )

    def close(self) -> None:
        """Close the file and let another process have it."""
        self._db.close()
        self._lock.close()

    # --- writing samples ---

    def next_seq(self, feed: Feed) -> int:
        """Return the number that the feed's next sample must carry."""
        return self._next[feed]

    def put(
        self,
        ram: wire.RamSample | None,
        cpu: wire.CpuSample | None,
        procesos: wire.ProcesosSample | None,
        *,
        carried: Iterable[Row] = (),
        exited: Iterable[Row] = (),
        new_table: bool = False,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Keep samples, and with them the baseline that they leave behind, in one durable transaction.

        `carried` and `exited` are the rows of `procesos`; `new_table` discards the earlier baseline;
        `facts` are remembered with it.
        Raises sqlite3.Error (a full disk, say): then nothing is kept and no number is used up.
        """
        samples = [(feed, s) for feed, s in ((Feed.RAM, ram), (Feed.CPU, cpu), (Feed.PROCESOS, procesos)) if s]
        encoded = [
            (feed, sample.seq, sample.sampled_at, zlib.compress(msgspec.json.encode(sample), 1))
            for feed, sample in samples
        ]
        with self._transaction():
            self._db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?)", encoded)
            for feed, seq, _, _ in encoded:
                self._set(f"next_seq:{feed}", str(seq + 1))
            for name, value in (facts or {}).items():
                self._set(f"fact:{name}", value)
            if new_table:
                self._db.execute("DELETE FROM baseline")
            self._db.executemany(
                "DELETE FROM baseline WHERE pid = ? AND start_ticks = ?",
                [(row.process.pid, row.process.start_ticks) for row in exited],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO baseline VALUES (?, ?, ?, ?)",
                [
                    (row.process.pid, row.process.start_ticks, row.command, msgspec.msgpack.encode(row.process))
                    for row in carried
                ],
            )
        for feed, seq, _, body in encoded:
            self._next[feed] = seq + 1
            self._bytes += len(body)

    def baseline(self) -> list[Row]:
        """Return the process table of the last `procesos` sample; empty before the first."""
        rows = self._db.execute("SELECT command, process FROM baseline ORDER BY pid")
        return [Row(command, msgspec.msgpack.decode(process, type=wire.Process)) for command, process in rows]

    # --- facts of the stream that outlive a process ---

    def fact(self, name: str) -> str | None:
        """Return a fact that a `put` kept, or None."""
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (f"fact:{name}",)).fetchone()
        return None if row is None else str(row[0])

    # --- delivery ---

    def pending(self, api: str, feed: Feed, max_samples: int, max_bytes: int) -> list[Stored]:
        """Return the oldest live samples that the API has not acknowledged, at least one if there is any.

        `max_bytes` bounds their JSON.
        """
        return self._read("seq > live", api, feed, max_samples, max_bytes)

    def backlog(self, api: str, feed: Feed, max_samples: int, max_bytes: int) -> list[Stored]:
        """Return the oldest samples of the API's backlog; none if it has none."""
        return self._read("seq > backlog AND seq <= backlog_end", api, feed, max_samples, max_bytes)

    def _read(self, condition: str, api: str, feed: Feed, max_samples: int, max_bytes: int) -> list[Stored]:
        found: list[Stored] = []
        total = 0
        rows = self._db.execute(
            f"SELECT seq, sampled_at, body FROM cursors JOIN samples ON samples.feed = cursors.feed AND {condition}"  # noqa: S608 - both conditions stand above
            " WHERE api = ? AND cursors.feed = ? ORDER BY seq LIMIT ?",
            (api, feed, max_samples),
        )
        for seq, sampled_at, body in rows:
            stored = Stored(seq, sampled_at, zlib.decompress(body))
            total += len(stored.body)
            if found and total > max_bytes:
                break
            found.append(stored)
        return found

    def set_aside(self, api: str, feed: Feed, longest: int) -> int:
        """Make a backlog of what waits, but for the newest, if that is more than `longest`; return how many are in it.

        From then on `pending` yields the newest, and what is newer. A range that an earlier backlog's end and now lie
        on both sides of was acknowledged before and is sent again: the API answers `duplicates`.
        """
        live = int(self._one("SELECT live FROM cursors WHERE api = ? AND feed = ?", (api, feed)))
        waiting = int(self._one("SELECT COUNT(*) FROM samples WHERE feed = ? AND seq > ?", (feed, live)))
        if waiting <= longest:
            return 0
        end = self._next[feed] - 2
        with self._transaction():
            self._db.execute(
                "UPDATE cursors SET backlog = CASE WHEN backlog < backlog_end THEN backlog ELSE live END,"
                " backlog_end = ?1, live = ?1 WHERE api = ?2 AND feed = ?3",
                (end, api, feed),
            )
        return waiting - 1

    def acknowledge(self, api: str, feed: Feed, first: int, last: int) -> None:
        """Note that the API has stored the samples from `first` to `last`, as `pending` or `backlog` gave them.

        What every API has leaves the spool.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE cursors SET live = MAX(live, ?1) WHERE api = ?2 AND feed = ?3 AND ?1 > backlog_end",
                (last, api, feed),
            )
            self._db.execute(
                "UPDATE cursors SET backlog = MAX(backlog, ?1) WHERE api = ?2 AND feed = ?3 AND ?1 <= backlog_end",
                (last, api, feed),
            )
            self._delete(_DELIVERED, (feed, first, last))

    def bury(self, api: str, feed: Feed, stored: Stored, refusal: Refusal, now_ms: int) -> None:
        """Move a sample that the API refuses for what it holds to the dead letters, and go on behind it."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO dead_letters (api, feed, seq, sampled_at, body, status, problem, refused_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    api,
                    feed,
                    stored.seq,
                    stored.sampled_at,
                    zlib.compress(stored.body, 1),
                    refusal.status,
                    refusal.problem,
                    now_ms,
                ),
            )
        self.acknowledge(api, feed, stored.seq, stored.seq)

    def trim(self, max_bytes: int, oldest_ms: int) -> Loss:
        """Push out the oldest samples until the bodies fit in `max_bytes` and none was sampled before `oldest_ms`.

        The same transaction counts them, for `losses`: a crash between leaves no hole that nothing speaks of.
        """
        dropped: dict[Feed, int] = {}
        lost: dict[Feed, int] = {}
        with self._transaction():
            while self._bytes > max_bytes or self._oldest_before(oldest_ms):
                feed, seq = self._db.execute(
                    "SELECT feed, seq FROM samples ORDER BY sampled_at, seq LIMIT 1"
                ).fetchone()
                stored = self._one(
                    f"SELECT EXISTS (SELECT 1 FROM cursors, (SELECT ? AS seq) WHERE feed = ? AND {_ACKNOWLEDGED})",  # noqa: S608 - a constant
                    (seq, feed),
                )
                name = Feed(feed)
                dropped[name] = dropped.get(name, 0) + 1
                if not stored:
                    lost[name] = lost.get(name, 0) + 1
                self._delete("feed = ? AND seq = ?", (feed, seq))
            for kind, counts in ((_DROPPED, dropped), (_LOST, lost)):
                for name, count in counts.items():
                    self._set(f"{kind}:{name}", str(self._counted(kind, name) + count))
        return Loss(dropped, lost)

    def losses(self) -> Loss:
        """Return what bounds have pushed out since the stream began."""
        return Loss(
            {feed: self._counted(_DROPPED, feed) for feed in Feed}, {feed: self._counted(_LOST, feed) for feed in Feed}
        )

    def _counted(self, kind: str, feed: Feed) -> int:
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (f"{kind}:{feed}",)).fetchone()
        return 0 if row is None else int(row[0])

    def depth(self) -> Depth:
        """Return how full the spool is."""
        pending = {
            (str(api), Feed(feed)): int(count)
            for api, feed, count in self._db.execute(
                "SELECT api, cursors.feed, COUNT(seq) FROM cursors"
                " LEFT JOIN samples ON samples.feed = cursors.feed"
                " AND (seq > live OR (seq > backlog AND seq <= backlog_end))"
                " GROUP BY api, cursors.feed"
            )
        }
        count, oldest = self._db.execute("SELECT COUNT(*), MIN(sampled_at) FROM samples").fetchone()
        return Depth(self._bytes, count, oldest, pending, int(self._one("SELECT COUNT(*) FROM dead_letters")))

    # --- SQLite ---

    def _oldest_before(self, oldest_ms: int) -> bool:
        return bool(self._one("SELECT EXISTS (SELECT 1 FROM samples WHERE sampled_at < ?)", (oldest_ms,)))

    def _delete(self, condition: str, parameters: tuple[str | int, ...]) -> None:
        # RETURNING keeps the running sum true without a scan of what stays.
        rows = self._db.execute(f"DELETE FROM samples WHERE {condition} RETURNING LENGTH(body)", parameters)  # noqa: S608 - both conditions stand in this file
        self._bytes -= sum(int(length) for (length,) in rows.fetchall())

    def _one(self, query: str, parameters: tuple[str | int, ...] = ()) -> int | str:
        value: int | str = self._db.execute(query, parameters).fetchone()[0]
        return value

    def _get(self, name: str) -> str:
        return str(self._one("SELECT value FROM meta WHERE name = ?", (name,)))

    def _set(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        bytes_before = self._bytes if hasattr(self, "_bytes") else 0
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            self._bytes = bytes_before
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _lock(path: Path) -> IO[bytes]:
    """Hold the spool for this process; the lock ends with it, however it ends."""
    file = Path(f"{path}.lock").open("ab")  # noqa: SIM115 - held as long as the spool
    os.fchmod(file.fileno(), 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SpoolError(f"{path}: another exporter uses this spool; give each its own by --spool.path") from None
    return file


def _connect(path: Path) -> sqlite3.Connection:
    # Commands and users of every process are in it: its owner's alone (SQLite gives the WAL the same mode).
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Whether the file's content is at fault, rather than the disk, a lock or its format's version."""
    return error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _move_aside(path: Path, error: sqlite3.DatabaseError) -> None:
    """Keep what is corrupt under another name, for whoever can read it still, and make room for a new stream."""
    kept = Path(f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for end in ("", "-wal", "-shm"):
        part = Path(f"{path}{end}")
        if part.exists():
            part.rename(f"{kept}{end}")
    log.error("the spool is corrupt: it is moved aside, and a new stream begins", kept=str(kept), reason=str(error))
