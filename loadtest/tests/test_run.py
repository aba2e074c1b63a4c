"""Whole runs against real APIs and a real MariaDB, of seconds: what they decide, never how quick they were."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from dev.mariadb import Mariadb
from dev.program import Program
from dev.waiting import wait_for
from latido.settings import dsn as parse_dsn
from loadtest.results import Results, decode

LATIDO = str(Path(sys.executable).parent / "latido")
RUN_SECONDS = 150
QUICK = ("--push.interval=500ms", "--duration=4s", "--slice=1s", "--hosts=6", "--spawn-rate=50")
COUNTED = ("ram", "cpu", "procesos", "process_samples")


@dataclass(frozen=True)
class Stack:
    """A database with its tables and both APIs over it."""

    dsn: str
    raw: Program
    orm: Program

    def run(self, output: Path, *flags: str) -> subprocess.Popen[str]:
        """Start a load test."""
        urls = (f"--raw.url={self.raw.url}", f"--orm.url={self.orm.url}", f"--output={output}")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LATIDO_")}
        return subprocess.Popen(
            [LATIDO, "loadtest", "run", *urls, *flags],
            env={**environ, "LATIDO_DB_DSN": self.dsn},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finished(self, output: Path, *flags: str) -> tuple[int, str, Results]:
        """Run a load test to its end; return its status, what it printed and its results."""
        return ended(self.run(output, *flags), output)

    def query(self, sql: str) -> list[tuple[object, ...]]:
        """Return the rows of a query, as of now."""
        parts = parse_dsn(self.dsn)
        with (
            pymysql.connect(
                host=parts.host, port=parts.port, user=parts.user, database=parts.database, autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
            return list(cursor.fetchall())

    def holds(self) -> dict[str, object]:
        """Return how many rows each counted table holds."""
        return {table: self.query(f"SELECT COUNT(*) FROM {table}")[0][0] for table in COUNTED}  # noqa: S608


def ended(process: subprocess.Popen[str], output: Path) -> tuple[int, str, Results]:
    try:
        printed, errors = process.communicate(timeout=RUN_SECONDS)
    finally:
        process.kill()
    assert (output / "results.json").exists(), printed + errors
    return process.returncode, printed, decode((output / "results.json").read_bytes())


@pytest.fixture(scope="module")
def objectives(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the flag for objectives that ask for no speed: this machine is whoever's it is."""
    file = tmp_path_factory.mktemp("objectives") / "objectives.yaml"
    file.write_text("error_ratio: 0\n")
    return f"--objectives={file}"


@contextmanager
def running(mariadb: Mariadb, name: str) -> Iterator[Stack]:
    dsn = mariadb.create_database(name)
    environ = {"LATIDO_DB_DSN": dsn}
    subprocess.run([LATIDO, "db", "upgrade"], env={**os.environ, **environ}, check=True)
    raw, orm = Program(("ingest", "raw"), (), environ), Program(("ingest", "orm"), (), environ)
    try:
        raw.start("")
        orm.start("")
        raw.wait_ready()
        orm.wait_ready()
        yield Stack(dsn, raw, orm)
    finally:
        for program in (raw, orm):
            program.stop()
            program.close()


@pytest.fixture(scope="module")
def stack(mariadb: Mariadb) -> Iterator[Stack]:
    """Run both APIs over a database of this module's."""
    with running(mariadb, "loadtest_runs") as found:
        yield found


@pytest.fixture
def clean(stack: Stack) -> Stack:
    """Return the stack with empty tables."""
    for table in (*COUNTED, "processes"):
        stack.query(f"DELETE FROM {table}")  # noqa: S608 - names above
    return stack


def test_a_run_that_loses_nothing_is_green_and_its_counts_are_the_databases(
    clean: Stack, tmp_path: Path, objectives: str
) -> None:
    """Two workers push to both APIs in turn; a reader beside them; hosts are cut off and come back."""
    more = ("--outage.share=0.2", "--outage.length=1s", "--readers=1", "--readers.interval=500ms", "--workers=2")
    # Slices of several seconds: of each something is measured, however slow this machine is now.
    status, printed, results = clean.finished(tmp_path, *QUICK, "--duration=12s", "--slice=3s", *more, objectives)
    assert (0, True) == (status, results.green), printed
    assert printed.splitlines()[-2] == results.verdict
    assert results.verdict.startswith("GREEN: every objective held, and all ")
    counts = results.counts
    assert counts is not None
    assert (6, counts.acknowledged) == (counts.hosts, counts.stored)
    if not counts.doubtful_stored:
        assert counts.stored == clean.holds()
    assert {"raw", "orm"} == {str(row[0]) for row in clean.query("SELECT DISTINCT api FROM procesos")}
    assert all(results.apis[api].requests for api in ("raw", "orm"))
    hosts = clean.query("SELECT DISTINCT h.name FROM hosts h JOIN ram r ON h.id = r.host_id")
    assert 2 == len({str(row[0]).split("-")[2] for row in hosts}), "each worker has hosts of its own"
    assert {"raw", "orm", "master", "worker 1", "worker 2"} <= {look.program for look in results.usage}
    sent = sum(seen.samples for name, seen in results.names.items() if name.startswith(("push", "backlog")))
    assert sent == sum(counts.acknowledged[table] for table in ("ram", "cpu", "procesos"))
    assert {"read raw /metrics", "read table_at", "push orm cpu"} <= results.names.keys()
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert [] == [secret for secret in (socket.gethostname(), "mysql://") if secret in text]
    stand_alone(tmp_path, results)


