"""`ingest`: durable rows over HTTP against LOAD DATA of the same rows, raw against orm, small posts against naive ones.

All write to the same tables of the same server, in turn, for `--seconds` each: emptied before every run, the rows
counted after it. The server commits durably (innodb_flush_log_at_trx_commit=1). Client, programs and server share this
machine, which costs LOAD DATA least: it is fed text made beforehand, a transaction for every `--pushers` samples.
The small posts are `cpu` samples of one core from `--clients` connections; their reference is `benchmarks.naive` over
a pool as large as raw's. The same over a wider pool is measured beside it, for whoever would give it more connections.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

import msgspec
import pymysql

from ingest.contract import wire
from ingest.contract.identity import identity
from ingest.raw import statements
from latido import settings
from latido.settings import Dsn
from loadtest.benchmarks.measure import Result, installed, interleave, ratio
from loadtest.benchmarks.programs import Server, UnavailableError, free_port, serving

VARIANTS: Final = 8
"""Process tables that a host's samples take turns with; every number that can change differs between two."""
STEP_MS: Final = 1_000
BOOT_ID: Final = "7d0c1f9e-2f4b-4a51-9f64-0c6f1c1f0b11"
STARTED_AT: Final = 1_790_000_000_000
COMMANDS: Final = ("nginx", "postgres", "kworker/u16:3-events", "java", "python3", "containerd-shim", "node", "sshd")
EMPTIED: Final = ("process_samples", "procesos", "cpu")
"""`processes` keeps its rows, as it does within a day; every run has hosts of its own."""
_INSERT_PROCESOS: Final = (
    "INSERT INTO procesos (host_id,sampled_at,seq,keyframe,total,threads,running,sleeping,disk_sleep,stopped,traced,"
    "zombie,dead,idle,parked,other,processes_carried,exited_carried,api,batch_id) VALUES "
)
_MARK: Final = b"@"
"""Stands in a variant's text where host, time and number go. Numbers, states and our commands do not hold it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument(
        "--dsn", help="a server to use; a database is made on it and dropped (default: a private MariaDB)"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="of each contender in each round")
    parser.add_argument("--runs", type=int, default=7, help="rounds (at least 7)")
    parser.add_argument("--processes", type=int, default=2_000, help="processes a sample")
    parser.add_argument("--pushers", type=int, default=4, help="clients that push process tables")
    parser.add_argument("--clients", type=int, default=64, help="clients that push cpu samples")
    parser.add_argument("--connections", type=int, default=2, help="of raw's pool and of the naive handler's")
    parser.add_argument("--wide", type=int, default=10, help="pool of a second naive handler (aiomysql's default)")
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="measure these alone")


def run(given: argparse.Namespace) -> Result:
    """Measure, and say what each stage of the APIs cost."""
    with ExitStack() as stack:
        dsn = stack.enter_context(database(given.dsn))
        bench = Bench(dsn, given, stack.enter_context(contextlib.closing(connect(dsn))))
        contenders: dict[str, Callable[[], float]] = {"load_data": bench.load_data}
        environ = {**os.environ, **bench.environ()}
        for api in ("raw", "orm"):
            server = stack.enter_context(api_server(api, environ, given.connections if api == "raw" else None))
            contenders[api] = bench.tables(api, server)
            contenders[f"small_{api}"] = bench.small(f"small_{api}", server)
        for name, connections in (("small_naive", given.connections), ("small_naive_wide", given.wide)):
            contenders[name] = bench.small(name, stack.enter_context(naive_server(connections, environ)))
        chosen = {name: measure for name, measure in contenders.items() if not given.only or name in given.only}
        figures = interleave(chosen, given.runs)
        version = bench.version()
    ratios = {
        f"ingest.{key}": ratio(figures[reference], figures[ours], bar)
        for key, reference, ours, bar in (
            ("raw_over_load_data", "load_data", "raw", 0.5),
            ("raw_over_orm", "orm", "raw", 3.0),
            ("small_raw_over_naive", "small_naive", "small_raw", 3.0),
        )
        if {reference, ours} <= figures.keys()
    }
    rates = {name: [1 / seconds for seconds in column] for name, column in figures.items()}
    raw = {"unit": "rows/s (process rows, or cpu rows for small_*)", "rates": rates, "runs": bench.reports}
    say(rates, bench.reports)
    return Result("ingest", ratios, raw, {**installed("aiohttp", "aiomysql", "fastapi", "msgspec"), "server": version})


def say(rates: dict[str, list[float]], reports: dict[str, list[dict[str, float]]]) -> None:
    """Print rates, latencies and stages: medians over the rounds."""
    for name, column in rates.items():
        report = reports[name][1:]  # the first round warms up
        parts = {key: statistics.median(run.get(key, 0.0) for run in report) for key in report[-1]}
        details = " ".join(f"{key}={value:.4g}" for key, value in parts.items())
        sys.stdout.write(f"{name}: {statistics.median(column):,.0f} rows/s; {details}\n")


# --- what is pushed ---


@dataclass(frozen=True)
class Table:
    """One process table: as the JSON of a sample's arrays, and as lines of LOAD DATA for two tables."""

    body: bytes
    samples: bytes
    names: bytes


