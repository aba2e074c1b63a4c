"""The made history adds up, and every question of `ingest.schema.questions` answers what the rows say."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pymysql
import pytest

from dev.mariadb import Mariadb
from ingest.schema import database, questions
from latido import settings
from latido.settings import Dsn
from loadtest.benchmarks import rows_load, rows_made
from loadtest.benchmarks.ingest import connect
from loadtest.benchmarks.rows import Asked, drop_oldest_day
from loadtest.benchmarks.rows_made import CONTAINERS, INTERVAL, KEYFRAME, Host, Plan, container, plan

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
"""Of yesterday: a whole day to drop."""


@dataclass(frozen=True)
class Row:
    """A row of `process_samples` as it was made."""

    host: int
    at: datetime
    seq: int
    exited: int
    pid: int
    start_ticks: int
    cpu_ns: int
    cpu_delta_ns: int
    rss_bytes: int


def rows_of(host: Host) -> Iterator[list[Row]]:
    """Yield the rows of each of a host's blocks."""
    for block in host.blocks():
        rows = json.loads(b"[" + block.text["process_samples"] + b"]")
        assert block.rows == len(rows)
        yield [
            Row(host.number, datetime.strptime(str(r[1]), "%Y%m%d%H%M%S"), r[2], r[3], r[4], r[5], r[9], r[10], r[12])  # noqa: DTZ007 - as DATETIME
            for r in rows
        ]


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(20_000, 2, 40, NOON)


@pytest.fixture(scope="module")
def rows(made: Plan) -> list[Row]:
    """Return all rows of the plan."""
    hosts = [Host(number, number + 1, made) for number in range(made.hosts)]
    return [row for host in hosts for block in rows_of(host) for row in block]


@pytest.fixture(scope="module")
def loaded(mariadb: Mariadb, made: Plan) -> Dsn:
    """Return a database with the plan in it."""
    dsn = settings.dsn(mariadb.create_database("rows"))
    rows_load.load(dsn, made, 2)
    rows_load.finish(dsn, made)
    return dsn


def ask(dsn: Dsn, statement: str) -> list[dict[str, object]]:
    with connect(dsn) as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def nanoseconds(seconds: object) -> int:
    return round(float(str(seconds)) * 1e9)


def quoted(moment: datetime) -> str:
    return f"'{moment:%Y-%m-%d %H:%M:%S}'"


def test_a_plan_ends_where_it_should_with_at_least_the_rows_asked_for(made: Plan, rows: list[Row]) -> None:
    assert made.end + INTERVAL == NOON
    assert made.rows == len(rows) >= 20_000
    assert made.rows - 20_000 < 2 * 60 * 42 + 400


def test_cpu_deltas_are_the_growth_of_the_totals(rows: list[Row]) -> None:
    processes = defaultdict(list)
    for row in rows:
        if not row.exited:
            processes[row.host, row.pid].append(row)
    for lived in processes.values():
        for before, after in itertools.pairwise(lived):
            assert after.cpu_ns - before.cpu_ns == after.cpu_delta_ns
    assert len(processes) == sum(rows_made.processes(host) for host in range(2))


def test_a_keyframe_holds_every_process_and_other_samples_what_was_asked_for(made: Plan, rows: list[Row]) -> None:
    for host in range(made.hosts):
        sizes: dict[int, int] = defaultdict(int)
        for row in rows:
            sizes[row.seq] += row.host == host
        expected = {
            seq: rows_made.processes(host) + 1 if seq % KEYFRAME == 1 else made.carried
            for seq in range(1, made.samples + 1)
        }
        assert expected == sizes


@pytest.mark.usefixtures("loaded")
def test_all_tables_hold_the_plan(loaded: Dsn, made: Plan) -> None:
    samples = made.hosts * made.samples
    counts = {table: ask(loaded, f"SELECT COUNT(*) AS n FROM {table}")[0]["n"] for table in rows_made.TABLES}  # noqa: S608 - ours
    names = sum(rows_made.processes(host) for host in range(made.hosts)) + samples
    expected = {"process_samples": made.rows, "processes": names, "procesos": samples, "ram": samples, "cpu": samples}
    assert expected == counts
    assert rows_load.loaded(loaded) == made
    unnamed = (
        "SELECT COUNT(*) AS n FROM process_samples s LEFT JOIN processes p ON p.host_id = s.host_id"
        " AND p.day = DATE(s.sampled_at) AND p.pid = s.pid AND p.start_ticks = s.start_ticks"
        " AND p.identity = s.identity WHERE p.pid IS NULL"
    )
    assert ask(loaded, unnamed)[0]["n"] == 0


