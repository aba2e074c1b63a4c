"""`rows`: how quick the history's questions are over tens of millions of `process_samples`, and what a row weighs.

A fleet's made history is loaded in the order of its arrival; then `latido history` from the shell and the questions of
`ingest.schema.questions` are asked, in turn; in a checkout also every SQL of the dashboards, each over the range at
which its dashboard opens: panel by panel, and a whole dashboard's one after another. Warm: the same question again.
Cold (a private server alone): the first after a restart, with an empty buffer pool and reads that go past the page
cache (O_DIRECT); single panels are asked warm alone. With `--folder` the data stay for the next run. `--drop-days`
drops the oldest days at the end, one by one as `latido db retain` does, while rows are inserted.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final, Self

import pymysql

from ingest.schema import database, partitions, questions, retain
from latido import settings
from latido.settings import Dsn
from loadtest.benchmarks import rows_load, rows_made
from loadtest.benchmarks.ingest import connect, dsn_text, latido
from loadtest.benchmarks.measure import Ratio, Result, interleave
from loadtest.benchmarks.programs import Server, UnavailableError
from loadtest.benchmarks.rows_made import Plan

BAR_SECONDS: Final = 1.0
BYTES_A_ROW: Final = 400
"""What a row may take while it is loaded, with its share of the other tables, indexes and logs: looked for before."""
DATABASE: Final = "latido"
"""On a private server; on one that was given, a name that nobody has."""
LOADING: Final = (
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-log-file-size=4G",
    "--innodb-io-capacity=4000",
    "--innodb-io-capacity-max=20000",
    "--innodb-fast-shutdown=0",
)
"""Options for loading alone: a power cut then would cost the data."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--rows", type=int, default=50_000_000, help="rows of process_samples, at least")
    parser.add_argument("--hosts", type=int, default=20, help="hosts that they are of")
    parser.add_argument("--carried", type=int, default=40, help="rows of a sample that is no keyframe (at least 22)")
    parser.add_argument("--runs", type=int, default=7, help="times that each question is asked (at least 7)")
    parser.add_argument("--loaders", type=int, default=2, help="connections that load")
    parser.add_argument("--dsn", help="a server to use; a database is made on it and dropped; warm figures alone")
    parser.add_argument("--folder", type=Path, help="where a private MariaDB keeps the rows for the next run")
    parser.add_argument("--buffer-pool", default="1G", help="innodb_buffer_pool_size of the private MariaDB")
    parser.add_argument("--explain", action="store_true", help="print how the server answers each question")
    parser.add_argument("--drop-days", type=int, default=0, help="in the end drop so many days beside inserts")


def run(given: argparse.Namespace) -> Result:
    """Measure."""
    with ExitStack() as stack:
        server = stack.enter_context(_server(given))
        plan = rows_load.loaded(server.dsn)
        if plan is None:
            raise AssertionError("the rows were not loaded")
        asked = Asked(server.dsn, plan)
        panels = asked.panels()
        contenders = {**asked.contenders(), **panels}
        cpu: dict[str, list[float]] = {name: [] for name in contenders}
        measured = {name: _costing(server, ask, cpu[name]) for name, ask in contenders.items()}
        warm = interleave(measured, given.runs)
        cold: dict[str, list[float]] = {}
        if server.restart is not None:
            for name, ask in asked.contenders().items():
                cold[name] = [_after(server.restart, ask) for _ in range(given.runs)]
        raw: dict[str, object] = {
            "rows": asked.count(),
            "buffer_pool": server.buffer_pool,
            "seconds_warm": warm,
            "cpu_seconds_warm": cpu,
            "seconds_cold": cold,
            "bytes": asked.weight(),
        }
        for name in contenders:
            parts = [f"warm {statistics.median(warm[name]):.3f} s"]
            parts += [f"of CPU {statistics.median(cpu[name]):.3f} s"] if server.pid is not None else []
            parts += [f"cold {statistics.median(cold[name]):.3f} s"] if name in cold else []
            sys.stdout.write(f"{name}: {', '.join(parts)}\n")
        sys.stdout.write(f"{asked.described()}\n")
        if panels:
            slowest = max(panels, key=lambda name: statistics.median(warm[name]))
            sys.stdout.write(f"the slowest panel: {slowest}, {statistics.median(warm[slowest]):.3f} s\n")
        if given.explain:
            raw["explain"] = {name: asked.explain(name, statement) for name, statement in asked.statements.items()}
        if given.drop_days:
            raw["dropped"] = [drop_oldest_day(server.dsn) for _ in range(given.drop_days)]
        version = asked.version()
    ratios = {
        f"rows.{name}_seconds": Ratio(
            statistics.median(column), min(column), max(column), len(column), BAR_SECONDS, "smaller"
        )
        for name, column in warm.items()
        if not name.startswith("dashboard_")  # the bar is that of one question, and Grafana asks a page's side by side
    }
    return Result("rows", ratios, raw, {"server": version})


