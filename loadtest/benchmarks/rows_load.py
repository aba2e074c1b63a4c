"""A fleet's made history into a database with our tables, quickly, in the order in which it would have come."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from ingest.schema import database, upgrade
from latido.settings import Dsn
from loadtest.benchmarks import rows_made
from loadtest.benchmarks.ingest import BOOT_ID, Memory, connect
from loadtest.benchmarks.rows_made import Host, Plan

PROGRESS_SECONDS: Final = 10.0
STREAM: Final = "70000000-0000-4000-8000-{:012d}"


def load(dsn: Dsn, plan: Plan, loaders: int) -> None:
    """Make the tables with the days of the plan, and load it: `loaders` connections, each with its share of hosts.

    A transaction holds five minutes of a loader's hosts, so hosts arrive side by side as they do in life.
    """
    with database.connect(dsn) as connection, database.turn(connection, dsn.database):
        upgrade.upgrade(connection, days_back=(datetime.now(UTC).date() - plan.start.date()).days, ahead=2)
    hosts = _hosts(dsn, plan)
    progress = _Progress(plan)
    threads = [
        threading.Thread(target=progress.guard, args=(dsn, hosts[part::loaders]), daemon=True)
        for part in range(loaders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if progress.faults:
        raise progress.faults[0]


def loaded(dsn: Dsn) -> Plan | None:
    """Return what an earlier `load` left whole, or None."""
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES LIKE 'benchmark_plan'")
        if not cursor.fetchall():
            return None
        cursor.execute("SELECT hosts, carried, samples, start FROM benchmark_plan")
        hosts, carried, samples, start = cursor.fetchall()[0]
    return Plan(hosts, carried, samples, start.replace(tzinfo=UTC))


def finish(dsn: Dsn, plan: Plan) -> None:
    """Bring the servers' statistics up to date, as a day of running does, and say that the plan is loaded."""
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(f"ANALYZE TABLE {', '.join(rows_made.TABLES)}")
        cursor.fetchall()
        cursor.execute("CREATE TABLE benchmark_plan (hosts INT, carried INT, samples INT, start DATETIME)")
        cursor.execute(
            "INSERT INTO benchmark_plan VALUES (%s, %s, %s, %s)",
            (plan.hosts, plan.carried, plan.samples, plan.start.replace(tzinfo=None)),
        )


def _hosts(dsn: Dsn, plan: Plan) -> list[Host]:
    with contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO hosts (name, stream, boot_id, kernel) VALUES (%s, %s, %s, '6.1.0-25-amd64')",
            [(rows_made.host_name(number), STREAM.format(number), BOOT_ID) for number in range(plan.hosts)],
        )
        cursor.execute("SELECT name, id FROM hosts")
        ids = dict(cursor.fetchall())
    return [Host(number, ids[rows_made.host_name(number)], plan) for number in range(plan.hosts)]


def _load_some(dsn: Dsn, hosts: Sequence[Host], progress: _Progress) -> None:
    with Memory() as memory, contextlib.closing(connect(dsn)) as connection, connection.cursor() as cursor:
        for blocks in zip(*(host.blocks() for host in hosts), strict=True):
            cursor.execute("START TRANSACTION")
            for table in rows_made.TABLES:
                memory.write(b"".join(block.text[table] for block in blocks))
                cursor.execute(rows_made.load_statement(table, memory.path))
                cursor.execute("SHOW COUNT(*) WARNINGS")
                if cursor.fetchone() != (0,):  # LOAD DATA LOCAL turns errors into warnings
                    cursor.execute("SHOW WARNINGS")
                    raise AssertionError(f"{table}: {cursor.fetchmany(3)}")
            cursor.execute("COMMIT")
            progress.add(sum(block.rows for block in blocks))


class _Progress:
    def __init__(self, plan: Plan) -> None:
        self.faults: list[BaseException] = []
        self._plan = plan
        self._lock = threading.Lock()
        self._rows = 0
        self._start = self._told = time.monotonic()

    def guard(self, dsn: Dsn, hosts: Sequence[Host]) -> None:
        try:
            if hosts:
                _load_some(dsn, hosts, self)
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            self.faults.append(error)

    def add(self, rows: int) -> None:
        """Count rows; now and then say how far it is. Raises the fault of another loader, to end this one too."""
        with self._lock:
            self._rows += rows
            now = time.monotonic()
            if self.faults:
                raise self.faults[0]
            if now - self._told >= PROGRESS_SECONDS:
                self._told = now
                rate = self._rows / (now - self._start)
                sys.stdout.write(f"loaded {self._rows:,} rows of process_samples, {rate:,.0f} a second\n")
                sys.stdout.flush()
