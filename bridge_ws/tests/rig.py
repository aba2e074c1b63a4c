"""What the bridge's tests share: a writer that stores as an API does, and a client that records what it is sent."""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
import pymysql
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from ingest.contract.identity import identity
from ingest.contract.wire import CpuSample, ProcesosSample, Process, RamSample
from latido.settings import Dsn

STREAM = "6f1c0000-0000-4000-8000-000000000001"
BOOT = "6f1c0000-0000-4000-8000-0000000000ff"
SECONDS = 30.0

Frame = dict[str, object]
Sample = RamSample | CpuSample | ProcesosSample


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _datetime(milliseconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None) + timedelta(milliseconds=milliseconds)


def _connect(dsn: Dsn, *, autocommit: bool) -> pymysql.Connection[pymysql.cursors.Cursor]:
    return pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        database=dsn.database,
        autocommit=autocommit,
        init_command="SET time_zone = '+00:00', innodb_lock_wait_timeout = 5",
    )


def upgrade(dsn: str) -> None:
    """Make this version's tables, by the real command."""
    latido = Path(sys.executable).parent / "latido"
    done = subprocess.run([latido, "db", "upgrade", f"--db.dsn={dsn}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Writer:
    """A connection that stores samples in the tables' documented form; the transaction is open until `commit`."""

    def __init__(self, dsn: Dsn) -> None:
        self._connection = _connect(dsn, autocommit=False)
        # A host is there before its samples: its row must not be locked while a transaction of theirs is open.
        self._hosts = _connect(dsn, autocommit=True)

    def store(self, sample: Sample, *, host: str = "web-1", stream: str = STREAM, api: str = "raw") -> None:
        """Insert a sample and, of `procesos`, its processes and their names, without committing."""
        with self._hosts.cursor() as cursor:
            cursor.execute(
                "INSERT INTO hosts (name, stream, boot_id, kernel) VALUES (%s, %s, %s, '6.1')"
                " ON DUPLICATE KEY UPDATE id = LAST_INSERT_ID(id)",
                (host, stream, BOOT),
            )
            host_id = cursor.lastrowid
        fields = cast(dict[str, object], msgspec.to_builtins(sample))
        moment = _datetime(sample.sampled_at)
        frame = {"host_id": host_id, "sampled_at": moment, "api": api, "batch_id": secrets.randbits(63)}
        if isinstance(sample, ProcesosSample):
            del fields["processes"], fields["exited"]
            carried = {"processes_carried": len(sample.processes), "exited_carried": len(sample.exited)}
            self._insert("procesos", {**fields, **frame, **carried})
            for exited, processes in ((False, sample.processes), (True, sample.exited)):
                self._store_processes(host_id, moment, sample.seq, processes, exited=exited)
        elif isinstance(sample, CpuSample):
            fields["cores"] = msgspec.json.encode(sample.cores).decode()
            self._insert("cpu", {**fields, **frame})
        else:
            self._insert("ram", {**fields, **frame})

    def _store_processes(
        self, host_id: int, moment: datetime, seq: int, processes: Sequence[Process], *, exited: bool
    ) -> None:
        samples, names = [], []
        for process in processes:
            fields = cast(dict[str, object], msgspec.to_builtins(process))
            named = {name: fields.pop(name) for name in ("command", "uid", "cgroup", "ppid", "started_at")}
            key = {
                "host_id": host_id,
                "pid": process.pid,
                "start_ticks": process.start_ticks,
                "identity": identity(process.command, process.uid, process.cgroup, process.ppid),
            }
            samples.append({**fields, **key, "sampled_at": moment, "seq": seq, "exited": exited})
            names.append({**named, **key, "day": moment.date(), "started_at": _datetime(process.started_at)})
        self._insert("process_samples", *samples)
        self._insert("processes", *names, end="ON DUPLICATE KEY UPDATE host_id = host_id")

    def _insert(self, table: str, *rows: dict[str, object], end: str = "") -> None:
        if not rows:
            return
        columns, places = ", ".join(rows[0]), ", ".join(["%s"] * len(rows[0]))
        statement = f"INSERT INTO {table} ({columns}) VALUES ({places}) {end}"  # noqa: S608 - field names of ours
        with self._connection.cursor() as cursor:
            cursor.executemany(statement, [list(row.values()) for row in rows])

    def commit(self, *samples: Sample, host: str = "web-1", stream: str = STREAM, api: str = "raw") -> None:
        """Store samples, where given, and commit."""
        for sample in samples:
            self.store(sample, host=host, stream=stream, api=api)
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()
        self._hosts.close()


class Client:
    """A WebSocket client that keeps every frame it got, and of resume tokens the newest."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.frames: list[Frame] = []
        self.token: str | None = None

    async def next(self) -> Frame:
        """Return the next frame; a resume token is kept aside, since when it comes is the clock's to say."""
        async with asyncio.timeout(SECONDS):
            frame = await self._receive()
        self.frames.append(frame)
        return frame

    async def _receive(self) -> Frame:
        while True:
            text = await self.connection.recv()
            assert isinstance(text, str)
            frame = cast(Frame, msgspec.json.decode(text))
            if frame["type"] != "resume":
                self.token = cast(str | None, frame.get("resume", self.token))
                return frame
            self.token = cast(str, frame["token"])

    async def until(self, condition: Callable[[Frame], bool]) -> Frame:
        """Read until a frame meets the condition, and return it."""
        while True:
            frame = await self.next()
            if condition(frame):
                return frame

    async def sample(self, seq: int, feed: str = "ram", kind: str = "sample") -> Frame:
        """Read until a sample (or snapshot) of a feed with this `seq`."""
        return await self.until(lambda frame: frame["type"] == kind and frame["feed"] == feed and seq_of(frame) == seq)

    async def silence(self, seconds: float) -> None:
        """Check that nothing comes for a while (several polls)."""
        try:
            async with asyncio.timeout(seconds):
                unexpected = await self._receive()
        except TimeoutError:
            return
        raise AssertionError(f"expected no frame, got {unexpected!r}")

    async def send(self, message: Mapping[str, object]) -> None:
        await self.connection.send(msgspec.json.encode(message).decode())

    def seqs(self, feed: str, *, host: str = "web-1") -> list[int]:
        """Return the `seq` of every sample of a feed, as they came."""
        return [
            seq_of(frame)
            for frame in self.frames
            if frame["type"] == "sample" and frame["feed"] == feed and frame["host"] == host
        ]


class Recorder:
    """The near end of a connection: what is written to it, frame by frame."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def write(self, data: bytes) -> None:
        """Take whole frames of text, as a transport does."""
        while data:
            first, short = data[0], data[1]
            assert first == 0x81, "a whole text frame, not compressed"
            header = {126: 4, 127: 10}.get(short, 2)
            length = short if header == 2 else int.from_bytes(data[2:header], "big")
            self.frames.append(cast(Frame, msgspec.json.decode(data[header : header + length])))
            data = data[header + length :]


def seq_of(frame: Frame) -> int:
    """Return the `seq` of the sample in a frame."""
    return cast(int, cast(Frame, frame["sample"])["seq"])


@asynccontextmanager
async def client(
    url: str, query: str = "", *, origin: str | None = None, subprotocols: Sequence[str] = (), narrow: bool = False
) -> AsyncIterator[Client]:
    """Yield a client of the bridge at `url` (http://...). A `narrow` one holds little that it has not read."""
    parts = urlsplit(url)
    plain = socket.socket()
    if narrow:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
    try:
        plain.connect((parts.hostname, parts.port))
    except OSError:
        plain.close()
        raise
    async with connect(
        url.replace("http", "ws", 1) + "/ws" + query,
        additional_headers={"Origin": origin} if origin else None,
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
        max_size=None,
        max_queue=1 if narrow else 16,
        sock=plain,
        compression=None,
    ) as connection:
        yield Client(connection)
