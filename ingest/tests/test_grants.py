"""Each program works with its own user's rights, and the server refuses it everything else."""

from __future__ import annotations

import configparser
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pymysql
import pytest

from dev.program import Start
from ingest.contract import vectors
from ingest.contract.wire import Feed
from ingest.schema import database as schema_database
from ingest.schema import grants, partitions, retain, upgrade
from ingest.tests.clients import TABLES, Database, now_ms, push
from ingest.tests.conftest import APIS
from latido import settings

DENIED = {1044, 1045, 1142, 1143, 1227}
"""Access denied: to a database, a command on a table, a column, a global right."""


def user_of(tables: str, program: str) -> str:
    """Make a program's user on the server of `tables` and return its DSN; the SQL is what the command prints."""
    admin = settings.dsn(tables)
    name, password = f"l{secrets.token_hex(4)}_{program}", secrets.token_hex(8)
    view = Database(admin)
    view.run(f"CREATE USER '{name}'@'%' IDENTIFIED BY '{password}'")
    for statement in grants.statements(admin.database, program, name, "%"):
        view.run(statement)
    view.close()
    return f"mysql://{name}:{quote(password)}@{admin.host}:{admin.port}/{admin.database}"


def refused(view: Database, statement: str) -> None:
    with pytest.raises(pymysql.MySQLError) as caught:
        view.run(statement)
    assert caught.value.args[0] in DENIED, (statement, caught.value)


@pytest.mark.parametrize("api", APIS)
def test_the_apis_store_as_their_user_and_may_not_alter_or_delete(start: Start, tables: str, api: str) -> None:
    dsn = user_of(tables, "ingest")
    program = start("ingest", api, dsn=dsn)
    for feed in Feed:
        body = vectors.base(feed, now_ms())
        for expected in ({"accepted": 1, "duplicates": 0}, {"accepted": 0, "duplicates": 1}):
            answer = push(program.port, feed.value, body)
            assert (answer.status, answer.json()) == (201, expected)
        assert push(program.port, feed.value, {**body, "kernel": "6.99"}).status == 201  # updates `hosts`
    view = Database(settings.dsn(dsn))
    for table in TABLES:
        for statement in (f"DELETE FROM {table}", f"DROP TABLE {table}", f"ALTER TABLE {table} COMMENT 'x'"):  # noqa: S608 - names of ours
            refused(view, statement)
    for statement in (
        "UPDATE process_samples SET cpu_ns = 0",
        "CREATE TABLE other (id INT)",
        f"ALTER TABLE ram DROP PARTITION {partitions.name(datetime.now(UTC).date())}",
        "SELECT * FROM mysql.user",
    ):
        refused(view, statement)
    view.close()


@pytest.mark.parametrize("program", ["bridge", "grafana", "history"])
def test_readers_only_select(tables: str, program: str) -> None:
    view = Database(settings.dsn(user_of(tables, program)))
    assert view.counts() == dict.fromkeys(TABLES, 0)
    for table in TABLES:
        for statement in (
            f"DELETE FROM {table}",  # noqa: S608 - names of ours
            f"INSERT INTO {table} VALUES ()",  # noqa: S608
            f"TRUNCATE TABLE {table}",
            f"ALTER TABLE {table} COMMENT 'x'",
        ):
            refused(view, statement)
    view.close()


