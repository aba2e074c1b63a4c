"""A client that records everything, through what goes wrong at night: nothing is missing, doubled or out of order.

Two APIs store the samples of two hosts, shuffled by a seed, some a round or two late; the bridge is killed and the
database restarted while they do. The client is what the protocol's document describes: it comes back with its token,
and keeps each host's process table from the last snapshot and what follows. After every round that table is what the
database's own question of a moment answers.
"""

from __future__ import annotations

import asyncio
import random
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import cast

import msgspec
import pytest
from pymysql.cursors import DictCursor
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from bridge_ws.tests.rig import BOOT, STREAM, Client, Frame, client, now_ms, seq_of
from bridge_ws.tests.samples import procesos, process, ram
from dev.mariadb import Mariadb
from dev.program import Program, Start
from dev.waiting import wait_until
from ingest.contract.wire import ProcesosSample, Process, RamSample
from ingest.schema import questions, upgrade

HOSTS = ("web-1", "web-2")
ROUNDS = 12
BATCH = 5
KEYFRAMES = 7
SECONDS = 60.0
Sample = RamSample | ProcesosSample
Table = dict[int, tuple[object, object]]
"""CPU nanoseconds and resident bytes by pid."""


@dataclass
class Host:
    """A made-up machine whose processes are born, work and end."""

    name: str
    chance: random.Random
    at: int = field(default_factory=lambda: now_ms() - 600_000)
    seq: int = 0
    last_pid: int = 0
    processes: dict[int, Process] = field(default_factory=dict)

    def samples(self) -> Iterator[Sample]:
        """Yield what it says at one moment: memory, and the processes that changed since the moment before."""
        self.seq += 1
        at = self.at + 1000 * self.seq
        gone = [self.processes.pop(pid) for pid in list(self.processes) if self.chance.random() < 0.1]
        changed = [pid for pid in self.processes if self.chance.random() < 0.4]
        born = range(self.last_pid + 1, self.last_pid + 1 + self.chance.randint(0, 3))
        self.last_pid += len(born)
        for pid in (*changed, *born):
            self.processes[pid] = process(pid, 1_000_000 * self.seq, delta=1_000_000)
        keyframe = self.seq % KEYFRAMES == 1
        carried = self.processes.values() if keyframe else [self.processes[pid] for pid in (*changed, *born)]
        yield ram(self.seq, at)
        yield procesos(self.seq, at, list(carried), gone, keyframe=keyframe, total=len(self.processes))


@dataclass
class Recording:
    """A client that stays: every connection it had, and each host's table as the document says to keep it."""

    url: str
    connections: list[Client] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=lambda: {host: {} for host in HOSTS})
    newest: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Record until cancelled; come back with the newest token whenever the connection ends."""
        token: str | None = None
        while True:
            try:
                async with client(self.url, f"?resume={token}" if token else "") as connected:
                    self.connections.append(connected)
                    while True:
                        self.take(await connected.next())
                        token = connected.token
            except (ConnectionClosed, InvalidHandshake, OSError, EOFError):
                await asyncio.sleep(0.05)  # a bridge that is being started; bounded by the test's own conditions

    def take(self, frame: Frame) -> None:
        """Keep a host's table."""
        if frame.get("feed") != "procesos":
            return
        host, seq = cast(str, frame["host"]), seq_of(frame)
        sample = cast(dict[str, list[Frame]], frame["sample"])
        table = self.tables[host]
        if frame["type"] == "snapshot":
            table.clear()
        elif frame["late"] or seq <= self.newest[host]:
            return
        elif sample["keyframe"]:
            table.clear()
        self.newest[host] = seq
        table.update({cast(int, one["pid"]): (one["cpu_ns"], one["rss_bytes"]) for one in sample["processes"]})
        for one in sample["exited"]:
            table.pop(cast(int, one["pid"]), None)

    def samples(self, host: str, feed: str) -> set[int]:
        """Return the numbers of all that came."""
        return {seq for connection in self.connections for seq in connection.seqs(feed, host=host)}