def make_tables(processes: int) -> list[Table]:
    """Return `VARIANTS` tables of the same processes at different moments."""
    return [make_table(processes, variant) for variant in range(VARIANTS)]


def make_table(processes: int, variant: int) -> Table:
    """Return one."""
    rows = [make_process(number, variant) for number in range(processes)]
    numbers = [identity(row.command, row.uid, row.cgroup, row.ppid) for row in rows]
    samples = "".join(
        f"@\t{p.pid}\t{p.start_ticks}\t0\t{number}\t{p.state}\t{p.threads}\t{p.cpu_ns}\t{p.cpu_delta_ns}\t{p.user_ns}\t"
        f"{p.rss_bytes}\t{p.virtual_bytes}\t{p.minor_faults}\t{p.major_faults}\t{p.swap_bytes}\t{p.read_bytes}\t"
        f"{p.written_bytes}\t{p.voluntary_switches}\t{p.involuntary_switches}\n"
        for p, number in zip(rows, numbers, strict=True)
    )
    names = "".join(
        f"@\t{p.pid}\t{p.start_ticks}\t{number}\t{p.command}\t{p.uid}\t{p.cgroup}\t{p.ppid}\t"
        f"{statements.moment(p.started_at)[1:-1]}\n"
        for p, number in zip(rows, numbers, strict=True)
    )
    return Table(msgspec.json.encode(rows), samples.encode(), names.encode())


def make_process(number: int, variant: int) -> wire.Process:
    """Return one process of a table, with figures as long as a busy host's."""
    return wire.Process(
        pid=300 + 7 * number,
        start_ticks=100_000 + 13 * number,
        started_at=STARTED_AT + 130 * number,
        ppid=1 + number % 40,
        uid=1000 + number % 5,
        command=COMMANDS[number % len(COMMANDS)],
        state="SRD"[(number + variant) % 3],
        threads=1 + (number + variant) % 32,
        cpu_ns=12_345_678_901 + 7_654_321 * number + 1_234_567 * variant,
        cpu_delta_ns=1_234_567 + 97 * number,
        user_ns=9_876_543_210 + 5_432_109 * number + 1_111_111 * variant,
        rss_bytes=4096 * (12_345 + 31 * number + variant),
        virtual_bytes=4096 * (234_567 + 53 * number + variant),
        minor_faults=123_456 + 11 * number + variant,
        major_faults=12 + variant,
        swap_bytes=0,
        read_bytes=4096 * (1_234 + number + variant),
        written_bytes=4096 * (2_345 + number + variant),
        voluntary_switches=345_678 + 3 * number + variant,
        involuntary_switches=4_567 + number + variant,
        cgroup=f"/system.slice/docker-{number % 64:04x}c0ffee{number % 64:08d}.scope",
    )