def _costing(server: RowsServer, ask: Callable[[], float], column: list[float]) -> Callable[[], float]:
    """Return what asks and also keeps the CPU seconds of ours and of the server's: no neighbour adds to those."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        pid = server.pid() if server.pid is not None else None
        return usage.ru_utime + usage.ru_stime + (Server(pid, "").cpu_seconds() if pid else 0)

    def measured() -> float:
        before = spent()
        took = ask()
        column.append(spent() - before)
        return took

    return measured


def _after(restart: Callable[[], None], ask: Callable[[], float]) -> float:
    restart()
    return ask()


# --- what is asked ---


class Asked:
    """The questions over a loaded plan: near its end, so that all that they ask of is there."""

    def __init__(self, dsn: Dsn, plan: Plan) -> None:
        """Choose a host in the middle, one of its processes that always works, and a container of its."""
        self._dsn = dsn
        self._plan = plan
        number = plan.hosts // 2
        self._host = rows_made.host_name(number)
        self._pid, self._start = 300 + 7 * 5, 1_000 + 13 * 5
        at = plan.end - timedelta(minutes=7, seconds=3)
        self._at = f"{at:%Y-%m-%d %H:%M:%S}"
        with self._connected() as cursor:
            cursor.execute(questions.HOST_IDS.format(host=_quoted(self._host)))
            hosts = ",".join(str(row[0]) for row in cursor.fetchall())

        def ask(question: str, back: timedelta, **values: object) -> str:
            times = {"first": _quoted(f"{at - back:%Y-%m-%d %H:%M:%S}"), "last": _quoted(self._at)}
            return question.format(hosts=hosts, at=times["last"], **times, **values)

        hour, quarter, day = timedelta(hours=1), timedelta(minutes=15), timedelta(days=1)
        process = {"pid": self._pid, "start_ticks": self._start}
        container = _quoted(rows_made.container(number, 3))
        self.statements = {
            "top_of_host_hour": ask(questions.TOP_PROCESSES, hour, limit=20),
            "top_of_host_hour_by_command": ask(questions.TOP_COMMANDS, hour, limit=20),
            "top_of_fleet_quarter": ask(questions.FLEET_PROCESSES, quarter, limit=20),
            "top_of_fleet_quarter_by_command": ask(questions.FLEET_COMMANDS, quarter, limit=20),
            "process_day": ask(questions.ONE_PROCESS, day, step=300, **process),
            "container_3_days": ask(questions.CONTAINER_MEMORY, 3 * day, cgroup=container),
            "table_at": ask(questions.TABLE_AT, hour, limit=1000),
        }
        self._of_dashboards = self._dashboards(at)
        for dashboard, asked in self._of_dashboards.items():
            self.statements |= {_panel_name(dashboard, title): statement for title, statement in asked.items()}

    def _dashboards(self, at: datetime) -> dict[str, dict[str, str]]:
        """Return by dashboard the SQL that opening it up to a moment asks; nothing outside a checkout."""
        try:
            from grafana.checks.dashboards import NAMES  # noqa: PLC0415 - not in the wheel
            from grafana.checks.run import Sources, statements  # noqa: PLC0415
        except ModuleNotFoundError:
            return {}
        chosen = {"host": self._host, "process": f"{self._pid}/{self._start}"}
        with contextlib.closing(Sources(dsn_text(self._dsn), None, None)) as sources:
            return {name: statements(name, sources, at.timestamp(), chosen) for name in NAMES}

    def panels(self) -> dict[str, Callable[[], float]]:
        """Return what asks each SQL of the dashboards once, as `contenders` does."""
        return {
            name: functools.partial(self._statement, name, self.statements[name])
            for name in (_panel_name(board, title) for board, asked in self._of_dashboards.items() for title in asked)
        }

    def contenders(self) -> dict[str, Callable[[], float]]:
        """Return what asks each question once and returns the seconds that it took, with all rows fetched."""
        found: dict[str, Callable[[], float]] = {
            "history_at": lambda: self._command("--at", self._at),
            "history_pid": lambda: self._command(f"--pid={self._pid}", "--to", self._at),
        }
        panels = self.panels()
        for name, statement in self.statements.items():
            if name not in panels:
                found[name] = functools.partial(self._statement, name, statement)
        for board in self._of_dashboards:
            found[f"dashboard_{board}"] = functools.partial(self._board, board)
        return found

    def _board(self, board: str) -> float:
        return sum(self._statement(title, statement) for title, statement in self._of_dashboards[board].items())

    def _command(self, *flags: str) -> float:
        command = [latido(), "history", "--host", self._host, "--utc", *flags]
        environ = {**os.environ, "LATIDO_DB_DSN": dsn_text(self._dsn)}
        start = time.perf_counter()
        subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE)  # noqa: S603 - our own program
        return time.perf_counter() - start

    def _statement(self, name: str, statement: str) -> float:
        with self._connected() as cursor:
            start = time.perf_counter()
            cursor.execute(statement)
            rows = cursor.fetchall()
            took = time.perf_counter() - start
        if not rows:
            raise AssertionError(f"{name}: nothing found by {statement}")
        return took

    def explain(self, name: str, statement: str) -> list[list[object]]:
        """Return and print the server's plan of a question."""
        with self._connected() as cursor:
            cursor.execute(f"EXPLAIN {statement}")
            rows = [list(row) for row in cursor.fetchall()]
            heads = [str(column[0]) for column in cursor.description]
        lines = [" | ".join("" if cell is None else str(cell) for cell in row) for row in [heads, *rows]]
        sys.stdout.write("\n".join([f"-- {name}", *lines]) + "\n")
        return [heads, *rows]

    def count(self) -> int:
        """Return how many rows of `process_samples` there are, counted by a narrow index."""
        with self._connected() as cursor:
            cursor.execute("SELECT SUM(processes_carried + exited_carried) FROM procesos")
            return int(str(cursor.fetchall()[0][0]))

    def weight(self) -> dict[str, dict[str, float]]:
        """Return rows, bytes of data and bytes of indexes of each table, as the server accounts for them."""
        with self._connected() as cursor:
            cursor.execute(
                "SELECT table_name, SUM(data_length), SUM(index_length) FROM information_schema.partitions"
                " WHERE table_schema = DATABASE() AND partition_name IS NOT NULL GROUP BY table_name"
            )
            sizes = {str(table): (int(data), int(index)) for table, data, index in cursor.fetchall()}
            counts = {"process_samples": self.count()}
            for table in sorted(sizes.keys() - counts.keys()):
                cursor.execute(f"SELECT COUNT(*) FROM {table}")  # noqa: S608 - a table of ours
                counts[table] = int(str(cursor.fetchall()[0][0]))
        return {
            table: {"rows": float(counts[table]), "data_bytes": float(data), "index_bytes": float(index)}
            for table, (data, index) in sizes.items()
        }

    def described(self) -> str:
        """Return for people what a row of each table weighs and a host costs a day."""
        lines = []
        total = 0.0
        host_days = self._plan.hosts * self._plan.samples * rows_made.INTERVAL / timedelta(days=1)
        for table, held in sorted(self.weight().items()):
            size = held["data_bytes"] + held["index_bytes"]
            total += size
            lines.append(
                f"{table}: {held['rows']:,.0f} rows, each {held['data_bytes'] / held['rows']:.0f} bytes of data and "
                f"{held['index_bytes'] / held['rows']:.0f} of indexes; {size / host_days / 1e6:.1f} MB a host and day"
            )
        return "\n".join([*lines, f"all: {total / 1e9:.2f} GB, {total / host_days / 1e6:.1f} MB a host and day"])

    def version(self) -> str:
        """Return the server's version."""
        with self._connected() as cursor:
            cursor.execute("SELECT VERSION()")
            return str(cursor.fetchall()[0][0])

    @contextmanager
    def _connected(self) -> Iterator[pymysql.cursors.Cursor]:
        with contextlib.closing(connect(self._dsn)) as connection, connection.cursor() as cursor:
            yield cursor