def test_top_processes_are_those_that_spent_most(loaded: Dsn, made: Plan, rows: list[Row]) -> None:
    first, last = made.end.replace(tzinfo=None) - timedelta(minutes=12), made.end.replace(tzinfo=None)
    spent: dict[tuple[int, int], int] = defaultdict(int)
    for row in rows:
        if first < row.at <= last:
            spent[row.host, row.pid] += row.cpu_delta_ns
    ranges = {"first": quoted(first), "last": quoted(last), "limit": 5}
    ids = {str(row["name"]): str(row["id"]) for row in ask(loaded, "SELECT id, name FROM hosts")}
    for question, hosts in ((questions.TOP_PROCESSES, [1]), (questions.FLEET_PROCESSES, [0, 1])):
        names = ",".join(ids[rows_made.host_name(host)] for host in hosts)
        found = ask(loaded, question.format(hosts=names, **ranges))
        ranked = sorted(((n, key) for key, n in spent.items() if key[0] in hosts), reverse=True)[:5]
        expected = [(rows_made.host_name(host), pid, n) for n, (host, pid) in ranked]
        assert expected == [(row["host"], row["pid"], nanoseconds(row["cpu_seconds"])) for row in found]
    for question in (questions.TOP_COMMANDS, questions.FLEET_COMMANDS):
        found = ask(loaded, question.format(hosts=",".join(ids.values()), **{**ranges, "limit": 100}))
        assert pytest.approx(sum(spent.values()) / 1e9) == sum(float(str(row["cpu_seconds"])) for row in found)
        assert None not in {row["command"] for row in found}


def test_one_process_is_summed_in_steps(loaded: Dsn, made: Plan, rows: list[Row]) -> None:
    mine = [row for row in rows if (row.host, row.pid) == (0, 300)]
    bounds = {"first": quoted(made.start - INTERVAL), "last": quoted(made.end)}
    statement = questions.ONE_PROCESS.format(hosts=1, pid=300, start_ticks=1_000, step=60, **bounds)
    found = ask(
        loaded, statement.replace("IN (1)", f"IN ({questions.HOST_IDS.format(host=chr(39) + 'host-000' + chr(39))})")
    )
    assert pytest.approx(sum(row.cpu_delta_ns for row in mine) / 1e9) == sum(float(str(r["cpus"])) * 60 for r in found)
    # A step holds its end: the first sample, on the full minute, belongs to the step before.
    assert len(found) == made.samples * INTERVAL // timedelta(minutes=1) + 1
    assert max(row.rss_bytes for row in mine[-11:]) == found[-1]["rss_bytes"]


def test_a_containers_memory_is_that_of_its_living_processes_at_each_keyframe(
    loaded: Dsn, made: Plan, rows: list[Row]
) -> None:
    members = {
        300 + 7 * slot for slot in range(rows_made.processes(1)) if slot % 3 == 0 and slot // 3 % CONTAINERS == 4
    }
    expected: dict[datetime, int] = defaultdict(int)
    for row in rows:
        if row.host == 1 and row.pid in members and row.seq % KEYFRAME == 1 and not row.exited:
            expected[row.at] += row.rss_bytes
    ids = ask(loaded, questions.HOST_IDS.format(host="'host-001'"))
    bounds = {"first": quoted(made.start - INTERVAL), "last": quoted(made.end), "cgroup": f"'{container(1, 4)}'"}
    found = ask(loaded, questions.CONTAINER_MEMORY.format(hosts=ids[0]["id"], **bounds))
    assert [(at, expected[at], len(members)) for at in sorted(expected)] == [
        (row["time"], row["rss_bytes"], row["processes"]) for row in found
    ]


def test_the_table_of_a_moment_is_the_keyframe_and_what_followed(loaded: Dsn, made: Plan, rows: list[Row]) -> None:
    at = made.end.replace(tzinfo=None) - timedelta(seconds=68)
    newest = {row.pid: row for row in rows if row.host == 1 and row.at <= at and not row.exited}
    ids = ask(loaded, questions.HOST_IDS.format(host="'host-001'"))
    found = ask(loaded, questions.TABLE_AT.format(hosts=ids[0]["id"], at=quoted(at), limit=1000))
    assert {pid: (row.rss_bytes, row.cpu_ns) for pid, row in newest.items()} == {
        row["pid"]: (row["rss_bytes"], nanoseconds(row["cpu_seconds"])) for row in found
    }


def test_every_contender_finds_something_and_is_explained(loaded: Dsn, made: Plan) -> None:
    asked = Asked(loaded, made)
    for ask_once in asked.contenders().values():
        assert ask_once() > 0
    for name, statement in asked.statements.items():
        heads, *lines = asked.explain(name, statement)
        kinds = {str(line[heads.index("table")]): line[heads.index("type")] for line in lines}
        assert kinds.get("s", "range") in {"range", "ref", "eq_ref"}, name
    assert "MB a host and day" in asked.described()


def test_a_day_is_dropped_beside_inserts(loaded: Dsn) -> None:
    """The last test of this module: it takes the rows away."""
    found = drop_oldest_day(loaded)
    assert found["day"] == NOON.date().isoformat()
    with database.connect(loaded) as connection:
        assert NOON.date() not in database.read_days(connection)["process_samples"]
    inserted = ask(loaded, "SELECT COUNT(*) AS n FROM process_samples")[0]["n"]
    assert inserted == 40 * int(str(found["inserts"]))
