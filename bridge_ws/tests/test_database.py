"""The database comes late, goes away and comes back: nothing is missed or sent twice, and everyone is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge_ws.tests.rig import Writer, client, now_ms, upgrade
from bridge_ws.tests.samples import procesos, process, ram
from dev.mariadb import Mariadb
from dev.program import Program
from dev.waiting import wait_until
from latido import settings
from latido.settings import Dsn

Start = Callable[..., Program]


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[Mariadb]:
    """Run a server that this test alone may stop."""
    server = Mariadb(tmp_path / "mariadb", options=("--innodb-buffer-pool-size=32M",))
    server.start()
    yield server
    server.stop()


async def test_it_starts_before_the_tables(empty_database: str, start_bridge: Start) -> None:
    bridge = start_bridge(empty_database, ready="/-/healthy")
    await wait_until(lambda: "the database is away" in bridge.log(), "it says that the tables are missing")
    status, body = bridge.get("/-/ready")
    assert status == 503
    assert "doesn't exist" in body
    async with client(bridge.url) as reader:
        assert (await reader.next())["hosts"] == []
        await reader.silence(1.0)  # several tries
        assert bridge.log().count("the database is away") == 1
        upgrade(empty_database)
        writer = Writer(settings.dsn(empty_database))
        writer.commit(ram(1, now_ms()))
        writer.close()
        await reader.until(lambda frame: frame["type"] in {"snapshot", "sample"})
        assert bridge.get("/-/ready")[0] == 200


async def test_a_database_restart_loses_and_doubles_nothing(own_mariadb: Mariadb, start_bridge: Start) -> None:
    text = own_mariadb.create_database("latido")
    upgrade(text)
    dsn, at = settings.dsn(text), now_ms()
    writer = Writer(dsn)
    writer.commit(ram(1, at), procesos(1, at, [process(1)], keyframe=True))
    bridge = start_bridge(dsn)
    async with client(bridge.url) as reader:
        await reader.sample(1, "procesos", "snapshot")
        writer.commit(ram(2, at + 1000))
        await reader.sample(2)
        writer.close()
        own_mariadb.stop()
        assert (await reader.until(lambda frame: frame["type"] == "error"))["code"] == "database-unavailable"
        assert bridge.get("/-/ready")[0] == 503
        assert bridge.metric("latido_bridge_database_up") == 0
        own_mariadb.start()
        writer = Writer(dsn)
        writer.commit(ram(3, at + 2000))
        await reader.sample(3)
        writer.commit(ram(4, at + 3000), procesos(2, at + 3000, [process(2)], total=2))
        await reader.until(lambda frame: frame["type"] == "sample" and frame["feed"] == "procesos")
        writer.close()
        assert [seq for seq in reader.seqs("ram") if seq != 4] == [2, 3]
        assert not [frame for frame in reader.frames if frame["type"] == "gap"]
    assert bridge.get("/-/ready")[0] == 200
    assert "Traceback" not in bridge.log()


async def test_a_restarted_bridge_goes_on_where_the_tables_are(database: Dsn, start_bridge: Start) -> None:
    """What was seen is in the snapshot, not sent again; an open transaction's sample comes when it commits."""
    writer, slow, at = Writer(database), Writer(database), now_ms()
    writer.commit(ram(1, at))
    bridge = start_bridge(database)
    slow.store(ram(2, at + 1000))
    writer.commit(ram(3, at + 2000))
    async with client(bridge.url) as reader:
        await reader.until(lambda frame: frame["type"] in {"snapshot", "sample"} and _seq(frame) == 3)
    assert bridge.stop() == 0
    bridge.start()
    async with client(bridge.url) as reader:
        await reader.sample(3, kind="snapshot")
        slow.commit()
        assert (await reader.sample(2))["late"] is True
        await reader.silence(0.4)
    writer.close()
    slow.close()


async def test_rows_of_a_host_that_was_deleted_hold_nobody_up(
    database: Dsn, mariadb: Mariadb, start_bridge: Start
) -> None:
    """Someone takes a host out of `hosts` by hand; its samples stay until their day is dropped."""
    writer, at = Writer(database), now_ms()

    def delete(host: str) -> None:
        with mariadb.connect(database.database) as connection, connection.cursor() as cursor:
            cursor.execute("DELETE FROM hosts WHERE name = %s", (host,))
            connection.commit()

    writer.commit(ram(1, at), procesos(1, at, [process(1)], keyframe=True), host="gone")
    writer.commit(ram(1, at))
    delete("gone")
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        assert ["web-1"] == (await reader.next())["hosts"]
        await reader.sample(1, kind="snapshot")
        writer.store(ram(1, at), host="gone-too")
        delete("gone-too")
        writer.commit(ram(2, at + 1000))
        await reader.sample(2)
    assert 200 == bridge.get("/-/ready")[0]
    assert "Traceback" not in bridge.log()
    writer.close()


async def test_many_writers_at_once_are_all_seen_once(database: Dsn, start_bridge: Start) -> None:
    """Six hosts, two APIs, transactions of several samples that stay open and commit in any order."""
    bridge = start_bridge(database)
    hosts = [f"web-{number}" for number in range(1, 7)]
    rounds, batch = 6, 5

    def write(host: str, seed: int) -> None:
        early, late = Writer(database), Writer(database)
        seq, at = 1, now_ms()
        for turn in range(rounds):
            for number in range(batch):
                # One of the two holds its samples while the other's later ones commit.
                chosen = late if (turn + seed) % 2 and number % 2 else early
                chosen.store(ram(seq, at + seq), host=host, api="raw" if chosen is early else "orm")
                seq += 1
            early.commit()
            late.commit()
        early.close()
        late.close()

    async with client(bridge.url) as reader:
        await reader.next()
        writing = [asyncio.create_task(asyncio.to_thread(write, host, seed)) for seed, host in enumerate(hosts)]
        expected = list(range(1, rounds * batch + 1))
        while not all(sorted(reader.seqs("ram", host=host)) == expected for host in hosts):
            await reader.next()
        await asyncio.gather(*writing)
        await reader.silence(0.4)
        for host in hosts:
            newest = 0
            for frame in reader.frames:
                if frame["type"] == "sample" and frame["host"] == host:
                    assert frame["late"] is (_seq(frame) < newest)
                    newest = max(newest, _seq(frame))


def _seq(frame: dict[str, object]) -> int:
    sample = frame["sample"]
    assert isinstance(sample, dict)
    seq: int = sample["seq"]
    return seq
