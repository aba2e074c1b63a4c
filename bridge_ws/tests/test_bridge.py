"""The whole bridge: rows committed in a real MariaDB come out of a real WebSocket, once each and in order."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

import msgspec
import pytest

from bridge_ws.tests.rig import STREAM, Frame, Sample, Writer, client, now_ms, seq_of
from bridge_ws.tests.samples import cpu, procesos, process, ram
from dev.program import Program
from ingest.contract.wire import CpuSample, ProcesosSample, RamSample
from latido.settings import Dsn

Writers = Callable[[], Writer]
Start = Callable[..., Program]

POLLS = 0.4
"""Seconds: several polls at the tests' 50 ms."""


def as_wire(frame: Frame) -> RamSample | CpuSample | ProcesosSample:
    types = {"ram": RamSample, "cpu": CpuSample, "procesos": ProcesosSample}
    sample: RamSample | CpuSample | ProcesosSample = msgspec.convert(frame["sample"], types[cast(str, frame["feed"])])
    return sample


async def test_a_client_gets_hello_then_the_newest_then_every_sample(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    """Every field of every feed is in the frame as it was stored."""
    writer, at = writers(), now_ms()
    first: list[Sample] = [
        ram(1, at),
        cpu(2, at),
        procesos(3, at, [process(10, 5), process(11)], keyframe=True),
    ]
    writer.commit(*first)
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        hello = await reader.next()
        assert hello.pop("server") == "latido 0.1.0"
        assert re.fullmatch(r"1-\d{13}", str(hello.pop("resume")))
        assert hello == {"type": "hello", "version": 1, "feeds": ["ram", "cpu", "procesos"], "hosts": ["web-1"]}
        snapshots = {cast(str, frame["feed"]): frame for frame in [await reader.next() for _ in range(3)]}
        for sample, feed in zip(first, ("ram", "cpu", "procesos"), strict=True):
            assert as_wire(snapshots[feed]) == sample
            named = {name: snapshots[feed][name] for name in ("type", "host", "stream", "api", "late")}
            assert named == {"type": "snapshot", "host": "web-1", "stream": STREAM, "api": "raw", "late": False}

        second: list[Sample] = [
            ram(4, at + 1000),
            cpu(5, at + 1000),
            procesos(6, at + 1000, [process(10, 9, delta=4)], [process(11, 7, delta=7)], total=1),
        ]
        writer.commit(*second, api="orm")
        frames = {cast(str, frame["feed"]): frame for frame in [await reader.next() for _ in range(3)]}
        for sample, feed in zip(second, ("ram", "cpu", "procesos"), strict=True):
            assert as_wire(frames[feed]) == sample
            assert (frames[feed]["type"], frames[feed]["api"], frames[feed]["late"]) == ("sample", "orm", False)
        await reader.silence(POLLS)


async def test_a_snapshot_of_procesos_is_the_rebuilt_table(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    """Whether the bridge rebuilt it from the database or kept it current itself."""
    writer, at = writers(), now_ms() - 5000
    writer.commit(
        procesos(1, at, [process(1), process(2), process(3)], keyframe=True),
        procesos(2, at + 1000, [process(2, 5, delta=5), process(4)], [process(3)], total=3),
    )
    bridge = start_bridge(database)
    third = procesos(3, at + 2000, [process(1, 8, delta=8, command="renamed")], [process(2, 6)], total=2)
    async with client(bridge.url) as reader:
        assert as_wire(await reader.sample(2, "procesos", "snapshot")) == procesos(
            2, at + 1000, [process(1), process(2, 5, delta=5), process(4)], keyframe=True
        )
        writer.commit(third)
        await reader.sample(3, "procesos")
    expected = procesos(3, at + 2000, [process(1, 8, delta=8, command="renamed"), process(4)], keyframe=True)
    async with client(bridge.url) as reader:
        assert as_wire(await reader.sample(3, "procesos", "snapshot")) == expected
    again = start_bridge(database)
    async with client(again.url) as reader:
        assert as_wire(await reader.sample(3, "procesos", "snapshot")) == expected


async def test_what_commits_late_and_out_of_order_comes_once_and_flagged(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    """Two connections: the one that inserted first commits last."""
    slow, quick, at = writers(), writers(), now_ms()
    quick.commit(ram(1, at))
    bridge = start_bridge(database)
    async with client(bridge.url, "?feeds=ram") as reader:
        await reader.sample(1, kind="snapshot")
        slow.store(ram(2, at + 1000), api="orm")
        quick.commit(ram(3, at + 2000))
        assert (await reader.sample(3))["late"] is False
        slow.store(ram(4, at + 3000), api="orm")
        slow.commit()
        assert (await reader.sample(2))["late"] is True
        assert (await reader.sample(4))["late"] is False
        await reader.silence(POLLS)
        assert reader.seqs("ram") == [3, 2, 4]


async def test_a_late_sample_of_processes_brings_a_new_table(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    slow, quick, at = writers(), writers(), now_ms()
    quick.commit(procesos(1, at, [process(1), process(2)], keyframe=True))
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.sample(1, "procesos", "snapshot")
        slow.store(procesos(2, at + 1000, [process(3, 1)], [process(2)], total=2))
        quick.commit(procesos(3, at + 2000, [process(1, 9)], total=2))
        await reader.sample(3, "procesos")
        slow.commit()
        assert (await reader.sample(2, "procesos"))["late"] is True
        table = as_wire(await reader.sample(3, "procesos", "snapshot"))
        assert table == procesos(3, at + 2000, [process(1, 9), process(3, 1)], keyframe=True)


async def test_a_host_with_two_streams_is_two(database: Dsn, writers: Writers, start_bridge: Start) -> None:
    """A wiped spool begins again at 1: new samples are not late."""
    writer, at, other = writers(), now_ms(), STREAM[:-1] + "2"
    writer.commit(ram(50, at))
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.sample(50, kind="snapshot")
        writer.commit(ram(1, at + 1000), stream=other)
        frame = await reader.sample(1)
        assert (frame["stream"], frame["late"]) == (other, False)


async def test_a_clock_that_steps_back_makes_nothing_late(database: Dsn, writers: Writers, start_bridge: Start) -> None:
    writer, at = writers(), now_ms()
    writer.commit(procesos(1, at, [process(1)], keyframe=True))
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.next()
        writer.commit(procesos(2, at - 60_000, [process(2)], total=2))
        assert (await reader.sample(2, "procesos"))["late"] is False
    again = start_bridge(database)
    async with client(again.url) as reader:
        table = as_wire(await reader.sample(2, "procesos", "snapshot"))
        assert table == procesos(2, at - 60_000, [process(1), process(2)], keyframe=True)


async def test_feeds_and_hosts_can_be_chosen_by_query_and_by_message(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    writer, at = writers(), now_ms()
    for host in ("a", "b"):
        writer.commit(ram(1, at), cpu(2, at), host=host)
    bridge = start_bridge(database)

    def named(frame: Frame) -> tuple[object, object, object, int]:
        return frame["type"], frame["feed"], frame["host"], seq_of(frame)

    async with client(bridge.url, "?feeds=ram&hosts=a") as reader:
        assert (await reader.next())["hosts"] == ["a", "b"]
        assert named(await reader.next()) == ("snapshot", "ram", "a", 1)
        await reader.silence(POLLS)
        await reader.send({"type": "subscribe", "feeds": ["cpu"], "hosts": ["b"]})
        assert named(await reader.next()) == ("snapshot", "cpu", "b", 2)
        for host in ("a", "b"):
            writer.commit(ram(3, at + 1000), cpu(4, at + 1000), host=host)
        assert {named(await reader.next()) for _ in range(2)} == {("sample", "ram", "a", 3), ("sample", "cpu", "b", 4)}
        await reader.send({"type": "unsubscribe"})
        await reader.send({"type": "subscribe", "hosts": ["a"]})
        assert {named(await reader.next()) for _ in range(2)} == {
            ("snapshot", "ram", "a", 3),
            ("snapshot", "cpu", "a", 4),
        }
        writer.commit(ram(5, at + 2000), host="b")
        await reader.silence(POLLS)


@pytest.mark.parametrize("query", ["?feeds=disk", "?hosts=-x", "?token=secret", "?feeds=%ff"])
async def test_a_query_that_means_nothing_is_refused(database: Dsn, start_bridge: Start, query: str) -> None:
    bridge = start_bridge(database)
    status, body = bridge.get("/ws" + query)
    assert status == 400, body


async def test_a_row_outside_the_contract_is_reported_and_left_out(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    """Someone's own INSERT must not stop the feed."""
    writer, at = writers(), now_ms()
    writer.commit(ram(1, at))
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.sample(1, kind="snapshot")
        writer.commit(ram(1 << 63, at + 1000))
        writer.commit(ram(2, at + 2000))
        await reader.sample(2)
    assert bridge.metric('latido_bridge_invalid_rows_total{feed="ram"}') == 1
    assert "a row does not match the contract" in bridge.log()


async def test_a_host_that_fell_silent_is_shown_no_more(database: Dsn, writers: Writers, start_bridge: Start) -> None:
    writer, at = writers(), now_ms()
    writer.commit(ram(1, at))
    bridge = start_bridge(database, "--bridge.host-timeout=300ms")
    writer.commit(ram(2, at + 1000), host="web-2")
    async with client(bridge.url, "?hosts=web-2") as reader:
        await reader.until(lambda frame: frame["type"] in {"sample", "snapshot"})
        await reader.silence(POLLS)
    async with client(bridge.url) as reader:
        assert (await reader.next())["hosts"] == []
        await reader.silence(POLLS)
        writer.commit(ram(3, at + 2000))
        await reader.sample(3)
