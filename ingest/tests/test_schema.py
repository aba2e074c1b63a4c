"""`latido db upgrade` and `latido db retain` over a real server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pymysql
import pytest

from dev.mariadb import Mariadb
from dev.ports import free_port
from dev.waiting import wait_for
from ingest.orm import models
from ingest.schema import database as schema_database
from ingest.schema import downgrade, partitions, retain, upgrade
from ingest.tests.clients import Database
from latido import settings

TODAY = datetime.now(UTC).date()


@pytest.fixture(autouse=True)
def dsn(monkeypatch: pytest.MonkeyPatch, bare: str) -> str:
    """Point the commands at a database of their own, by the environment: a DSN may hold a password."""
    monkeypatch.setenv("LATIDO_DB_DSN", bare)
    return bare


def held(dsn: str) -> dict[str, tuple[date, ...]]:
    with schema_database.connect(settings.dsn(dsn)) as connection:
        return dict(schema_database.read_days(connection))


def test_upgrade_makes_the_six_tables_and_the_days_around_today(dsn: str) -> None:
    assert upgrade.main(["--days-back=2", "--ahead=4"]) == 0
    view = Database(settings.dsn(dsn))
    tables = {str(next(iter(row.values()))) for row in view.rows("SHOW TABLES")}
    expected = partitions.days(TODAY - timedelta(days=2), TODAY + timedelta(days=4))
    assert tables == {"hosts", *partitions.PARTITIONED, "latido_schema_version"}
    assert held(dsn) == dict.fromkeys(partitions.PARTITIONED, expected)
    assert upgrade.main(["--ahead=4"]) == 0
    assert held(dsn) == dict.fromkeys(partitions.PARTITIONED, expected)
    view.close()


def test_upgrades_at_the_same_time_take_turns(dsn: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: upgrade.main([]), range(4))) == [0] * 4
    assert set(held(dsn)) == set(partitions.PARTITIONED)


def test_the_first_revision_goes_back_to_nothing(dsn: str) -> None:
    assert upgrade.main([]) == 0
    assert downgrade.main(["--to=base", "--drop-history"]) == 0
    assert held(dsn) == {}
    assert upgrade.main([]) == 0
    assert set(held(dsn)) == set(partitions.PARTITIONED)


def test_going_back_names_its_mistakes_and_drops_no_history_by_the_way(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*argv: str) -> str:
        assert downgrade.main(argv) == 2
        return capsys.readouterr().err

    assert "no tables; `latido db upgrade` makes them" in refused("--to=0001")
    assert upgrade.main([]) == 0
    assert "--to is missing" in refused()
    assert "no revision '0007'; known are 0002, 0001, base" in refused("--to=0007")
    assert "drops the whole history" in refused("--to=base")
    assert set(held(dsn)) == set(partitions.PARTITIONED)
    assert downgrade.main(["--to=0001"]) == 0
    assert "is at 0001; `latido db upgrade` goes forward" in refused("--to=0002")
    view = Database(settings.dsn(dsn))
    view.run("UPDATE latido_schema_version SET version_num = '0099'")
    view.close()
    assert "at revision '0099', which a newer version made" in refused("--to=0001")


def test_revisions_go_back_and_forth_one_by_one_and_take_up_what_was_cut_off(dsn: str) -> None:
    """An ALTER is done before Alembic writes so; an upgrade that is killed in between runs it again."""

    def indexes() -> set[str]:
        view = Database(settings.dsn(dsn))
        names = {str(row["Key_name"]) for row in view.rows("SHOW INDEX FROM procesos")}
        view.close()
        return names

    assert upgrade.main([]) == 0
    assert downgrade.main(["--to=0001"]) == 0
    assert "sampled_at" not in indexes()
    with schema_database.connect(settings.dsn(dsn)) as connection:
        connection.exec_driver_sql("ALTER TABLE procesos ADD INDEX sampled_at (sampled_at)")
    assert upgrade.main([]) == 0
    assert "sampled_at" in indexes()


def test_the_models_of_the_orm_name_columns_that_exist(dsn: str) -> None:
    assert upgrade.main([]) == 0
    view = Database(settings.dsn(dsn))
    made_by_the_server = {"received_at", "created_at"}
    for model in (models.Host, models.Ram, models.Cpu, models.Procesos, models.ProcessSample, models.Process):
        table = str(model.__tablename__)
        columns = {str(row["Field"]) for row in view.rows(f"SHOW COLUMNS FROM {table}")}
        assert columns - made_by_the_server == set(model.model_fields)
    view.close()


def test_retain_drops_expired_days_with_their_rows_and_makes_coming_ones(
    dsn: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert upgrade.main(["--days-back=5", "--ahead=2"]) == 0
    view = Database(settings.dsn(dsn))
    for back in range(6):
        at = f"{TODAY - timedelta(days=back)} 12:00:00"
        values = ",".join(["1"] * 7)
        view.run(
            "INSERT INTO ram (host_id, sampled_at, seq, total_bytes, free_bytes, available_bytes, cached_bytes,"  # noqa: S608 - numbers of ours
            " buffers_bytes, swap_total_bytes, swap_free_bytes, api, batch_id)"
            f" VALUES (1, '{at}', {back}, {values}, 'raw', 1)"
        )
    assert retain.main(["--days=2", "--ahead=3"]) == 0
    expected = partitions.days(TODAY - timedelta(days=2), TODAY + timedelta(days=3))
    assert held(dsn) == dict.fromkeys(partitions.PARTITIONED, expected)
    assert [row["seq"] for row in view.rows("SELECT seq FROM ram ORDER BY seq")] == [0, 1, 2]
    assert retain.main(["--days=2", "--ahead=3"]) == 0
    assert held(dsn) == dict.fromkeys(partitions.PARTITIONED, expected)
    log = capfd.readouterr().err
    assert log.count("dropped partitions") == len(partitions.PARTITIONED)
    assert partitions.name(TODAY - timedelta(days=5)) in log
    view.close()


def test_retain_waits_for_a_busy_table_in_small_steps(dsn: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert upgrade.main(["--days-back=5"]) == 0
    holder, other = Database(settings.dsn(dsn)), Database(settings.dsn(dsn))
    holder.run("START TRANSACTION")
    holder.rows("SELECT * FROM procesos")  # holds the table's metadata
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(retain.main(["--days=2"])))
    thread.start()
    log: list[str] = []

    def busy() -> bool:
        log.append(capfd.readouterr().err)
        return "a table is busy" in "".join(log)

    wait_for(busy, "retain meets the lock")
    started = time.monotonic()
    other.rows("SELECT COUNT(*) FROM procesos")  # retain has stepped aside, or does so within its lock_wait_timeout
    assert time.monotonic() - started < schema_database.ALTER_LOCK_SECONDS + 30
    holder.run("ROLLBACK")
    thread.join()
    assert statuses == [0]
    assert min(held(dsn)["procesos"]) == TODAY - timedelta(days=2)
    holder.close()
    other.close()


def test_retain_without_tables_says_what_makes_them(capfd: pytest.CaptureFixture[str]) -> None:
    assert retain.main([]) == 2
    assert "`latido db upgrade`" in capfd.readouterr().err


def test_commands_against_no_server_end_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LATIDO_DB_DSN", f"mysql://latido:s3cret-word@127.0.0.1:{free_port()}/latido")
    for command, flags in ((upgrade.main, ["--wait=0s"]), (retain.main, [])):
        assert command(flags) == 2
        error = capfd.readouterr().err
        assert len(error.splitlines()) == 1
        assert "Can't connect" in error
        assert "s3cret-word" not in error


def test_a_wrong_password_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], dsn: str
) -> None:
    given = settings.dsn(dsn)
    monkeypatch.setenv("LATIDO_DB_DSN", f"mysql://nobody:s3cret-word@{given.host}:{given.port}/{given.database}")
    started = time.monotonic()
    assert upgrade.main([]) == 2
    assert time.monotonic() - started < 10
    error = capfd.readouterr().err
    assert "denied" in error
    assert "s3cret-word" not in error


def test_upgrade_waits_for_a_late_server_and_retain_lives_through_its_absence(tmp_path: Path) -> None:
    server = Mariadb(tmp_path, options=("--innodb-buffer-pool-size=64M",))
    server.start()
    dsn = server.create_database("late")
    server.stop()
    log = tmp_path / "retain.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATIDO_DB_DSN", dsn)
        statuses: list[int] = []
        late = threading.Thread(target=lambda: statuses.append(upgrade.main(["--wait=30s", "--days-back=4"])))
        late.start()
        with log.open("wb") as file:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "latido", "db", "retain", "--days=1", "--every=200ms"], stderr=file
            )
        wait_for(lambda: "partitions not looked after" in log.read_text(), "retain says that the database is away")
        server.start()
        late.join()
    assert statuses == [0]
    wait_for(lambda: "dropped partitions" in log.read_text(), "retain does its work")
    assert min(held(dsn)["ram"]) == TODAY - timedelta(days=1)
    started = time.monotonic()
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(10) == 0
    assert time.monotonic() - started < 4
    assert "Traceback" not in log.read_text()
    server.stop()


def test_the_server_refuses_rows_beyond_the_last_partition(dsn: str) -> None:
    """What the APIs answer with outside-partitions would be refused by the server too: nothing vanishes."""
    assert upgrade.main([]) == 0
    view = Database(settings.dsn(dsn))
    with pytest.raises(pymysql.OperationalError) as caught:
        view.run("INSERT INTO processes VALUES (1, '2999-01-01', 1, 1, 1, 'x', 0, NULL, 0, '2026-11-23')")
    assert caught.value.args[0] == 1526
    view.close()