@pytest.mark.parametrize("seed", [3, 12])
async def test_a_recording_client_misses_nothing_through_restarts(
    own_mariadb: Mariadb, start: Start, seed: int
) -> None:
    dsn = own_mariadb.create_database("latido")
    assert upgrade.main([f"--db.dsn={dsn}"]) == 0
    apis = [start("ingest", name, dsn=dsn) for name in ("raw", "orm")]
    bridge = start("bridge", dsn=dsn, flags=("--bridge.poll-interval=50ms",))
    chance = random.Random(seed)  # noqa: S311 - a schedule to repeat
    hosts = [Host(name, chance) for name in HOSTS]
    recording = Recording(bridge.url)
    task = asyncio.create_task(recording.run())
    loop = asyncio.get_running_loop()
    pushers = ThreadPoolExecutor(8)  # of their own: while the database is away they wait
    await wait_until(lambda: bool(recording.connections and recording.connections[0].frames), "hello")
    held: list[tuple[str, Sample]] = []
    stored: dict[str, int] = {}
    for number in range(ROUNDS):
        due = held + [(host.name, sample) for host in hosts for _ in range(BATCH) for sample in host.samples()]
        chance.shuffle(due)
        keep = 0 if number == ROUNDS - 1 else chance.randint(0, len(due) // 3)
        held, due = due[:keep], due[keep:]
        pushing = [loop.run_in_executor(pushers, push, chance.choice(apis), *one) for one in due]
        if number in (3, 8):
            await asyncio.to_thread(bridge.kill)
            await asyncio.gather(*pushing)  # stored while nobody publishes
            bridge.start(ready="")  # by this thread: it ends with the one that starts it
        elif number in (5, 8):
            await asyncio.to_thread(own_mariadb.stop)
            own_mariadb.start()
        await asyncio.gather(*pushing)
        stored = {host: max([stored.get(host, 0), *(one.seq for name, one in due if name == host)]) for host in HOSTS}
        there = {host: database_table(own_mariadb, host) for host in HOSTS}
        await wait_until(
            lambda: recording.tables == there,  # noqa: B023 - awaited within the round
            f"the tables are the database's after round {number}",
            SECONDS,
        )
    pushers.shutdown()
    assert not held
    # What the client was sent, in all of its connections. What was there before the first is in its snapshot.
    for host in hosts:
        for feed in ("ram", "procesos"):
            first = min(recording.samples(host.name, feed))
            await wait_until(
                lambda: recording.samples(host.name, feed) == set(range(first, host.seq + 1)),  # noqa: B023
                f"every {feed} of {host.name}",
                SECONDS,
            )
            assert first <= BATCH
            for connection in recording.connections:
                assert set(Counter(connection.seqs(feed, host=host.name)).values()) <= {1}
                check_order(connection, feed, host.name)
    assert len(recording.connections) >= 3
    assert not [frame for connection in recording.connections for frame in connection.frames if frame["type"] == "gap"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def check_order(connection: Client, feed: str, host: str) -> None:
    """Check that a connection's samples of a feed ascend, but for those that are flagged late, which do not."""
    newest = 0
    for frame in connection.frames:
        if frame.get("feed") != feed or frame["host"] != host:
            continue
        seq = seq_of(frame)
        if frame["type"] == "sample":
            assert frame["late"] is (seq < newest), frame
        newest = max(newest, seq)


def push(api: Program, host: str, sample: Sample) -> None:
    """Push a sample until it is acknowledged, as an exporter does; the database may be away for a while."""
    feed = "ram" if isinstance(sample, RamSample) else "procesos"
    document = {"host": host, "stream": STREAM, "boot_id": BOOT, "kernel": "6.1", "samples": [sample]}
    request = urllib.request.Request(
        f"{api.url}/api/{feed}", msgspec.json.encode(document), {"Content-Type": "application/json"}
    )
    for _ in range(60):
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                assert response.status == 201
                return
        except urllib.error.HTTPError as error:
            if error.code not in {429, 503}:
                raise AssertionError(error.read().decode()) from None
            time.sleep(float(error.headers["Retry-After"]))
    raise AssertionError("never acknowledged")


def database_table(server: Mariadb, host: str) -> Table:
    """Return the process table of a host at its newest sample, by the question that the dashboards ask."""
    with closing(server.connect("latido")) as connection, connection.cursor(DictCursor) as cursor:
        cursor.execute(
            "SELECT h.id, MAX(p.sampled_at) AS at FROM hosts h JOIN procesos p ON p.host_id = h.id WHERE h.name = %s"
            " GROUP BY h.id",
            (host,),
        )
        (newest,) = cursor.fetchall()
        cursor.execute(questions.TABLE_AT.format(hosts=newest["id"], at=f"'{newest['at']}'", limit=100_000))
        return {row["pid"]: (round(row["cpu_seconds"] * 10**9), row["rss_bytes"]) for row in cursor.fetchall()}