def test_retain_alters_days_and_nothing_of_hosts(tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = user_of(tables, "retain")
    monkeypatch.setenv("LATIDO_DB_DSN", dsn)
    assert retain.main(["--days=1", "--ahead=9"]) == 0
    today = datetime.now(UTC).date()
    expected = partitions.days(today - timedelta(days=1), today + timedelta(days=9))
    with schema_database.connect(settings.dsn(tables)) as connection:
        assert schema_database.read_days(connection) == dict.fromkeys(partitions.PARTITIONED, expected)
    view = Database(settings.dsn(dsn))
    for statement in (
        "SELECT * FROM hosts",
        "DROP TABLE hosts",
        "ALTER TABLE hosts COMMENT 'x'",
        "DELETE FROM ram",
        "UPDATE ram SET seq = 0",
        "CREATE TABLE other (id INT)",
    ):
        refused(view, statement)
    view.close()


def test_upgrade_makes_the_tables_and_reaches_no_other_database(bare: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = user_of(bare, "upgrade")
    monkeypatch.setenv("LATIDO_DB_DSN", dsn)
    assert upgrade.main([]) == 0
    view = Database(settings.dsn(dsn))
    refused(view, "SELECT * FROM mysql.user")
    refused(view, "GRANT SELECT ON *.* TO CURRENT_USER()")
    view.close()


def test_the_command_prints_what_the_functions_say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "latido.yml"
    config.write_text("db.dsn: mysql://root@127.0.0.1/la`tido\n")
    flags = ["--program=retain", "--program=bridge", "--user-host=10.0.0.%", f"--config.file={config}"]
    assert grants.main(flags) == 0
    expected = [
        f"{statement};"
        for program in ("retain", "bridge")
        for statement in grants.statements("la`tido", program, f"latido_{program}", "10.0.0.%")
    ]
    assert capsys.readouterr().out.splitlines() == expected
    assert expected[0].startswith("GRANT SELECT, INSERT, CREATE, ALTER, DROP ON `la``tido`.ram TO")
    assert grants.main(["--user-host=x' OR '"]) == 2
    assert "expected a host" in capsys.readouterr().err


def test_apply_grants_what_is_printed(
    tables: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    admin = settings.dsn(tables)
    prefix, password = f"l{secrets.token_hex(4)}_", secrets.token_hex(8)
    view = Database(admin)
    view.run(f"CREATE USER '{prefix}bridge'@'%' IDENTIFIED BY '{password}'")
    monkeypatch.setenv("LATIDO_DB_DSN", tables)
    flags = ["--program=bridge", f"--user-prefix={prefix}", "--user-host=%"]
    assert grants.main([*flags, "--apply"]) == 0
    expected = grants.statements(admin.database, "bridge", f"{prefix}bridge", "%")
    assert [f"{statement};" for statement in expected] == capsys.readouterr().out.splitlines()
    reader = Database(settings.dsn(f"mysql://{prefix}bridge:{password}@{admin.host}:{admin.port}/{admin.database}"))
    reader.run("SELECT * FROM hosts")
    refused(reader, "DELETE FROM hosts")
    reader.close()
    assert grants.main(["--program=ingest", f"--user-prefix={prefix}", "--apply"]) == 2
    assert capsys.readouterr().err.startswith(f"latido db grants: mysql://{admin.user}@")  # nobody of that name
    view.close()


def _unit(repository: Path, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case of keys
    parser.read_string((repository / "packaging" / "systemd" / name).read_text())
    return parser


def test_what_the_timer_starts_drops_a_day_as_its_user_with_its_credential(
    tables: str, repository: Path, tmp_path: Path
) -> None:
    """The unit's own command and environment; its credential is put where systemd would (systemd.exec(5))."""
    service = _unit(repository, "latido-retain.service")["Service"]
    assert service["LoadCredential"] == "password:/etc/latido/retain.password"
    assert service["DynamicUser"] == "yes"
    given = settings.dsn(user_of(tables, "retain"))
    (tmp_path / "password").write_text(given.password)
    (tmp_path / "password").chmod(0o400)
    variable, _, value = service["Environment"].replace("%d", str(tmp_path)).partition("=")
    program, *arguments = shlex.split(service["ExecStart"])
    view = Database(settings.dsn(tables))
    old = datetime.now(UTC).date() - timedelta(days=60)
    first = partitions.definition(old)
    view.run(f"ALTER TABLE ram REORGANIZE PARTITION {_first_partition(view)} INTO ({first}, {_first_definition(view)})")
    result = subprocess.run(
        [Path(sys.executable).parent / Path(program).name, *arguments],
        env={
            "PATH": os.environ["PATH"],
            "LATIDO_DB_DSN": f"mysql://{given.user}@{given.host}:{given.port}/{given.database}",
            variable: value,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert partitions.name(old) not in _partitions(view)
    view.close()


def _partitions(view: Database) -> list[str]:
    query = (
        "SELECT partition_name AS name FROM information_schema.partitions"
        " WHERE table_schema = DATABASE() AND table_name = 'ram' ORDER BY partition_ordinal_position"
    )
    return [str(row["name"]) for row in view.rows(query)]


def _first_partition(view: Database) -> str:
    return _partitions(view)[0]


def _first_definition(view: Database) -> str:
    day = partitions.day_of(_first_partition(view))
    assert day is not None
    return partitions.definition(day)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_finds_nothing_wrong_with_the_units_of_retain(repository: Path, tmp_path: Path) -> None:
    names = ("latido-retain.service", "latido-retain.timer")
    for name in names:
        text = (repository / "packaging" / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/latido", str(Path(sys.executable).parent / "latido")))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in names)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, b"")
