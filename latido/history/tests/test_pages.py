"""What is written: golden pages, JSON and CSV of one small host, hostile names, plans of every statement, faults."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pymysql
import pytest

from latido import settings
from latido.history import program, reader
from latido.history.tests.conftest import Run, connect
from latido.history.tests.host import BOOT, Host, busy, yesterday

GOLDEN = Path(__file__).parent / "golden"
CONTAINER = "3f" * 32
DAY = f"{yesterday(0):%Y-%m-%d}"
MOMENT = f"{DAY} 12:10"
LATIDO = Path(sys.executable).parent / "latido"
PAGES = {
    "snapshot.txt": (),
    "container.txt": ("--by=container", "--sort=rss"),
    "command.txt": ("--by=command",),
    "user.txt": ("--by=user", "--sort=io"),
    "limited.txt": ("--limit=2",),
    "snapshot.json": ("--json",),
    "container.json": ("--json", "--by=container"),
    "snapshot.csv": ("--csv",),
    "follow.txt": ("--pid=812", f"--from={DAY} 12:00"),
    "follow.json": ("--pid=812", f"--from={DAY} 12:08", "--step=1m", "--json"),
    "follow.csv": ("--pid=812", f"--from={DAY} 12:00", "--csv"),
    "reused.txt": ("--pid=900", f"--from={DAY} 12:00", "--start=109"),
}


@pytest.fixture(scope="module")
def small(api: str) -> Host:
    """Push a host with a container, a service, a shell, a kernel thread, and processes shorter than an interval."""
    host = Host("web-1", yesterday(12), interval=10)
    init = host.spawn(1, "systemd", uid=0, cgroup="/init.scope", rss=12 << 20)
    host.change(host.spawn(2, "kthreadd", uid=0, cgroup="/", rss=0), read_bytes=None, written_bytes=None)
    pod = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-{CONTAINER}.scope"
    server = host.spawn(812, "python3", uid=33, cgroup=pod, rss=180 << 20)
    host.change(server, threads=9)
    base = host.spawn(640, "mariadbd", uid=101, cgroup="/system.slice/mariadb.service", rss=900 << 20)
    host.tick()
    for number in range(50):
        host.work(server, 1500, read=0, written=4096, rss=(180 + number) << 20)
        host.work(base, 200, read=1 << 20, written=3 << 20)
        if number % 10 == 0:
            host.work(init, 3)
        host.tick()
    shell = host.spawn(900, "sh", cgroup="/user.slice/user-1000.slice/session-3.scope")
    host.work(shell, 40, read=8192)
    host.tick()
    host.end(shell)
    for _ in range(3):
        short = host.spawn(901, "true", cgroup="/user.slice/user-1000.slice/session-3.scope")
        host.work(short, 3)
        host.end(short)
    host.tick()
    again = host.spawn(900, "make", cgroup="/user.slice/user-1000.slice/session-3.scope", rss=30 << 20)
    for _ in range(5):
        host.work(again, 9000)
        host.tick()
    host.change(server, command="gunicorn: app")
    host.work(server, 100)
    host.tick()
    host.push(api)
    return host


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_equal_the_golden_ones(name: str, small: Host, history: Run, request: pytest.FixtureRequest) -> None:
    """`--update-golden` writes them anew. They hold <DATE> for yesterday, which the partitions of any day hold."""
    assert small.now < yesterday(12, 10) + timedelta(seconds=1)
    outcome = history("--host=web-1", f"--at={MOMENT}", *PAGES[name])
    assert 0 == outcome.status, outcome.err
    shown = outcome.out.replace(DAY, "<DATE>")
    path = GOLDEN / name
    if request.config.getoption("--update-golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8", newline="")
    assert path.read_bytes().decode() == shown


@pytest.mark.parametrize("columns", [90, 120, 200])
def test_every_line_fits_the_width(small: Host, history: Run, columns: int) -> None:
    for flags in ((), ("--by=container",), ("--pid=812",)):
        out = history(f"--host={small.name}", f"--at={MOMENT}", *flags, columns=columns).out
        assert all(len(line) <= columns for line in out.splitlines() if not line.startswith("!"))


def test_csv_and_json_say_the_same(small: Host, history: Run) -> None:
    flags = (f"--host={small.name}", f"--at={MOMENT}")
    records = list(csv.DictReader(io.StringIO(history(*flags, "--csv").out)))
    (machine,) = history(*flags, "--json").json()["machines"]

    def cell(value: object) -> str:
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    assert [{name: cell(value) for name, value in row.items()} for row in machine["rows"]] == [
        {name: value for name, value in record.items() if name not in {"host", "stream", "at"}} for record in records
    ]
    assert {small.stream} == {record["stream"] for record in records}
    assert BOOT == machine["boot_id"]


HOSTILE = ("\x1b[2J\x1b]0;owned\x07", 'a\nb,c"d', "back\\slash", "\u202etxt.exe", "日本語プロセス", "=1+1", "\x9b31m")


def test_hostile_names_reach_no_terminal(api: str, history: Run) -> None:
    host = Host("hostile", yesterday(13))
    for number, command in enumerate(HOSTILE):
        host.spawn(100 + number, command, cgroup=f"/system.slice/{command}.service")
    host.tick()
    host.push(api)
    flags = ("--host=hostile", f"--at={host.now:%Y-%m-%dT%H:%M:%SZ}")
    for form in ((), ("--by=command",), ("--by=container",), ("--json",), ("--csv",), ("--pid=100", "--step=0s")):
        out = history(*flags, *form).out
        assert all(line.isprintable() for line in out.replace("\r\n", "\n").split("\n")), form
    (machine,) = history(*flags, "--json").json()["machines"]
    assert set(HOSTILE) == {row["command"] for row in machine["rows"]}
    shown = history(*flags).out
    assert r"\x1b[2J\x1b]0;owned\x07" in shown
    assert r"a\nb,c" in shown
    assert r"back\\slash" in shown
    assert r"\u202etxt.exe" in shown
    assert "日本語プロセス" in shown


# --- following ---


def test_a_process_is_followed_from_first_to_exit(api: str, history: Run) -> None:
    host = Host("follow", yesterday(14))
    busy(host, 150, seed=21)
    key = host.spawn(77, "job")
    expected = []
    for number in range(30):
        before = host.table[key]
        if number % 3:
            host.work(key, 10 * number, read=100 * number)
        seq = host.tick()
        after = host.table[key]
        if number == 0 or before != after or host.procesos[-1].keyframe:
            reads = after.read_bytes or 0
            expected.append((host.seen[seq].at, host.seen[seq].deltas[key], reads - (before.read_bytes or 0)))
    host.work(key, 5)
    host.end(key)
    busy(host, 10, seed=22)
    host.push(api)
    last = next(seen for seen in host.seen.values() if key in seen.exited)
    expected.append((last.at, 5_000_000, 0))
    flags = ("--host=follow", "--pid=77", f"--to={host.now:%Y-%m-%dT%H:%M:%SZ}")
    found = history(*flags, "--json").json()
    rows = [(row["until"], row["window_cpu_ns"], row["window_read_bytes"]) for row in found["rows"]]
    assert [(f"{at:%Y-%m-%dT%H:%M:%S}.000Z", cpu, read) for at, cpu, read in expected] == rows
    assert found["exited"]
    assert [False] * (len(rows) - 1) + [True] == [row["exited"] for row in found["rows"]]
    bucketed = history(*flags, "--json", "--step=1m").json()["rows"]
    assert sum(cpu for _, cpu, _ in rows) == sum(row["window_cpu_ns"] for row in bucketed)
    assert len(bucketed) < len(rows)
    assert "exited by" in history(*flags).out


@pytest.mark.parametrize("step", ["7s", "30s", "1m", "5m"])
@pytest.mark.parametrize("form", ["--json", "--no-json"])
def test_steps_that_the_database_sums_are_the_same(
    small: Host, history: Run, monkeypatch: pytest.MonkeyPatch, step: str, form: str
) -> None:
    """A process with many rows is summed by the database; over an exec and the first sample too."""
    flags = (f"--host={small.name}", f"--at={MOMENT}", "--pid=812", f"--step={step}", form)
    expected = history(*flags)
    monkeypatch.setattr(program, "MANY_ROWS", 0)
    assert expected.out == history(*flags).out
    assert 0 == expected.status


def test_a_step_that_a_clock_set_back_hides_is_read_row_by_row(
    api: str, history: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host("stepped", yesterday(17))
    key = host.spawn(50, "worker")
    for number in range(60):
        if number == 30:
            host.step(timedelta(seconds=62))
        host.work(key, 10)
        host.tick()
    host.push(api)
    flags = ("--host=stepped", "--pid=50", f"--at={yesterday(18):%Y-%m-%dT%H:%M:%SZ}", "--step=1m", "--json")
    expected = history(*flags).json()
    assert 59 * 10_000_000 == sum(row["window_cpu_ns"] for row in expected["rows"])
    monkeypatch.setattr(program, "MANY_ROWS", 0)
    assert expected == history(*flags).json()


def test_a_pid_that_several_had_is_asked_about(small: Host, history: Run) -> None:
    flags = (f"--host={small.name}", "--pid=900")
    outcome = history(*flags, f"--from={DAY} 12:00", f"--to={DAY} 12:10")
    assert 2 == outcome.status
    assert re.search(r"--start 105  .* sh \(exited\)", outcome.err)
    assert re.search(r"--start 109  .* make", outcome.err)
    then = history(*flags, f"--at={DAY} 12:08:50", "--json").json()
    assert "sh" == then["rows"][-1]["command"]
    outcome = history(f"--host={small.name}", "--pid=4000", f"--at={MOMENT}")
    assert 1 == outcome.status
    assert "has no sample of pid 4000 from" in outcome.err


# --- the database ---


def plans(dsn: str, statements: Sequence[tuple[str, Sequence[object]]]) -> list[tuple[str, dict[str, object]]]:
    found = []
    with connect(dsn) as connection, connection.cursor(pymysql.cursors.DictCursor) as cursor:
        cursor.execute("SELECT VERSION() AS version")
        row = cursor.fetchone()
        assert row is not None
        explain = "EXPLAIN PARTITIONS" if "MariaDB" in row["version"] else "EXPLAIN FORMAT=TRADITIONAL"
        for statement, arguments in statements:
            cursor.execute(f"{explain} {statement}", arguments)
            found += [(statement, plan) for plan in cursor.fetchall()]
    return found


def test_every_statement_reads_a_range_of_few_partitions(
    dsn: str, api: str, history: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No table of samples is scanned, whatever is asked, and no more than the days around the window are opened."""
    crowd = Host("crowd", yesterday(15))
    busy(crowd, 200, seed=31)
    crowd.push(api)
    with connect(dsn) as connection, connection.cursor() as cursor:
        for table in ("ram", "cpu", "procesos", "process_samples", "processes", "hosts"):
            cursor.execute(f"ANALYZE TABLE {table}")
    statements: list[tuple[str, Sequence[object]]] = []
    execute = pymysql.cursors.Cursor.execute

    def recorded(self: pymysql.cursors.Cursor, query: str, args: object = None) -> int:
        if query.startswith("SELECT") and isinstance(args, tuple):
            statements.append((query, args))
        return execute(self, query, args)

    monkeypatch.setattr(pymysql.cursors.Cursor, "execute", recorded)
    moment = f"{crowd.now:%Y-%m-%dT%H:%M:%SZ}"
    assert 0 == history("--host=crowd", f"--at={moment}", "--window=10m").status
    assert 0 == history("--host=crowd", "--pid=300", f"--from={moment[:11]}15:00Z", f"--to={moment}").status
    assert 1 == history("--host=crowd", f"--at={yesterday(0):%Y-%m-%d}").status
    monkeypatch.setattr(program, "MANY_ROWS", 0)
    assert 0 == history("--host=crowd", "--pid=300", f"--from={moment[:11]}15:00Z", f"--to={moment}").status
    monkeypatch.undo()
    assert len(statements) > 15
    everywhere = {reader.HOSTS, *reader.NEAREST}  # asked when there is nothing else to show: one look into each day
    for statement, plan in plans(dsn, statements):
        if plan["table"] in {None, "h", "hosts"} or str(plan["table"]).startswith("<"):
            continue
        assert plan["type"] not in {"ALL", "index"}, (statement, plan)
        if statement not in everywhere:
            assert len(str(plan["partitions"]).split(",")) <= 3, (statement, plan)