def stand_alone(folder: Path, results: Results) -> None:
    """Hold the report to be one file that asks nobody for anything, and says first what came of it."""
    page = (folder / "report.html").read_text(encoding="utf-8")
    body = page.partition("<body>")[2]
    assert results.verdict == re.sub(r"<[^>]+>", "", body.strip().splitlines()[0])
    assert f"<title>{results.verdict}</title>" in page
    assert [] == re.findall(r"https?://|//\w|@import|<script|<link|<iframe|url\(", re.sub(r"base64,[^\"]*", "", page))
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) >= 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    for name in ("rate", "latency", "errors", "cpu", "memory"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    again = folder / "again"
    flags = (f"--results={folder / 'results.json'}", f"--output={again}")
    done = subprocess.run([LATIDO, "loadtest", "report", *flags], capture_output=True, text=True, check=True)
    assert results.verdict == done.stdout.splitlines()[0]
    assert page == (again / "report.html").read_text(encoding="utf-8")


def test_a_row_that_goes_missing_makes_the_run_red(clean: Stack, tmp_path: Path, objectives: str) -> None:
    process = clean.run(tmp_path, *QUICK, "--api=raw", objectives)
    wait_for(lambda: clean.holds()["cpu"], "a sample is stored", 60)
    (host, seq), *_ = clean.query("SELECT host_id, seq FROM cpu ORDER BY received_at LIMIT 1")
    clean.query(f"DELETE FROM cpu WHERE host_id = {host} AND seq = {seq}")  # noqa: S608 - numbers
    status, printed, results = ended(process, tmp_path)
    assert (1, False) == (status, results.green)
    assert "RED: counts differ: load-" in printed
    assert re.search(r"cpu holds \d+ of \d+ acknowledged", results.verdict)
    assert results.counts is not None
    assert 1 == results.counts.different
    assert results.counts.acknowledged["cpu"] - 1 == results.counts.stored["cpu"]


def test_a_run_that_is_stopped_is_red_and_counts_all_the_same(clean: Stack, tmp_path: Path, objectives: str) -> None:
    flags = ("--push.interval=500ms", "--duration=10m", "--hosts=4", "--spawn-rate=50", "--workers=2", objectives)
    process = clean.run(tmp_path, *flags)
    wait_for(lambda: clean.holds()["cpu"], "a sample is stored", 60)
    process.terminate()
    status, printed, results = ended(process, tmp_path)
    assert 1 == status
    assert "RED: it was stopped early" in printed
    assert ["it was stopped early"] == results.faults
    assert results.counts is not None
    assert results.counts.equal


def test_a_slowed_api_is_red_and_the_objective_is_named(clean: Stack, tmp_path: Path) -> None:
    """Between raw and the run stands a proxy that holds every answer back."""
    with slowed(clean.raw.port) as port:
        flags = (*QUICK, "--api=raw", f"--raw.url=http://127.0.0.1:{port}")
        status, printed, results = clean.finished(tmp_path, *flags)
    assert 1 == status
    assert "raw: latency_p95_ms is " in printed
    assert "latency_p95_ms" in {one.objective for one in results.broken}
    assert results.counts is not None
    assert results.counts.equal, "slow, and nothing lost"


def test_a_search_raises_the_load_and_reports_a_knee_of_each(clean: Stack, tmp_path: Path) -> None:
    file = tmp_path / "objectives.yaml"
    file.write_text("latency_p95_ms: 100000\n")
    levels = ("--shape=search", "--search.first=2", "--search.growth=2", "--hosts=4", "--slice=4s", "--duration=2m")
    flags = (*levels, "--push.interval=500ms", f"--objectives={file}")
    status, printed, results = clean.finished(tmp_path, *flags)
    assert (0, True) == (status, results.green), printed
    assert [("raw", 2), ("orm", 2), ("raw", 4), ("orm", 4)] == [(one.api, one.hosts) for one in results.stages]
    assert [("raw", 4, None), ("orm", 4, None)] == [(one.api, one.held, one.broke) for one in results.knees]
    assert "raw over orm at least 1" in results.verdict
    assert "hosts at the knee" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--raw.url=http://127.0.0.1:1", "--raw.url: http://127.0.0.1:1 does not answer"),
        ("--recording=/dev/null", "--recording: /dev/null: not a recording"),
        ("--objectives=/nowhere", "--objectives: /nowhere cannot be read"),
        ("--program=mariadb", "--program: expected NAME=PID"),
        ("--shape=square", "--shape: expected one of soak, ramp, spike, search"),
    ],
)
def test_a_mistake_is_one_line(clean: Stack, tmp_path: Path, flag: str, message: str) -> None:
    process = clean.run(tmp_path, flag)
    _, errors = process.communicate(timeout=RUN_SECONDS)
    assert 2 == process.returncode
    assert 1 == len(errors.splitlines())
    assert message in errors


@contextmanager
def slowed(port: int) -> Iterator[int]:
    """Forward a port of loopback, each answer half a second late."""
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()
    threads: list[threading.Thread] = []

    def pump(source: socket.socket, sink: socket.socket, *, late: float) -> None:
        try:
            while data := source.recv(1 << 16):
                time.sleep(late)  # what this proxy is for
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def forward(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            there = threading.Thread(target=pump, args=(client, server), kwargs={"late": 0.0})
            there.start()
            pump(server, client, late=0.5)
            # The one who called went away, or the API did: neither is waited for by the other half.
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            there.join()

    def serve() -> None:
        while not over.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=forward, args=(client,), daemon=True))
            threads[-1].start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for one in (thread, *threads):
            one.join(30)