@dataclass
class Source:
    """The samples of one host: numbers and times of its own, from midnight on, so that a run stays within a day."""

    host: str
    stream: str = field(default_factory=lambda: str(uuid.uuid4()))
    seq: int = 0

    def next(self) -> tuple[int, int]:
        """Return `seq` and `sampled_at` of the next sample."""
        self.seq += 1
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        return self.seq, int(midnight.timestamp()) * 1000 + self.seq * STEP_MS

    def envelope(self, sample: bytes) -> bytes:
        """Return a body with one sample."""
        head = {"host": self.host, "stream": self.stream, "boot_id": BOOT_ID, "kernel": "6.1.0-25-amd64"}
        return b'%s,"samples":[%s]}' % (msgspec.json.encode(head)[:-1], sample)

    def procesos(self, table: Table, processes: int) -> bytes:
        """Return the body of a process table."""
        seq, at = self.next()
        counts = {"total": processes, "threads": 4 * processes, "running": 3, "sleeping": processes - 3}
        zero = ("disk_sleep", "stopped", "traced", "zombie", "dead", "idle", "parked", "other")
        start = {"seq": seq, "sampled_at": at, "keyframe": True, **counts, **dict.fromkeys(zero, 0)}
        head = msgspec.json.encode(start)[:-1] + b',"processes":'
        return self.envelope(b"".join((head, table.body, b',"exited":[]}')))

    def cpu(self) -> bytes:
        """Return the body of a cpu sample."""
        return self.cpu_template() % self.next()

    def cpu_template(self) -> bytes:
        """Return the body of the next cpu sample but for `seq` and `sampled_at`, which `%` puts in."""
        times = {
            name: 1_234_567_890_123 + 7_919 * self.seq for name in wire.CoreTimes.__struct_fields__ if name != "cpu"
        }
        rest = {"load1_milli": 420, "load5_milli": 310, "load15_milli": 250, "forks": 123_456 + self.seq}
        sample = {**times, **rest, "context_switches": 9_876_543_210 + self.seq, "cores": [{"cpu": 0, **times}]}
        return self.envelope(b'{"seq":%d,"sampled_at":%d,' + msgspec.json.encode(sample)[1:])


# --- the contenders ---