def _panel_name(dashboard: str, title: str) -> str:
    """Return a panel's name as a key: `panel_moment_top_by_cpu`."""
    return f"panel_{dashboard}_{re.sub(r'[^a-z0-9]+', '_', title.lower()).strip('_')}"


def _quoted(text: str) -> str:
    return f"'{text}'"


# --- a day goes ---


def drop_oldest_day(dsn: Dsn) -> dict[str, object]:
    """Drop the oldest day as `latido db retain` does, while rows are inserted; return what it and they took."""
    with database.connect(dsn) as connection:
        held = database.read_days(connection)["process_samples"]
        today = database.today(connection)
    day = held[0]
    keep = (today - day).days - 1
    inserts = Inserts(dsn, today)
    with inserts:
        inserts.settle()
        start = time.perf_counter()
        retain.retain_once(dsn, keep=keep, ahead=(held[-1] - today).days)
        took = time.perf_counter() - start
        inserts.settle()
    found: dict[str, object] = {
        "day": day.isoformat(),
        "retain_seconds": took,
        "inserts": len(inserts.seconds),
        "insert_median_seconds": statistics.median(inserts.seconds),
        "insert_longest_seconds": max(inserts.seconds),
    }
    sys.stdout.write(f"dropped {partitions.name(day)}: {found}\n")
    return found


