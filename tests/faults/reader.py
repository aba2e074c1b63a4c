"""A client of the bridge that reads all, comes back when it is sent away, and knows what it should have seen."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

RECONNECT_SECONDS: Final = 0.2
LOOK_SECONDS: Final = 1.0
"""How often it looks whether it is over, while nothing comes."""


class Followed(NamedTuple):
    """One feed of one stream of a host."""

    host: str
    stream: str
    feed: str


class _Numbered(msgspec.Struct):
    seq: int


class _Frame(msgspec.Struct):
    """What is read of a frame; which fields it has depends on its type."""

    type: str
    host: str = ""
    stream: str | None = None
    feed: str = ""
    resume: str | None = None
    token: str | None = None
    sample: _Numbered | None = None


class Reader:
    """Follows the bridge in a thread of its own while the block runs."""

    def __init__(self, port: int, violated: Callable[[str], None]) -> None:
        self._url = f"ws://127.0.0.1:{port}/ws"
        self._violated = violated
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read()), name="reader")
        self._decoder = msgspec.json.Decoder(_Frame)
        self._token: str | None = None
        self._newest: dict[Followed, int] = {}
        self.frames = 0
        self.connections = 0

    def __enter__(self) -> Self:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self.end()

    def end(self) -> None:
        """Read no more; return when the connection is closed."""
        self._over.set()
        self._thread.join()

    def behind(self, stored: Mapping[Followed, int]) -> list[str]:
        """Return the streams whose newest number in the database has not been seen, in words."""
        return [
            f"the feed has shown {one.host} {one.stream} {one.feed} up to {self._newest.get(one, 0)} of {seq}"
            for one, seq in stored.items()
            if self._newest.get(one, 0) < seq
        ]

    async def _read(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError, EOFError, WebSocketException):
                query = f"?resume={self._token}" if self._token else ""
                async with connect(f"{self._url}{query}", max_size=None) as connection:
                    self.connections += 1
                    await self._follow(connection)
            await asyncio.sleep(RECONNECT_SECONDS)  # it may be starting

    async def _follow(self, connection: ClientConnection) -> None:
        seen: set[tuple[Followed, int]] = set()
        while not self._over.is_set():
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    text = await connection.recv()
            except TimeoutError:
                continue
            self.frames += 1
            frame = self._decoder.decode(text)
            self._token = frame.token or frame.resume or self._token
            if frame.sample is None or frame.stream is None:
                continue
            stream, seq = Followed(frame.host, frame.stream, frame.feed), frame.sample.seq
            self._newest[stream] = max(seq, self._newest.get(stream, 0))
            if frame.type == "sample":
                if (stream, seq) in seen:
                    self._violated(f"the feed has sent {stream} {seq} twice on one connection")
                seen.add((stream, seq))