class Bench:
    """What the contenders share. `reports` holds, by contender and round, latencies in ms and what stages cost."""

    def __init__(
        self, dsn: Dsn, given: argparse.Namespace, connection: pymysql.Connection[pymysql.cursors.Cursor]
    ) -> None:
        self._dsn = dsn
        self._given = given
        self._connection = connection
        self._tables = make_tables(given.processes)
        self.reports: dict[str, list[dict[str, float]]] = {}

    def environ(self) -> dict[str, str]:
        """Return the environment of programs over this database."""
        return {"LATIDO_DB_DSN": dsn_text(self._dsn), "LATIDO_LOG_LEVEL": "warning"}

    def version(self) -> str:
        """Return the database server's version."""
        return str(self._one("SELECT VERSION()"))

    def load_data(self) -> float:
        """Return seconds a process row of LOAD DATA LOCAL, one connection, as many samples a commit as pushers."""
        self._empty()
        sources = [Source(f"load-{number}") for number in range(self._given.pushers)]
        hosts = self._hosts(sources)
        latencies: list[float] = []
        with Memory() as memory, contextlib.closing(connect(self._dsn)) as connection, connection.cursor() as cursor:
            load = f"LOAD DATA LOCAL INFILE '{memory.path}' INTO TABLE"
            start = time.perf_counter()
            turn = 0
            while time.perf_counter() - start < self._given.seconds:
                began = time.perf_counter()
                table = self._tables[turn % VARIANTS]
                keys = [(hosts[source.host], *source.next()) for source in sources]
                cursor.execute("START TRANSACTION")
                values = ",".join(
                    f"({host},{statements.moment(at)},{seq},1,2000,8000,3,1997,0,0,0,0,0,0,0,0,2000,0,'raw',1)"
                    for host, seq, at in keys
                )
                cursor.execute(_INSERT_PROCESOS + values)
                memory.write(
                    b"".join(
                        table.samples.replace(_MARK, f"{host}\t{statements.moment(at)[1:-1]}\t{seq}".encode())
                        for host, seq, at in keys
                    )
                )
                cursor.execute(f"{load} process_samples")
                if not turn:
                    day = datetime.now(UTC).date().isoformat()
                    memory.write(b"".join(table.names.replace(_MARK, f"{host}\t{day}".encode()) for host, _, _ in keys))
                    cursor.execute(f"{load} processes")
                cursor.execute("COMMIT")
                latencies.append(time.perf_counter() - began)
                turn += 1
            took = time.perf_counter() - start
        rows = turn * self._given.pushers * self._given.processes
        return self._report("load_data", rows, took, latencies, {})

    def tables(self, name: str, server: Server) -> Callable[[], float]:
        """Return a measurement: seconds a process row, pushed by `--pushers` clients."""

        def measure() -> float:
            self._empty()
            before, cpu = stages(server), server.cpu_seconds()
            latencies, took = push_tables(server, self._tables, self._given)
            cost = spent(before, stages(server))
            cost["cpu_ms_a_push"] = (server.cpu_seconds() - cpu) * 1000 / len(latencies)
            rows = len(latencies) * self._given.processes
            return self._report(name, rows, took, latencies, cost)

        return measure

    def small(self, name: str, server: Server) -> Callable[[], float]:
        """Return a measurement: seconds a cpu row, pushed by `--clients` clients."""

        def measure() -> float:
            self._empty()
            before, cpu = stages(server), server.cpu_seconds()
            latencies, took = asyncio.run(push_small(server, self._given))
            cost = spent(before, stages(server))
            cost["cpu_ms_a_push"] = (server.cpu_seconds() - cpu) * 1000 / len(latencies)
            return self._report(name, len(latencies), took, latencies, cost)

        return measure

    def _report(self, name: str, rows: int, took: float, latencies: list[float], cost: dict[str, float]) -> float:
        """Keep what a run found; return seconds a row. Raises AssertionError if the rows are not all there."""
        table = "cpu" if name.startswith("small") else "process_samples"
        found = int(str(self._one(f"SELECT COUNT(*) FROM {table}")))  # noqa: S608 - names above
        if found != rows:
            raise AssertionError(f"{name}: {rows} rows were acknowledged, {table} holds {found}")
        ordered = sorted(latencies)
        report = {
            "p50_ms": 1000 * ordered[len(ordered) // 2],
            "p99_ms": 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))],
            "requests": float(len(ordered)),
            **cost,
        }
        self.reports.setdefault(name, []).append(report)
        return took / rows

    def _empty(self) -> None:
        with self._connection.cursor() as cursor:
            for table in EMPTIED:
                cursor.execute(f"TRUNCATE TABLE {table}")

    def _hosts(self, sources: list[Source]) -> dict[str, int]:
        with self._connection.cursor() as cursor:
            cursor.execute(statements.hosts((s.host, s.stream, BOOT_ID, "") for s in sources))
            cursor.execute(statements.host_query((s.host, s.stream) for s in sources))
            return {str(name): int(host_id) for host_id, name, *_ in cursor.fetchall()}

    def _one(self, query: str) -> object:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        if row is None:
            raise AssertionError(f"no row: {query}")
        value: object = row[0]
        return value


class Memory:
    """A file in memory (memfd_create(2)), under a path that LOAD DATA LOCAL takes."""

    def __enter__(self) -> Self:
        """Make it."""
        self._file = os.memfd_create("load-data")
        self.path = f"/proc/self/fd/{self._file}"
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        os.close(self._file)

    def write(self, text: bytes) -> None:
        """Make `text` all that it holds."""
        os.ftruncate(self._file, 0)
        written = 0
        while written < len(text):
            written += os.pwrite(self._file, text[written:], written)