def test_select_is_all_that_it_needs(dsn: str, small: Host, history: Run) -> None:
    parts = settings.dsn(dsn)
    user, password = f"reader_{secrets.token_hex(4)}", secrets.token_hex(16)
    with connect(dsn) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE USER {user}@'%' IDENTIFIED BY '{password}'")
        try:
            cursor.execute(f"GRANT SELECT ON `{parts.database}`.* TO {user}@'%'")
            reader_dsn = f"mysql://{user}:{password}@{parts.host}:{parts.port}/{parts.database}"
            for flags in ((), ("--pid=812",)):
                assert 0 == history(f"--host={small.name}", f"--at={MOMENT}", *flags, database=reader_dsn).status
        finally:
            cursor.execute(f"DROP USER {user}@'%'")


def test_a_database_that_is_away_is_one_line(history: Run) -> None:
    outcome = history(database="mysql://u:secret@127.0.0.1:1/d")
    assert 1 == outcome.status
    assert outcome.err.startswith("latido history: mysql://u@127.0.0.1:1/d: Can't connect")
    assert 1 == outcome.err.count("\n")
    assert "secret" not in outcome.err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--json", "--csv"), "--json and --csv: choose one"),
        (("--at=soon",), "--at: expected a moment such as"),
        (("--at=2999-01-01",), "is in the future"),
        (("--window=30d",), "--window: expected at most 7d"),
        (("--from=03:12",), "--from is about one process: give its --pid"),
        (("--by=colour",), "expected one of pid, command, container, user"),
        (("--timezone=Mars/Olympus",), "expected local, UTC or a name"),
        (("--pid=0",), "expected a whole number"),
    ],
)
def test_mistakes_are_named(flags: tuple[str, ...], expected: str, history: Run) -> None:
    outcome = history(*flags)
    assert 2 == outcome.status
    assert expected in outcome.err


