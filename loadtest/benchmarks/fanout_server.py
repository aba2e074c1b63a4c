"""The sending side of `fanout`, a process of its own: the real bridge without its feed, and what it is compared with.

It reads commands from its standard input, one JSON object a line, and answers each with one line. `limit` writes one
prebuilt frame to each transport of the very clients that `ours` serves; nothing that sends to each of them can do less.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, cast

from prometheus_client import CollectorRegistry
from websockets.asyncio.server import ServerConnection, broadcast, serve

from bridge_ws.metrics import Metrics
from bridge_ws.protocol import Encoded, Key, encode_sample
from bridge_ws.server import Bridge, BridgeSettings, Parts
from ingest.contract.tokens import Tokens
from ingest.contract.wire import Feed, ProcesosSample, Process
from latido import logs, settings

KEY: Final = Key(Feed.PROCESOS, "web-1", "6f1c0000-0000-4000-8000-000000000001")
PROCESS_BYTES: Final = 400
"""A process as JSON, about."""
Command = dict[str, object]


def sample(seq: int, size: int) -> ProcesosSample:
    """Return a process table of about `size` bytes as JSON, different for each `seq`."""
    processes = [
        Process(
            pid=300 + 7 * number,
            start_ticks=100_000 + 13 * number,
            started_at=1_790_000_000_000 + 130 * number,
            ppid=1 + number % 40,
            uid=1000 + number % 5,
            command=("nginx", "postgres", "java", "python3", "node")[number % 5],
            state="SRD"[(number + seq) % 3],
            threads=1 + (number + seq) % 32,
            cpu_ns=12_345_678_901 + 7_654_321 * number + 1_234_567 * seq,
            cpu_delta_ns=1_234_567 + 97 * number * seq,
            user_ns=9_876_543_210 + 5_432_109 * number + 1_111_111 * seq,
            rss_bytes=4096 * (12_345 + 31 * number + seq),
            virtual_bytes=4096 * (234_567 + 53 * number + seq),
            minor_faults=123_456 + 11 * number + seq,
            major_faults=12,
            read_bytes=4096 * (1_234 + number),
            cgroup=f"/system.slice/worker-{number % 7}.service",
        )
        for number in range(max(1, (size - 400) // PROCESS_BYTES))
    ]
    counts = dict.fromkeys(
        ("running", "disk_sleep", "stopped", "traced", "zombie", "dead", "idle", "parked", "other"), 0
    )
    return ProcesosSample(
        seq=seq,
        sampled_at=1_790_000_000_000 + 1_000 * seq,
        keyframe=True,
        total=len(processes),
        threads=2 * len(processes),
        sleeping=len(processes),
        **counts,
        processes=processes,
        exited=[],
    )


class Sender:
    """Sends each message when all clients have the one before it, which their process says on `acknowledged`."""

    def __init__(self, bridge: Bridge, parts: Parts, acknowledged: asyncio.Queue[float]) -> None:
        self._bridge, self._parts, self._acknowledged = bridge, parts, acknowledged
        self._seq = 0
        self.theirs: set[ServerConnection] = set()

    async def send(self, command: Command) -> dict[str, object]:
        """Send messages by one contender; return CPU seconds, wall seconds and when each message was sent."""
        contender, count, size = str(command["contender"]), int(str(command["count"])), int(str(command["size"]))
        act = self._contender(contender)
        frames = []
        for _ in range(count):
            self._seq += 1
            frames.append(sample(self._seq, size))
        sent: list[float] = []
        # The limit's frames are made beforehand; ours are encoded, and compressed once, while the clock runs.
        prebuilt = (
            [encode_sample(KEY, message, "raw", late=False) for message in frames] if contender == "limit" else []
        )
        for frame in prebuilt:
            _ = frame.deflated
        gc.collect()
        wall, cpu = time.monotonic(), time.process_time()
        for number, message in enumerate(frames):
            sent.append(time.monotonic())
            act(prebuilt[number] if prebuilt else encode_sample(KEY, message, "raw", late=False))
            if await self._acknowledged.get() < 0:
                raise ConnectionError("the clients ended")
        return {"cpu": time.process_time() - cpu, "wall": time.monotonic() - wall, "sent": sent}

    def _contender(self, name: str) -> Callable[[Encoded], None]:
        if name == "broadcast":
            return lambda frame: broadcast(self.theirs, frame.text, text=True)
        if name == "ours":
            return self._publish
        clients = self._parts.hub.clients()
        writers = [client.write for client in clients]
        compressed = all(client.compressed for client in clients)

        def limit(frame: Encoded) -> None:
            data = frame.deflated if compressed else frame.plain
            for write in writers:
                write(data)

        return limit

    def _publish(self, frame: Encoded) -> None:
        self._parts.hub.publish(frame)
        self._parts.hub.flush()

    def memory(self) -> dict[str, object]:
        """Return what this process has resident, in KiB, after a collection, and how many clients there are."""
        gc.collect()
        text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
        resident = next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:"))
        return {"resident_kib": resident, "clients": len(self._parts.hub) + len(self.theirs)}


async def main(given: Command) -> None:
    """Serve until standard input ends."""
    logs.setup("error", "console")
    flags = ["--web.listen-address=127.0.0.1:0", "--bridge.max-clients=20000", "--bridge.max-clients-each=20000"]
    bridge_settings = settings.load(
        BridgeSettings, "fanout", "", [*flags, *cast(list[str], given.get("flags", []))], _environ()
    )
    parts = Parts.build(bridge_settings, bridge_settings.database.resolved(), None, Metrics(CollectorRegistry()))
    bridge = Bridge(bridge_settings, parts, tokens=Tokens())
    acknowledged: asyncio.Queue[float] = asyncio.Queue()
    sender = Sender(bridge, parts, acknowledged)

    async def heard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1024):
            for _ in data:
                acknowledged.put_nowait(time.monotonic())
        acknowledged.put_nowait(-1.0)
        writer.close()

    async def theirs(connection: ServerConnection) -> None:
        sender.theirs.add(connection)
        await connection.wait_closed()
        sender.theirs.discard(connection)

    compression = "deflate" if given.get("compressed") else None
    control = await asyncio.start_server(heard, "127.0.0.1", 0)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with (
        bridge.listening() as port,
        serve(theirs, "127.0.0.1", 0, compression=compression, max_queue=4, backlog=1024) as reference,
    ):
        ports = {
            "ours": port,
            "control": control.sockets[0].getsockname()[1],
            "broadcast": next(iter(reference.sockets)).getsockname()[1],
        }
        _say(ports)
        while line := await reader.readline():
            command = cast(Command, json.loads(line))
            _say(await sender.send(command) if command["do"] == "send" else sender.memory())


def _environ() -> dict[str, str]:
    return {**os.environ, "LATIDO_DB_DSN": "mysql://nobody@127.0.0.1:1/none"}  # the feed is not started


def _say(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(cast(Command, json.loads(sys.argv[1]) if len(sys.argv) > 1 else {})))