def push_tables(server: Server, tables: list[Table], given: argparse.Namespace) -> tuple[list[float], float]:
    """Push process tables from threads; return each request's seconds, and those from the first to the last's end."""
    latencies: list[float] = []
    faults: list[BaseException] = []
    run = secrets.token_hex(4)
    deadline = time.perf_counter() + given.seconds

    def pusher(number: int) -> None:
        try:
            source = Source(f"table-{run}-{number}")
            connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
            while time.perf_counter() < deadline:
                body = source.procesos(tables[source.seq % VARIANTS], given.processes)
                began = time.perf_counter()
                connection.request("POST", "/api/procesos", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                expect_stored(response.status, answer)
                latencies.append(time.perf_counter() - began)
            connection.close()
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            faults.append(error)

    start = time.perf_counter()
    threads = [threading.Thread(target=pusher, args=(number,)) for number in range(given.pushers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return latencies, time.perf_counter() - start


async def push_small(server: Server, given: argparse.Namespace) -> tuple[list[float], float]:
    """Push cpu samples from `--clients` connections; return as `push_tables` does."""
    run = secrets.token_hex(4)
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    clients = [SmallClient(Source(f"small-{run}-{number}"), start + given.seconds) for number in range(given.clients)]
    for client in clients:
        await loop.create_connection(partial(_itself, client), "127.0.0.1", port_of(server))
    await asyncio.gather(*(client.done for client in clients))
    return [latency for client in clients for latency in client.latencies], time.perf_counter() - start


def _itself(client: SmallClient) -> SmallClient:
    return client


class SmallClient(asyncio.Protocol):
    """One connection that pushes cpu samples, each after the answer to the one before.

    It shares the machine with what is measured: bodies differ in their numbers alone and are cut out beforehand, as
    those of LOAD DATA are, and nothing stands between it and its socket.
    """

    def __init__(self, source: Source, deadline: float) -> None:
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._source = source
        self._deadline = deadline
        self._body = source.cpu_template()
        self._answer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"expected a stream, got {type(transport).__name__}")
        self._transport = transport
        self._push()

    def _push(self) -> None:
        body = self._body % self._source.next()
        self._began = time.perf_counter()
        self._transport.write(_SMALL_HEAD % len(body) + body)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer; after its end push again, or end."""
        self._answer += data
        head, end, document = self._answer.partition(b"\r\n\r\n")
        if not end:
            return
        length = _LENGTH.search(head)
        if length and len(document) < int(length[1]):
            return
        self.latencies.append(time.perf_counter() - self._began)
        self._answer = b""
        try:
            expect_stored(int(head[9:12]), document)
        except BaseException as error:  # noqa: BLE001 - raised again where the client is waited for
            self._end(error)
            return
        if time.perf_counter() < self._deadline:
            self._push()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say so to whoever waits, should it not have ended."""
        self._end(exc or ConnectionError("the server hung up"))

    def _end(self, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
        self._transport.close()


_SMALL_HEAD: Final = (
    b"POST /api/cpu HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)
_LENGTH: Final = re.compile(rb"(?i)content-length: (\d+)")


def expect_stored(status: int, answer: bytes) -> None:
    """Raise AssertionError unless a push of one sample was stored."""
    if status != 201 or msgspec.json.decode(answer) != {"accepted": 1, "duplicates": 0}:  # noqa: PLR2004 - Created
        raise AssertionError(f"a push was answered {status}: {answer[:500].decode(errors='replace')}")


# --- what the stages cost ---

_STAGE: Final = re.compile(r'^latido_ingest_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', re.MULTILINE)


def stages(server: Server) -> dict[tuple[str, str], float]:
    """Return the sums and counts of the API's own stage histogram; empty for a server that has none."""
    return {(stage, kind): float(value) for kind, stage, value in _STAGE.findall(server.scrape().decode())}


def spent(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float]) -> dict[str, float]:
    """Return the mean milliseconds of each stage between two readings: of a push, or of a transaction."""
    found = {}
    for stage in sorted({stage for stage, _ in after}):
        seconds, count = (after[stage, kind] - before[stage, kind] for kind in ("sum", "count"))
        found[f"{stage}_ms"] = 1000 * seconds / count if count else 0.0
        if stage == "commit":
            found["transactions"] = count
    return found


# --- servers ---


@contextmanager
def database(given: str | None) -> Iterator[Dsn]:
    """Yield a new database with its tables: on the server of a DSN, or on a private MariaDB.

    Raises UnavailableError.
    """
    with ExitStack() as stack:
        text = given or stack.enter_context(private_mariadb())
        server = settings.dsn(text)
        name = f"latido_benchmark_{secrets.token_hex(4)}"
        made = Dsn(server.user, server.password, server.host, server.port, name, server.ssl_ca)
        with contextlib.closing(connect(server)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT @@local_infile")
            if cursor.fetchone() != (1,):
                raise UnavailableError("the server has local_infile off, and the reference is LOAD DATA LOCAL")
            cursor.execute(f"CREATE DATABASE {name}")
            environ = {**os.environ, "LATIDO_DB_DSN": dsn_text(made), "LATIDO_LOG_LEVEL": "warning"}
            subprocess.run([latido(), "db", "upgrade"], env=environ, check=True)  # noqa: S603 - our own program
            try:
                yield made
            finally:
                connection.ping(reconnect=True)
                cursor.execute(f"DROP DATABASE {name}")


@contextmanager
def private_mariadb() -> Iterator[str]:
    """Run a MariaDB that commits durably, and yield a DSN of it. Raises UnavailableError outside a checkout."""
    try:
        from dev.mariadb import Mariadb  # noqa: PLC0415 - not in the wheel, where --dsn names a server
    except ModuleNotFoundError:
        raise UnavailableError("outside a checkout there is no private MariaDB; name a server by --dsn") from None
    options = (
        "--local-infile=1",
        "--innodb-flush-log-at-trx-commit=1",
        "--innodb-buffer-pool-size=1G",
        "--innodb-log-file-size=1G",
    )
    with tempfile.TemporaryDirectory() as folder:
        server = Mariadb(Path(folder), options=options)
        server.start()
        try:
            yield server.dsn("mysql")
        finally:
            server.stop()


@contextmanager
def api_server(api: str, environ: dict[str, str], connections: int | None) -> Iterator[Server]:
    """Run an API: with its default settings, but for `connections` where given."""
    port = free_port()
    command = [latido(), "ingest", api, f"--web.listen-address=127.0.0.1:{port}"]
    if connections is not None:
        command.append(f"--db.connections={connections}")
    with serving(command, f"http://127.0.0.1:{port}/metrics", environ) as server:
        yield server


@contextmanager
def naive_server(connections: int, environ: dict[str, str]) -> Iterator[Server]:
    """Run the naive reference."""
    port = free_port()
    command = [sys.executable, "-m", "loadtest.benchmarks.naive", f"--port={port}", f"--connections={connections}"]
    with serving(command, f"http://127.0.0.1:{port}/metrics", environ) as server:
        yield server


def connect(dsn: Dsn) -> pymysql.Connection[pymysql.cursors.Cursor]:
    """Return a connection in autocommit and UTC that may LOAD DATA LOCAL."""
    return pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        database=dsn.database,
        autocommit=True,
        local_infile=True,
        init_command="SET time_zone = '+00:00'",
    )


def dsn_text(dsn: Dsn) -> str:
    """Return a DSN with its password: for the environment of programs alone."""
    user = quote(dsn.user, safe="") + (f":{quote(dsn.password, safe='')}" if dsn.password else "")
    return f"mysql://{user}@{dsn.host}:{dsn.port}/{dsn.database}" + (f"?ssl-ca={dsn.ssl_ca}" if dsn.ssl_ca else "")


def latido() -> str:
    """Return our command, of the same environment as this interpreter."""
    return str(Path(sys.executable).parent / "latido")


def port_of(server: Server) -> int:
    """Return the port that a server listens on."""
    return int(server.url.split(":")[2].partition("/")[0])
