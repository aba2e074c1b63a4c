"""Connections: accepted, led through TLS as configured at that moment, and cut when their client is too slow.

A client decides when it sends and reads; so each phase in which we wait for it has a bound, on the loop's monotonic
clock, and so has their number. aiohttp bounds the size of headers and the time between requests, but neither the time
that headers take nor the time that an answer takes to be read.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import ssl
import struct
import termios
from asyncio.trsock import TransportSocket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from aiohttp import web

from exporter.serving import tls
from exporter.serving.live import Current
from latido import logs

log = logs.get(__name__)

_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of no time: closing drops what the client has not read, instead of keeping it in the kernel."""
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Bounds:
    """How long a client may take, in seconds, and how many there may be."""

    handshake: float = 10.0
    """From connecting to the end of the TLS handshake."""
    request: float = 10.0
    """From connecting, or from the first byte of a further request, to the end of its headers."""
    answer: float = 30.0
    """From the end of a scrape until the client has taken all of it. Prometheus itself gives up after 10 s."""
    idle: float = 300.0
    """Between two requests. Longer than the usual scrape intervals, so that a TLS handshake is rare."""
    connections: int = 256
    """Beyond them the one that has been idle longest goes; if none is idle, new ones wait in the kernel's queue."""


class Connections:
    """The connections of an application: add `middleware` to it, `start` with its server, `stop` before it ends."""

    def __init__(self, current: Current, bounds: Bounds | None = None) -> None:
        self._current = current
        self._bounds = bounds or Bounds()
        self._tasks: set[asyncio.Task[None]] = set()
        # In the order in which they last became idle or came.
        self._open: dict[asyncio.BaseProtocol, _Connection] = {}
        self._handshakes = 0
        self._room = asyncio.Event()

    def install(self, app: web.Application) -> None:
        """Have the application say when it begins and ends to answer. Comes after every other middleware."""

        @web.middleware
        async def phases(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            connection = self._open.get(request.protocol)
            if connection is None:
                return await handler(request)
            connection.enter(_Phase.HANDLING)
            try:
                return await handler(request)
            finally:
                connection.enter(_Phase.ANSWERING)

        app.middlewares.insert(0, phases)

    def start(self, make_protocol: Callable[[], asyncio.Protocol], listeners: Sequence[socket.socket]) -> None:
        """Accept on all listeners."""
        for listener in listeners:
            listener.setblocking(False)
            self._keep(self._accept(make_protocol, listener))

    async def stop(self) -> None:
        """Accept no more, and drop handshakes. Open connections are the application's to end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Drop every connection that is still open."""
        for connection in list(self._open.values()):
            connection.cut()

    def _keep(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("connection failed", error=repr(error))

    async def _accept(self, make_protocol: Callable[[], asyncio.Protocol], listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    log.error("no connection can be accepted for now", reason=error.strerror)
                    await asyncio.sleep(_PAUSE_SECONDS)  # nothing announces that descriptors are free again
                continue  # else the client has gone before it was accepted
            try:
                await self._make_room()
            except asyncio.CancelledError:
                accepted.close()
                raise
            self._handshakes += 1
            self._keep(self._open_one(make_protocol, accepted))

    async def _open_one(self, make_protocol: Callable[[], asyncio.Protocol], accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        protection = self._current()
        sans = protection.config.tls.allowed_sans if protection.config.tls else None

        def connection() -> _Connection:
            return _Connection(make_protocol(), self, self._bounds, sans)

        try:
            with_tls = protection.context is not None
            await loop.connect_accepted_socket(
                connection,
                accepted,
                ssl=protection.context,
                ssl_handshake_timeout=self._bounds.handshake if with_tls else None,
                ssl_shutdown_timeout=self._bounds.handshake if with_tls else None,
            )
        except (OSError, ssl.CertificateError) as error:
            # Every scan of the network brings one about.
            log.debug("handshake failed", reason=str(error))
        finally:
            self._handshakes -= 1
            self._room.set()

    async def _make_room(self) -> None:
        while len(self._open) + self._handshakes >= self._bounds.connections:
            idle = next((item for item in self._open.values() if item.phase is _Phase.IDLE), None)
            if idle is not None:
                idle.cut()
            self._room.clear()
            await self._room.wait()

    # --- what a connection tells ---

    def opened(self, inner: asyncio.BaseProtocol, connection: _Connection) -> None:
        """Count a connection."""
        self._open[inner] = connection

    def rested(self, inner: asyncio.BaseProtocol) -> None:
        """Note that a connection has become idle: of the idle ones it is the latest now."""
        if inner in self._open:
            self._open[inner] = self._open.pop(inner)
            self._room.set()

    def closed(self, inner: asyncio.BaseProtocol) -> None:
        """Forget a connection."""
        self._open.pop(inner, None)
        self._room.set()


class _Phase(Enum):
    READING = "the request took too long to arrive"
    HANDLING = "the answer took too long to make"
    ANSWERING = "the answer took too long to be read"
    IDLE = "nothing was asked for a long time"


class _Connection(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol, and watches the time."""

    def __init__(
        self, inner: asyncio.Protocol, connections: Connections, bounds: Bounds, sans: frozenset[str] | None
    ) -> None:
        self.phase = _Phase.READING
        self._inner = inner
        self._connections = connections
        self._bounds = bounds
        self._sans = sans
        self._transport: asyncio.Transport | None = None
        # Kept: a TLS transport that was closed twice, as aiohttp does, forgets what it stands on (CPython 3.11).
        self._socket: TransportSocket | None = None
        self._address = "unknown"
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    def enter(self, phase: _Phase) -> None:
        """Begin a phase; its bound runs from now."""
        self.phase = phase
        if phase is _Phase.READING:
            self._arm(self._bounds.request)
        elif phase is _Phase.ANSWERING:
            self._arm(self._bounds.answer)
        elif phase is _Phase.IDLE:
            self._arm(self._bounds.idle)
            self._connections.rested(self._inner)
        elif self._timer is not None:
            self._timer.cancel()  # how long a scrape takes is not the client's doing

    def cut(self) -> None:
        """Drop the connection, and what its client has not read."""
        if self._transport is None:
            return
        if self._socket is not None and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with suppress(OSError):  # it is no longer connected
                self._socket.shutdown(socket.SHUT_RD)  # which ends also one that `abort` no longer reaches
        with suppress(AttributeError):  # CPython 3.11.2, which Debian 12 has, raises it where it was closed twice
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless the client's certificate carries none of the names allowed."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"expected a stream transport, got {transport!r}")
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self._address = str(name[0])
        if not tls.allowed(transport.get_extra_info("peercert"), self._sans):
            log.info("client refused: its certificate has none of client_allowed_sans", address=self._address)
            self._refused = True
            self.cut()
            return
        self._connections.opened(self._inner, self)
        self.enter(_Phase.READING)
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on. The first of a further request start its time."""
        if self._refused:
            return
        if self.phase in {_Phase.ANSWERING, _Phase.IDLE}:
            self.enter(_Phase.READING)
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return None if self._refused else self._inner.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        if not self._refused:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if not self._refused:
            self._inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
        if not self._refused:
            self._connections.closed(self._inner)
            self._inner.connection_lost(error)
        self._transport = None

    def _arm(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expired)

    def _expired(self) -> None:
        if self._transport is None:
            return
        if self.phase is _Phase.ANSWERING and not self._unread(self._transport):
            self.enter(_Phase.IDLE)
            return
        log.debug("connection cut", reason=self.phase.value, address=self._address)
        self.cut()

    def _unread(self, transport: asyncio.Transport) -> bool:
        """Whether the client has yet to take something: TIOCOUTQ of tcp(7), which sees below TLS too."""
        if self._socket is None or self._socket.fileno() < 0:
            return False
        waiting = struct.unpack("i", fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
        if waiting or transport.is_closing():  # what a closing one still holds has gone to the kernel, or waits there
            return bool(waiting)
        return transport.get_write_buffer_size() > 0
