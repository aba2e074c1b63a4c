"""What a client can still have: by a token what it missed, by a backfill what is stored of the last minutes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest

from bridge_ws.tests.rig import Client, Frame, Writer, client, now_ms
from bridge_ws.tests.samples import cpu, procesos, process, ram
from dev.mariadb import Mariadb
from dev.program import Program
from latido.settings import Dsn

Start = Callable[..., Program]
Writers = Callable[[], Writer]


@pytest.mark.parametrize("restarted", [False, True], ids=["the same bridge", "a restarted bridge"])
async def test_a_client_that_comes_back_misses_nothing(
    database: Dsn, writers: Writers, start_bridge: Start, *, restarted: bool
) -> None:
    """What committed while it was away, in whatever order, and what was open when it left."""
    writer, slow = writers(), writers()
    bridge = start_bridge(database)
    async with client(bridge.url) as leaves:
        await leaves.next()
        writer.commit(ram(1, now_ms()), procesos(1, now_ms(), [process(1)], keyframe=True))
        await leaves.sample(1)
        token = leaves.token
    assert token is not None
    slow.store(ram(2, now_ms()), api="orm")
    writer.commit(ram(3, now_ms()), procesos(2, now_ms(), [process(2)], total=2))
    slow.commit()
    if restarted:
        assert 0 == bridge.stop()
        bridge.start()
    async with client(bridge.url, f"?resume={token}") as back:
        while not {2, 3} <= set(back.seqs("ram")) or 2 not in back.seqs("procesos"):
            await back.next()
        writer.commit(ram(4, now_ms()))
        await back.sample(4)
    assert [] == [frame for frame in back.frames if frame["type"] == "gap"]
    assert {1} == set(Counter(back.seqs("ram")).values())
    # As the document says: the last snapshot, and what follows in order.
    table: set[int] = set()
    for frame in back.frames:
        if frame.get("feed") == "procesos" and not frame["late"]:
            table = pids(frame) if frame["type"] == "snapshot" else table | pids(frame)
    assert {1, 2} == table


async def test_a_token_that_is_too_old_is_a_gap_and_a_new_start(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    writer = writers()
    writer.commit(ram(1, now_ms()))
    bridge = start_bridge(database)
    async with client(bridge.url, f"?resume=1-{now_ms() - 3_600_000:013d}") as back:
        assert "hello" == (await back.next())["type"]
        gap = await back.next()
        assert ("gap", None) == (gap["type"], gap["missed"])
        await back.sample(1, kind="snapshot")


async def test_a_backfill_is_what_is_stored_of_the_last_minutes(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    """Of one host and feed, ascending, over more than one frame; nothing older, of no other host."""
    writer, now = writers(), now_ms()
    count = 900
    writer.commit(*(cpu(seq, now - 1_200_000 + 1_000 * seq) for seq in range(1, count + 301)))
    writer.commit(cpu(1, now - 1_000), host="web-2")
    bridge = start_bridge(database)
    async with client(bridge.url, "?feeds=cpu&hosts=web-1") as reader:
        await reader.sample(count + 300, "cpu", "snapshot")
        await reader.send({"type": "backfill", "feed": "cpu", "host": "web-1", "minutes": 10})
        frames = await answer(reader)
        assert len(frames) > 1
        got = [cast(int, sample["seq"]) for frame in frames for sample in cast(list[Frame], frame["samples"])]
        assert list(range(got[0], count + 301)) == got
        oldest = cast(list[Frame], frames[0]["samples"])[0]["sampled_at"]
        # The ten minutes are counted from the newest sample or the database's now, whichever is earlier.
        assert now - 600_000 - 60_000 <= cast(int, oldest) <= now - 600_000 + 60_000
        assert {("cpu", "web-1", "raw", False)} == {
            (frame["feed"], frame["host"], frame["api"], frame["truncated"]) for frame in frames
        }
        await reader.send({"type": "backfill", "feed": "cpu", "host": "nobody"})
        (nothing,) = await answer(reader)
        assert ([], None) == (nothing["samples"], nothing["stream"])


async def test_a_backfill_has_processes_only_where_they_are_asked_for(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    writer, now = writers(), now_ms()
    writer.commit(procesos(1, now - 2_000, [process(1), process(2)], keyframe=True))
    writer.commit(procesos(2, now - 1_000, [process(1)], [process(2)], total=1))
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.sample(2, "procesos", "snapshot")
        for asked, expected in ((False, [0, 0]), (True, [2, 1])):
            await reader.send({"type": "backfill", "feed": "procesos", "host": "web-1", "processes": asked})
            frames = await answer(reader)
            samples = [sample for frame in frames for sample in cast(list[Frame], frame["samples"])]
            assert expected == [len(cast(list[Frame], sample["processes"])) for sample in samples]
            assert [2, 1] == [sample["total"] for sample in samples]


async def test_each_backfill_is_told_that_the_database_hangs(
    database: Dsn, mariadb: Mariadb, writers: Writers, start_bridge: Start
) -> None:
    """A server that takes connections and says nothing, as that of a frozen machine does."""
    writers().commit(ram(1, now_ms() - 1_000))
    bridge = start_bridge(database)
    asked = {"type": "backfill", "feed": "ram", "host": "web-1"}
    async with client(bridge.url) as reader:
        await reader.sample(1, kind="snapshot")
        assert mariadb.pid is not None
        os.kill(mariadb.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                await reader.send(asked)
            for _ in range(2):
                error = await reader.until(
                    lambda frame: frame["type"] == "error" and "backfill" in str(frame["detail"])
                )
                assert "database-unavailable" == error["code"]
        finally:
            os.kill(mariadb.pid, signal.SIGCONT)
        await reader.send(asked)
        (frame,) = await answer(reader)
        assert 1 == len(cast(list[Frame], frame["samples"]))
    assert "Traceback" not in bridge.log()


async def answer(reader: Client) -> list[Frame]:
    """Return the frames of one backfill."""
    frames: list[Frame] = []
    while not (frames and frames[-1]["last"]):
        frames.append(await reader.until(lambda frame: frame["type"] == "backfill"))
    return frames


def pids(frame: Frame) -> set[int]:
    """Return the processes in a frame's table."""
    return {cast(int, each["pid"]) for each in cast(dict[str, list[Frame]], frame["sample"])["processes"]}