class Inserts:
    """A thread that inserts a sample of a host of its own, with its processes, and commits, again and again."""

    SETTLED: Final = 50
    ROWS: Final = 40

    def __init__(self, dsn: Dsn, today: date) -> None:
        """Take the day that it inserts into."""
        self._dsn = dsn
        self._midnight = datetime(today.year, today.month, today.day, tzinfo=UTC)
        self._ends = threading.Event()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seconds: list[float] = []

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End. Raises what an insert raised."""
        self._ends.set()
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def settle(self) -> None:
        """Return after some more inserts."""
        wanted = len(self.seconds) + self.SETTLED
        while len(self.seconds) < wanted and self._thread.is_alive():
            time.sleep(0.01)  # a list that another thread appends to has no condition to wait for

    def _run(self) -> None:
        try:
            with contextlib.closing(connect(self._dsn)) as connection, connection.cursor() as cursor:
                number = 0
                while not self._ends.is_set():
                    number += 1
                    moment = f"{self._midnight + number * timedelta(milliseconds=1):%Y-%m-%d %H:%M:%S.%f}"
                    start = time.perf_counter()
                    cursor.execute("START TRANSACTION")
                    counts = ",".join(["1"] * 15)
                    cursor.execute(
                        "INSERT INTO procesos (host_id,sampled_at,seq,keyframe,total,threads,running,sleeping,"  # noqa: S608 - numbers and times
                        "disk_sleep,stopped,traced,zombie,dead,idle,parked,other,processes_carried,exited_carried,api,"
                        f"batch_id) VALUES (4294967295,'{moment}',{number},{counts},'raw',1)"
                        " ON DUPLICATE KEY UPDATE seq = VALUES(seq)"
                    )
                    rows = ",".join(
                        f"(4294967295,'{moment}',{number},{pid},1,0,1,'S',1,1,1,1,1,1,1,1)" for pid in range(self.ROWS)
                    )
                    cursor.execute(
                        "INSERT INTO process_samples (host_id,sampled_at,seq,pid,start_ticks,exited,identity,state,"  # noqa: S608 - numbers and times
                        "threads,cpu_ns,cpu_delta_ns,user_ns,rss_bytes,virtual_bytes,minor_faults,major_faults)"
                        f" VALUES {rows} ON DUPLICATE KEY UPDATE pid = VALUES(pid)"
                    )
                    cursor.execute("COMMIT")
                    self.seconds.append(time.perf_counter() - start)
        except BaseException as error:  # noqa: BLE001 - raised again where the thread is joined
            self._fault = error


# --- servers ---


@dataclass(frozen=True)
class RowsServer:
    """A server that holds the rows. One of ours has a process, which `restart` makes anew with an empty buffer pool."""

    dsn: Dsn
    buffer_pool: str
    restart: Callable[[], None] | None = None
    pid: Callable[[], int | None] | None = None


@contextmanager
def _server(given: argparse.Namespace) -> Iterator[RowsServer]:
    now = datetime.now(UTC)
    wanted = rows_made.plan(given.rows, given.hosts, given.carried, now)
    if given.dsn:
        with _given_server(settings.dsn(given.dsn), wanted, given.loaders) as server:
            yield server
        return
    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with _private_server(folder, wanted, given) as server:
            yield server


@contextmanager
def _given_server(server: Dsn, wanted: Plan, loaders: int) -> Iterator[RowsServer]:
    name = f"latido_rows_{secrets.token_hex(4)}"
    made = Dsn(server.user, server.password, server.host, server.port, name, server.ssl_ca)
    with contextlib.closing(connect(server)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT @@local_infile, @@innodb_buffer_pool_size")
        infile, pool = cursor.fetchall()[0]
        if not infile:
            raise UnavailableError("the server has local_infile off, and rows are loaded by LOAD DATA LOCAL")
        cursor.execute(f"CREATE DATABASE {name}")
    try:
        rows_load.load(made, wanted, loaders)
        rows_load.finish(made, wanted)
        yield RowsServer(made, str(pool))
    finally:
        with contextlib.closing(connect(server)) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE {name}")


@contextmanager
def _private_server(folder: Path, wanted: Plan, given: argparse.Namespace) -> Iterator[RowsServer]:
    try:
        from dev.mariadb import Mariadb  # noqa: PLC0415 - not in the wheel, where --dsn names a server
    except ModuleNotFoundError:
        raise UnavailableError("outside a checkout there is no private MariaDB; name a server by --dsn") from None
    always = (
        "--local-infile=1",
        f"--innodb-buffer-pool-size={given.buffer_pool}",
        "--innodb-buffer-pool-dump-at-shutdown=0",
        "--innodb-buffer-pool-load-at-startup=0",
    )
    if not (folder / "loaded").exists():
        if (folder / "data").exists():
            raise UnavailableError(
                f"--folder {folder}: its rows were not loaded to the end; remove it, or name another"
            )
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < wanted.rows * BYTES_A_ROW:
            raise UnavailableError(f"{folder}: {wanted.rows * BYTES_A_ROW:,} bytes are needed, {free:,} are free")
        loading = Mariadb(folder, options=(*always, *LOADING))
        loading.start()
        try:
            dsn = settings.dsn(loading.create_database(DATABASE))
            rows_load.load(dsn, wanted, given.loaders)
            rows_load.finish(dsn, wanted)
        finally:
            loading.stop()
        (folder / "loaded").touch()
    server = Mariadb(folder, options=(*always, "--innodb-log-file-size=1G"))
    server.start()

    def restart() -> None:
        server.stop()
        server.start()

    try:
        yield RowsServer(settings.dsn(server.dsn(DATABASE)), given.buffer_pool, restart, lambda: server.pid)
    finally:
        server.stop()