def test_a_range_that_ends_before_it_begins_is_a_mistake(small: Host, history: Run) -> None:
    outcome = history(f"--host={small.name}", "--pid=812", f"--from={MOMENT}", f"--to={yesterday(3):%Y-%m-%dT%H:%MZ}")
    assert 2 == outcome.status
    assert "is not before --to" in outcome.err


# --- the program ---


def test_a_reader_that_has_seen_enough_is_no_error(dsn: str, small: Host) -> None:
    command = f"{LATIDO} history --host={small.name} --at='{MOMENT}' --utc --json | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        env={**os.environ, "LATIDO_DB_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "{\n", "") == (done.returncode, done.stdout, done.stderr)


def test_colour_is_for_terminals_that_want_it(small: Host, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATIDO_DB_DSN", dsn)
    given = settings.load(
        program.HistorySettings, "latido history", "", [f"--host={small.name}", f"--at={MOMENT}", "--utc"], os.environ
    )
    now = datetime.now().astimezone()
    shown = {
        case: program.answer(given, now, program.page(given, environ, is_terminal=terminal))
        for case, environ, terminal in (
            ("terminal", {"TERM": "xterm"}, True),
            ("pipe", {"TERM": "xterm"}, False),
            ("NO_COLOR", {"TERM": "xterm", "NO_COLOR": "1"}, True),
            ("dumb", {"TERM": "dumb"}, True),
        )
    }
    assert "\x1b[" in shown["terminal"]
    assert re.sub(r"\x1b\[\d+m", "", shown["terminal"]) == shown["pipe"] == shown["NO_COLOR"] == shown["dumb"]


def test_a_terminal_that_knows_only_ascii_gets_escapes(api: str, dsn: str) -> None:
    host = Host("ascii", yesterday(16))
    host.spawn(5, "日本")
    host.tick()
    host.push(api)
    done = subprocess.run(
        [str(LATIDO), "history", "--host=ascii", f"--at={host.now:%Y-%m-%dT%H:%M:%SZ}"],
        env={**os.environ, "LATIDO_DB_DSN": dsn, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert r"\u65e5\u672c" in done.stdout


def test_documentation_lists_every_field_and_flag(repository: Path, small: Host, history: Run) -> None:
    text = (repository / "docs" / "history.md").read_text(encoding="utf-8")
    flags = (f"--host={small.name}", f"--at={MOMENT}", "--json")
    documents = [history(*flags).json(), history(*flags, "--by=container").json(), history(*flags, "--pid=812").json()]
    names: set[str] = set()

    def collect(value: object) -> None:
        if isinstance(value, dict):
            names.update(value)
            for item in value.values():
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)

    collect(json.loads(json.dumps(documents)))
    assert len(names) > 60
    assert set() == {name for name in names if f"`{name}`" not in text}
    usage = subprocess.run([str(LATIDO), "history", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--([a-z][a-z.-]+)", usage)) - {"help", "version", "config.file"}
    known -= {name for name in known if name.startswith(("no-", "db."))}
    assert set() == {flag for flag in known if f"`--{flag}" not in text}
