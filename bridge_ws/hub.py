"""The fan-out: every frame is encoded once and offered to each client's mailbox; each client has a writer of its own.

Offering never waits, so no client can slow the feed or another client; a mailbox is bounded, so none can grow memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from bridge_ws.live import Live
from bridge_ws.mailbox import Mailbox, Owed
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import Encoded, Error, ErrorCode, Key, Subscription, encode


class Connection(Protocol):
    """What the hub needs of a WebSocket connection."""

    async def send(self, message: bytes, *, text: bool) -> None:
        """Send a text frame, waiting while the client's buffers are full."""


class SlowClientError(Exception):
    """A client took no byte for longer than the limit."""


class Client:
    """One connection: what it wants, what waits for it, and its writer."""

    def __init__(self, connection: Connection, subscription: Subscription, limit: int) -> None:
        self.subscription = subscription
        self.mailbox = Mailbox(limit)
        self.wake = asyncio.Event()
        self._connection = connection

    async def write(self, resolve: Callable[[Owed], list[Encoded]], metrics: Metrics, patience: float) -> None:
        """Send what waits, until cancelled or closed. Raises SlowClientError after `patience` seconds in one frame."""
        while True:
            item = self.mailbox.take()
            if item is None:
                self.wake.clear()
                await self.wake.wait()
                continue
            if item.key is not None and not self.subscription.wants(item.key):
                continue  # unsubscribed while it waited
            for frame in [item] if isinstance(item, Encoded) else resolve(item):
                await self.send(frame, metrics, patience)

    async def send(self, frame: Encoded, metrics: Metrics, patience: float) -> None:
        """Send one frame past the mailbox: `hello`, and the answer to what the client said."""
        try:
            async with asyncio.timeout(patience):
                await self._connection.send(frame.text, text=True)
        except TimeoutError:
            raise SlowClientError from None
        metrics.frames.labels(frame.type).inc()


class Hub:
    """Every client, and what is newest for those that come or fall behind."""

    def __init__(self, live: Live, metrics: Metrics) -> None:
        self._live = live
        self._metrics = metrics
        self._clients: set[Client] = set()

    def __len__(self) -> int:
        """Return how many clients there are."""
        return len(self._clients)

    def attach(self, client: Client) -> None:
        """Take a client in: the newest of all that it wants, then every sample."""
        self._clients.add(client)
        self._metrics.clients.set(len(self._clients))
        self.send_newest(client, client.subscription)

    def detach(self, client: Client) -> None:
        """Let a client go, and all that waits for it."""
        self._clients.discard(client)
        self._metrics.clients.set(len(self._clients))

    def send_newest(self, client: Client, asked: Subscription) -> None:
        """Queue a snapshot of each host and feed that is asked for."""
        for key in self._live.ordered():
            if asked.wants(key):
                self._offer_snapshot(client, key)
        client.wake.set()

    def publish(self, frame: Encoded) -> None:
        """Queue a `sample` for every client that wants it, or an `error` for all."""
        for client in self._clients:
            if frame.key is None or client.subscription.wants(frame.key):
                client.mailbox.offer(frame)
                client.wake.set()

    def publish_snapshot(self, key: Key) -> None:
        """Queue a new snapshot for every client that wants the key: what it rebuilt may differ from ours now."""
        for client in self._clients:
            if client.subscription.wants(key):
                self._offer_snapshot(client, key)
                client.wake.set()

    def publish_restart(self, *, missed: bool) -> None:
        """Owe every client a snapshot of everything; `missed`: after a gap that nobody can count."""
        for key in self._live.ordered():
            for client in self._clients:
                if client.subscription.wants(key):
                    client.mailbox.owe(key, unknown=missed)
                    client.wake.set()

    def publish_error(self, code: ErrorCode, detail: str) -> None:
        """Queue an `error` for every client."""
        self.publish(encode(Error(code=code, detail=detail)))

    def resolve(self, owed: Owed) -> list[Encoded]:
        """Return what a key is owed as it is now: a `gap` where samples were missed, and the snapshot."""
        snapshot = self._live.snapshot(owed.key)
        frames = [] if snapshot is None else [snapshot]
        gap = owed.gap(snapshot)
        if gap is not None:
            self._metrics.gaps.inc()
            frames.insert(0, encode(gap))
        return frames

    def _offer_snapshot(self, client: Client, key: Key) -> None:
        snapshot = self._live.snapshot(key)
        if snapshot is not None:
            client.mailbox.offer(snapshot)
