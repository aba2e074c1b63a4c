"""The fan-out: every frame is made once, plain and compressed, and written to every client that wants it.

Clients that want the same in the same form are a group, so what a frame costs is one write a client. It goes straight
to the transport of a client that keeps up. One whose transport holds bytes gets a mailbox, which is bounded, and is
written to again when the transport is empty: no client can slow another, and none can grow memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

from bridge_ws.cursor import OVERLAP
from bridge_ws.live import Live
from bridge_ws.mailbox import Mailbox, Owed
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import Encoded, Error, ErrorCode, Key, Subscription, encode
from bridge_ws.recent import Recent
from ingest.contract.wire import Feed

BATCH_BYTES: Final = 128 << 10
"""Frames that are published together are written together, up to so many bytes."""
TURN_BYTES: Final = 256 << 10
"""What one client that was behind, or came, is written before the others have their turn."""


class Client:
    """One connection: what it wants, and what waits for it. `write` never waits.

    `compressed`: it negotiated permessage-deflate. `clear`: nothing waits, so frames are written at once.
    """

    __slots__ = (
        "clear",
        "compressed",
        "flowing",
        "mailbox",
        "replay",
        "replay_since",
        "replayed",
        "stuck_since",
        "subscription",
        "turn",
        "waiters",
        "write",
    )

    def __init__(self, write: Callable[[bytes], None], subscription: Subscription, *, compressed: bool = False) -> None:
        self.write = write
        self.subscription = subscription
        self.compressed = compressed
        self.flowing = True  # its transport holds nothing
        self.clear = False
        self.mailbox: Mailbox | None = None
        self.replay: int | None = None
        self.replay_since: datetime | None = None
        self.replayed: set[Key] | None = None
        self.stuck_since = 0.0
        self.waiters: list[asyncio.Future[None]] | None = None
        self.turn = False  # its next turn is scheduled


class _Group:
    """Clients that want the same in the same form."""

    __slots__ = ("clients", "compressed", "subscription")

    def __init__(self, subscription: Subscription, *, compressed: bool) -> None:
        self.subscription, self.compressed = subscription, compressed
        self.clients: set[Client] = set()


class Hub:
    """Every client, and what is newest for those that come or fall behind. `limit`: bytes that wait for one client."""

    def __init__(self, live: Live, recent: Recent, metrics: Metrics, *, limit: int) -> None:
        self._live, self._recent, self._metrics = live, recent, metrics
        self._limit = limit
        self._clients: set[Client] = set()
        self._stuck: set[Client] = set()
        self._groups: dict[tuple[Subscription, bool], _Group] = {}
        self._batch: list[Encoded] = []
        self._batch_bytes = 0

    def __len__(self) -> int:
        """Return how many clients there are."""
        return len(self._clients)

    def clients(self) -> list[Client]:
        """Return every client."""
        return list(self._clients)

    # --- clients ---

    def attach(self, client: Client, resume: datetime | None = None, *, lost: bool = False) -> None:
        """Take a client in: the newest of all that it wants, then every sample.

        `resume`: what it may have missed since that token, then every sample; `recent` must hold it. `lost`: it had a
        token that is too old, so of everything there is a gap.
        """
        self.flush()
        self._clients.add(client)
        self._metrics.clients.set(len(self._clients))
        if not client.flowing:
            self.pause(client)
        client.replay = self._recent.position(resume) if resume is not None else None
        if client.replay is not None and resume is not None:
            client.replay_since = resume - OVERLAP
            client.replayed = set()
        else:
            self._owe_all(client, client.subscription, unknown=lost or resume is not None, first=True)
            self._join(client)
        self._drain(client)

    def detach(self, client: Client) -> None:
        """Let a client go, and all that waits for it."""
        self._clients.discard(client)
        self._stuck.discard(client)
        self._leave(client)
        self._metrics.clients.set(len(self._clients))
        client.mailbox, client.clear, client.flowing, client.replay = None, False, False, None
        self._wake(client)

    def subscribe(self, client: Client, subscription: Subscription, asked: Subscription | None) -> None:
        """Change what a client wants, and send it a snapshot of each host and feed that is `asked` for."""
        self.flush()
        joined = self._leave(client)
        client.subscription = subscription
        if joined:
            self._join(client)
        if asked is not None:
            self._owe_all(client, asked)
            self._drain(client)

    def send(self, client: Client, frame: Encoded) -> None:
        """Send a frame to one client, after what waits for it."""
        if client.clear:
            self._metrics.frames.labels(frame.type).inc()
            client.write(frame.deflated if client.compressed else frame.plain)
        elif client in self._clients:
            self._mailbox(client).offer(frame)

    async def drained(self, client: Client) -> bool:
        """Wait until nothing waits for a client; return whether it is still there."""
        while client in self._clients and not client.clear:
            waiter = asyncio.get_running_loop().create_future()
            if client.waiters is None:
                client.waiters = []
            client.waiters.append(waiter)
            await waiter
        return client in self._clients

    def pause(self, client: Client) -> None:
        """Note that a client's transport holds bytes that the kernel does not take."""
        client.flowing = client.clear = False
        if client in self._clients:
            client.stuck_since = time.monotonic()
            self._stuck.add(client)

    def resume(self, client: Client) -> None:
        """Note that a client's transport is empty, and go on."""
        self._stuck.discard(client)
        if client in self._clients:
            client.flowing = True
            self._drain(client)

    def stuck(self, seconds: float) -> list[Client]:
        """Return the clients that took nothing for so long."""
        before = time.monotonic() - seconds
        return [client for client in self._stuck if client.stuck_since < before]

    # --- frames ---

    def publish(self, frame: Encoded) -> None:
        """Send a `sample` to every client that wants it, or a frame without key to all."""
        if not self._batch:
            asyncio.get_running_loop().call_soon(self.flush)
        self._batch.append(frame)
        self._batch_bytes += frame.size
        if self._batch_bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was published since the last time: what belongs together in one write."""
        if not self._batch:
            return
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        for group in self._groups.values():
            wants = group.subscription.wants
            frames = [frame for frame in batch if frame.key is None or wants(frame.key)]
            if frames:
                self._write(group, frames)

    def _write(self, group: _Group, frames: list[Encoded]) -> None:
        wires = [frame.deflated if group.compressed else frame.plain for frame in frames]
        data = wires[0] if len(wires) == 1 else b"".join(wires)
        behind = []
        for client in group.clients:
            if client.clear:
                client.write(data)
            else:
                behind.append(client)
        for client in behind:
            mailbox = self._mailbox(client)
            for frame in frames:
                mailbox.offer(frame)
        for frame in frames:
            self._metrics.frames.labels(frame.type).inc(len(group.clients) - len(behind))

    def publish_snapshot(self, key: Key) -> None:
        """Send a new snapshot to every client that wants the key: what it rebuilt may differ from ours now."""
        snapshot = self._live.snapshot(key)
        if snapshot is not None:
            self.publish(snapshot)

    def publish_restart(self, *, missed: bool) -> None:
        """Owe every client a snapshot of everything; `missed`: after a gap that nobody can count."""
        self.flush()
        for client in list(self._clients):
            if client.replay is None:
                self._owe_all(client, client.subscription, unknown=missed)
            self._drain(client)

    def publish_error(self, code: ErrorCode, detail: str) -> None:
        """Send an `error` to every client."""
        self.publish(encode(Error(code=code, detail=detail)))

    # --- one client's turn ---

    def _drain(self, client: Client) -> None:
        """Write what waits for a client until its transport holds bytes, or its turn is over."""
        if client.turn:
            return
        written = 0
        while client.flowing:
            frames = self._next(client)
            if not frames:
                client.mailbox = None
                client.clear = True
                self._wake(client)
                return
            for frame in frames:
                data = frame.deflated if client.compressed else frame.plain
                client.write(data)
                written += len(data)
                self._metrics.frames.labels(frame.type).inc()
            if written >= TURN_BYTES:
                client.clear = False
                client.turn = True
                asyncio.get_running_loop().call_soon(self._again, client)
                return

    def _again(self, client: Client) -> None:
        client.turn = False
        self._drain(client)

    def _next(self, client: Client) -> list[Encoded]:
        """Return what a client is sent next; nothing: nothing waits."""
        if client.replay is not None and (frame := self._replayed(client)) is not None:
            return [frame]
        while client.mailbox is not None and (item := client.mailbox.take()) is not None:
            if item.key is not None and not client.subscription.wants(item.key):
                continue  # unsubscribed while it waited
            frames = [item] if isinstance(item, Encoded) else self._resolve(item)
            if frames:
                return frames
        return []

    def _replayed(self, client: Client) -> Encoded | None:
        """Return the next frame of a replay; None when it has joined those who get samples as they come."""
        number, since, replayed = client.replay, client.replay_since, client.replayed
        if number is None or since is None or replayed is None:
            return None
        recent = self._recent
        dropped = number < recent.first
        while not dropped and number < recent.end:
            published = recent[number]
            number += 1
            key = published.frame.key
            if published.received_at >= since and key is not None and client.subscription.wants(key):
                replayed.add(key)
                client.replay = number
                return published.frame
        self.flush()  # what was replayed must not come once more
        client.replay = client.replay_since = client.replayed = None
        self._join(client)
        if dropped:
            self._owe_all(client, client.subscription, unknown=True)
        for key in sorted(replayed):
            # What the client rebuilt may lack a sample that came late, before it left or here.
            if key.feed is Feed.PROCESOS:
                self._mailbox(client).owe(key, first=True)
        return None

    def _resolve(self, owed: Owed) -> list[Encoded]:
        """Return what a key is owed as it is now: a `gap` where samples were missed, and the snapshot."""
        snapshot = self._live.snapshot(owed.key)
        frames = [] if snapshot is None else [snapshot]
        gap = owed.gap(snapshot)
        if gap is not None:
            self._metrics.gaps.inc()
            frames.insert(0, encode(gap))
        return frames

    def _owe_all(self, client: Client, asked: Subscription, *, unknown: bool = False, first: bool = False) -> None:
        mailbox = self._mailbox(client)
        for key in self._live.ordered():
            if asked.wants(key):
                mailbox.owe(key, unknown=unknown, first=first)

    def _mailbox(self, client: Client) -> Mailbox:
        client.clear = False
        if client.mailbox is None:
            client.mailbox = Mailbox(self._limit)
        return client.mailbox

    def _join(self, client: Client) -> None:
        name = client.subscription, client.compressed
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = _Group(client.subscription, compressed=client.compressed)
        client.subscription = group.subscription  # one object for all
        group.clients.add(client)

    def _leave(self, client: Client) -> bool:
        name = client.subscription, client.compressed
        group = self._groups.get(name)
        if group is None or client not in group.clients:
            return False
        group.clients.discard(client)
        if not group.clients:
            del self._groups[name]
        return True

    def _wake(self, client: Client) -> None:
        waiters, client.waiters = client.waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
