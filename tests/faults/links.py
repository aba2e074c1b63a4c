"""TCP proxies between the parts of a stack: what passes can be delayed, cut, refused or reset, and is listened to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

R = TypeVar("R")

CHUNK: Final = 1 << 16
CONNECT_SECONDS: Final = 5.0


class Tap(Protocol):
    """Hears what passes a connection."""

    def sent(self, data: bytes) -> None:
        """Take bytes of the client."""

    def answered(self, data: bytes) -> None:
        """Take bytes of the server."""


class _Deaf:
    """A tap that hears nothing."""

    def sent(self, data: bytes) -> None:
        """Drop it."""

    def answered(self, data: bytes) -> None:
        """Drop it."""


@dataclass
class Link:
    """A proxy from a port of its own to `target`. Faults are set from any thread and hold until they are unset."""

    name: str
    target: int
    tap: Callable[[], Tap]
    port: int = 0
    delay: float = 0.0
    """Seconds that each piece waits, in both directions."""
    is_cut: bool = False
    """Whether new connections are reset at once; `Links.reset` ends those that stand."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Join a client with the target until either ends."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.is_cut:
                return
            async with asyncio.timeout(CONNECT_SECONDS):
                answers, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(upstream)
            tap = self.tap()
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, upstream, tap.sent))
                pumps.create_task(self._pump(answers, writer, tap.answered))
        except* OSError:
            pass  # either side went away, which is what links are for
        finally:
            for end in (writer, upstream):
                if end is not None:
                    self._writers.discard(end)
                    reset(end)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Callable[[bytes], None]
    ) -> None:
        while data := await reader.read(CHUNK):
            heard(data)
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # one side is done: the other is ended with it

    def reset_all(self) -> None:
        """Reset every connection (RST, not FIN); on the loop."""
        for writer in list(self._writers):
            reset(writer)

    async def end(self) -> None:
        """End what still runs."""
        self.reset_all()
        await asyncio.gather(*list(self._tasks), return_exceptions=True)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by RST (socket(7), SO_LINGER of 0)."""
    opened = writer.get_extra_info("socket")
    if opened is not None:
        with contextlib.suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Links:
    """The proxies of a stack, on an event loop in a thread of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._thread.start()
        self._links: list[Link] = []
        self._servers: list[asyncio.Server] = []

    def open(self, name: str, target: int, tap: Callable[[], Tap] = _Deaf) -> Link:
        """Return a new proxy that listens on a free port of loopback."""
        link = Link(name, target, tap)
        server = self._run(asyncio.start_server(link.handle, "127.0.0.1", 0))
        link.port = server.sockets[0].getsockname()[1]
        self._links.append(link)
        self._servers.append(server)
        return link

    def reset(self, link: Link) -> None:
        """Reset every connection of a link."""
        self._loop.call_soon_threadsafe(link.reset_all)

    def close(self) -> None:
        """End every proxy and the thread."""
        for server in self._servers:
            self._loop.call_soon_threadsafe(server.close)
        for link in self._links:
            self._run(link.end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[object, object, R]) -> R:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)
