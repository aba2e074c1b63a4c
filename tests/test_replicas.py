"""Two bridges behind Debian's nginx: whoever a client meets, it is the same feed; one that is killed costs nothing."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from websockets.exceptions import ConnectionClosed

from bridge_ws.tests.rig import Client, Writer, client, now_ms
from bridge_ws.tests.samples import ram
from dev import nginx
from dev.program import Start
from dev.waiting import wait_until
from latido import settings

BEFORE, MEANWHILE, AFTER = 20, 20, 20
"""Samples that are stored before one is killed, while its client is away, and after it came back."""


class Pace:
    """A thread that stores one host's samples, alternating between two APIs' connections that commit in turn."""

    def __init__(self, dsn: str) -> None:
        self._dsn = settings.dsn(dsn)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self.run)
        self.stored = 0

    def run(self) -> None:
        """Store until `stop`; the second connection commits after the first, though its sample is older."""
        early, late = Writer(self._dsn), Writer(self._dsn)
        while not self._end.wait(0.02):
            late.store(ram(self.stored + 1, now_ms()), api="orm")
            early.commit(ram(self.stored + 2, now_ms()), api="raw")
            late.commit()
            self.stored += 2
        early.close()
        late.close()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> int:
        """End, and return how many were stored."""
        self._end.set()
        self._thread.join()
        return self.stored


@contextmanager
def storing(dsn: str) -> Iterator[Pace]:
    """Store samples until the end."""
    pace = Pace(dsn)
    pace.start()
    try:
        yield pace
    finally:
        pace.stop()


async def listen(reader: Client) -> None:
    """Take everything in until the connection ends."""
    try:
        while True:
            await reader.next()
    except ConnectionClosed:
        return


async def test_both_show_the_same_and_killing_one_loses_nothing(database: str, start: Start, tmp_path: Path) -> None:
    bridges = [start("bridge", dsn=database) for _ in range(2)]
    with nginx.before([bridge.port for bridge in bridges], tmp_path) as url, storing(database) as pace:
        async with client(url) as stays:
            held = next(bridge for bridge in bridges if bridge.metric("latido_bridge_clients") == 1)
            doomed = next(bridge for bridge in bridges if bridge is not held)
            staying = asyncio.create_task(listen(stays))
            async with client(url) as leaves:  # nginx takes turns
                assert 1 == doomed.metric("latido_bridge_clients")
                leaving = asyncio.create_task(listen(leaves))
                await wait_until(lambda: len(leaves.seqs("ram")) > BEFORE, "the feed flows", 60)
                await asyncio.to_thread(doomed.kill)
                await leaving
            token = leaves.token
            assert token is not None
            away = pace.stored + MEANWHILE
            await wait_until(lambda: pace.stored > away, "samples are stored while it is away", 60)
            async with client(url, f"?resume={token}") as back:
                assert "hello" == (await back.next())["type"]
                coming = asyncio.create_task(listen(back))
                last = pace.stored + AFTER
                await wait_until(lambda: pace.stored > last, "samples are stored after it came back", 60)
                expected = await asyncio.to_thread(pace.stop)
                for reader in (stays, back):
                    await wait_until(lambda: expected in reader.seqs("ram"), "the last one came", 60)  # noqa: B023
                first = min(leaves.seqs("ram"))
                seen = Counter([*leaves.seqs("ram"), *back.seqs("ram")])
                assert set(range(first, expected + 1)) <= set(seen)
                # A token looks back as far as a transaction may take: what was there before may come again, once.
                assert {1, 2} >= set(seen.values())
                assert {1} == set(Counter(stays.seqs("ram")).values())
                assert set(range(min(stays.seqs("ram")), expected + 1)) == set(stays.seqs("ram"))
                assert [] == [frame for frame in [*stays.frames, *back.frames] if frame["type"] == "gap"]
        for task in (coming, staying):
            await task
