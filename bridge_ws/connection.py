"""One WebSocket connection: bytes in, messages out (RFC 6455), for thousands at once.

The protocol itself is `websockets`' without its I/O; here it is joined to an asyncio transport without a task, a queue
or a buffer of its own, which is what an idle client would cost most. What is written is the hub's to decide: shared
frames go straight to `transport.write`, and `pause_writing` says at once that the kernel took less than all.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from websockets.exceptions import NegotiationError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.frames import BINARY, CLOSE, CONT, TEXT, CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import CONNECTING, OPEN
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter, Subprotocol

from bridge_ws import protocol
from bridge_ws.hub import Client
from bridge_ws.protocol import Close
from latido import settings
from latido.settings import Address

OPEN_SECONDS: Final = 10.0
"""For a handshake, and for the first message where a token must come in it."""
CLOSE_SECONDS: Final = 2.0
"""For a client to answer a close frame."""
ANSWER_SECONDS: Final = 60.0
"""For a client to take what plain HTTP answers."""
MAX_HANDSHAKE_BYTES: Final = 32 << 10
"""Of a request with its headers, tokens and cookies included."""
MAX_FRAGMENTS: Final = 64
"""Of one message: no client library makes more of 64 KiB by itself."""
FRAMES_A_TURN: Final = 100
"""Frames of a client between two sweeps of the bridge (a second); who sends more is read from no more till the next."""
UNSENT_BYTES: Final = 128 << 10
"""What the kernel may hold of one client that was not sent yet (TCP_NOTSENT_LOWAT, tcp(7)); it would be megabytes."""
READ_BYTES: Final = 8 << 10

_buffer: Final = memoryview(bytearray(READ_BYTES))
"""What is read lands here, one connection after another."""
_PING: Final = b"\x89\x00"
_FAULTS: Final = frozenset({CloseCode.PROTOCOL_ERROR, CloseCode.MESSAGE_TOO_BIG, CloseCode.INVALID_DATA})
"""What `websockets` closes with by itself: broken frames, text that is not UTF-8, a message that is too large."""
_log: Final = logging.getLogger("websockets.bridge")
_log.setLevel(logging.WARNING)  # else a line for every connection that comes and goes


class Session(Protocol):
    """What a connection is for: the bridge's side."""

    def admit(self, connection: Connection) -> bool:
        """Take a connection in, or not: it is closed without a word."""

    def answer(self, connection: Connection, request: Request) -> Response | None:
        """Return the answer of plain HTTP to a request, or None: let it be a WebSocket."""

    def opened(self, connection: Connection, request: Request) -> None:
        """Begin a conversation."""

    def said(self, connection: Connection, text: str) -> None:
        """Hear a message."""

    def closed(self, connection: Connection, metric: str, code: int, reason: str) -> None:
        """Write no more: the connection closes. Called once after `opened`; `metric` is a word for why."""

    def gone(self, connection: Connection) -> None:
        """Forget a connection. Called once after `admit`."""

    def paused(self, client: Client) -> None:
        """Hold back: the kernel took less than all."""

    def resumed(self, client: Client) -> None:
        """Go on."""


class _Deflate(ServerPerMessageDeflateFactory):
    """permessage-deflate in the one form in which a frame can be shared and nothing is kept between messages."""

    def __init__(self) -> None:
        super().__init__(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            server_max_window_bits=protocol.WINDOW_BITS,
        )

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        """Decline a client that has less memory than the shared frame needs."""
        answer, extension = super().process_request_params(params, accepted_extensions)
        if extension.local_max_window_bits < protocol.WINDOW_BITS:
            raise NegotiationError("the window is smaller than that of the shared frames")
        return answer, extension


_EXTENSIONS: Final = [_Deflate()]


class _Framing(ServerProtocol):
    def select_subprotocol(self, subprotocols: Sequence[Subprotocol]) -> Subprotocol | None:
        # The one that carries a token is never the one chosen: it would come back in the answer.
        return Subprotocol(protocol.SUBPROTOCOL) if protocol.SUBPROTOCOL in subprotocols else None


class Connection(asyncio.BufferedProtocol):
    """A connection from its first byte. `client` is the hub's, once there is one."""

    __slots__ = (
        "_received",
        "_session",
        "_timer",
        "_transport",
        "_ws",
        "address",
        "client",
        "fragments",
        "frames",
        "heard",
        "host",
        "is_open",
        "query",
        "waiting",
        "writable",
    )

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ws: ServerProtocol | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._received = 0
        self.host = self.address = ""
        self.client: Client | None = None
        self.query: protocol.Query | None = None
        self.waiting = False  # for a token, or for what it missed
        self.is_open = False
        self.writable = True
        self.heard = True
        self.frames = 0
        self.fragments: list[bytes] | None = None

    # --- what the transport says ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a handshake, for so long."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"expected a stream, got {transport!r}")
        self._transport = transport
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self.host, self.address = name[0], str(Address(*name[:2]))
        if not self._session.admit(self):
            transport.abort()
            return
        # Told of the first byte that the kernel does not take, and again when it has them all.
        transport.set_write_buffer_limits(high=1, low=0)
        plain = transport.get_extra_info("socket")
        if plain is not None:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        self._ws = _Framing(extensions=_EXTENSIONS, max_size=protocol.MAX_MESSAGE_BYTES, logger=_log)
        self.after(OPEN_SECONDS, self.abort)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where to read to."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what was read."""
        ws = self._ws
        if ws is None:
            return
        self.heard = True
        if ws.state is CONNECTING:
            self._received += nbytes
            if self._received > MAX_HANDSHAKE_BYTES:
                self.abort()
                return
        ws.receive_data(bytes(_buffer[:nbytes]))
        for event in ws.events_received():
            if isinstance(event, Request):
                self._handshake(ws, event)
            elif isinstance(event, Frame) and self.is_open:
                self._frame(event)
        if ws.parser_exc is not None and self.is_open:
            self._failed(ws)
        self._send(ws)
        if ws.state is OPEN and self.frames > FRAMES_A_TURN:
            self.pause_reading()

    def eof_received(self) -> bool:
        """End: the other side does."""
        if self._ws is not None:
            self._ws.receive_eof()
            self._send(self._ws)
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was, the client is gone
        """Let everything go."""
        self._end("client")
        self.in_time()
        if self._transport is not None:
            self._session.gone(self)
        self._ws = self._transport = None

    def pause_writing(self) -> None:
        """Hold back what is written."""
        self.writable = False
        if self.client is not None:
            self._session.paused(self.client)

    def resume_writing(self) -> None:
        """Go on."""
        self.writable = True
        if self.client is not None:
            self._session.resumed(self.client)

    # --- what the bridge wants ---

    @property
    def compressed(self) -> bool:
        """Whether it negotiated permessage-deflate."""
        return self._ws is not None and bool(self._ws.extensions)

    def write(self, data: bytes) -> None:
        """Write whole frames."""
        if self._transport is not None:
            self._transport.write(data)

    @property
    def writer(self) -> asyncio.Transport:
        """The transport, of which the hub uses `write`."""
        if self._transport is None:
            raise ConnectionResetError("the connection is gone")
        return self._transport

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something unless `in_time` comes first; each call takes the place of the last."""
        self.in_time()
        self._timer = asyncio.get_running_loop().call_later(seconds, act)

    def in_time(self) -> None:
        """Call off what `after` would do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def pause_reading(self) -> None:
        """Read no more for now."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, unless it is waited for something else."""
        self.frames = 0
        if self._transport is not None and not self.waiting and not self._transport.is_closing():
            self._transport.resume_reading()

    def ping(self) -> bool:
        """Ask whether it is there; return False where it did not answer the last time."""
        if not self.writable:
            return True  # it has not got the last ping yet; how long it may take for that is the hub's to know
        heard, self.heard = self.heard, False
        if heard:
            self.write(_PING)
        return heard

    def close(self, close: Close) -> None:
        """Close with a code and a reason, then whether it listens or not."""
        ws = self._ws
        if ws is None or not self.is_open:
            return
        if ws.state is not OPEN:  # what came behind it in the same read has ended it already
            self._failed(ws)
            return
        self._end(close.metric, close.code, close.reason)
        ws.send_close(close.code, close.reason)
        self._send(ws)

    def abort(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.abort()

    # --- inside ---

    def _handshake(self, ws: ServerProtocol, request: Request) -> None:
        response = self._session.answer(self, request)
        if response is None:
            response = ws.accept(request)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self.after(ANSWER_SECONDS, self.abort)
            ws.send_response(response)
            return
        response.headers["Server"] = f"latido/{settings.version()}"
        ws.send_response(response)
        self.in_time()
        self._send(ws)
        self.is_open = True
        self._session.opened(self, request)

    def _frame(self, frame: Frame) -> None:
        self.frames += 1
        if frame.opcode is BINARY:
            self.close(Close.BINARY)
        elif frame.opcode is CLOSE:
            self._end("client")
        elif frame.opcode is TEXT and frame.fin:
            self._message(bytes(frame.data))
        elif frame.opcode in {TEXT, CONT}:
            if self.fragments is None:
                self.fragments = []
            self.fragments.append(bytes(frame.data))
            if len(self.fragments) > MAX_FRAGMENTS:
                self.close(Close.FRAGMENTS)
            elif frame.fin:
                message, self.fragments = b"".join(self.fragments), None
                self._message(message)

    def _message(self, message: bytes) -> None:
        try:
            text = message.decode()
        except UnicodeDecodeError:
            self.close(Close.NOT_UTF8)
            return
        self._session.said(self, text)

    def _failed(self, ws: ServerProtocol) -> None:
        """Note that its frames were wrong: the close frame is on its way already."""
        if ws.close_sent is not None and ws.close_sent.code in _FAULTS:
            self._end("protocol", ws.close_sent.code, ws.close_sent.reason)
        else:
            self._end("client")

    def _end(self, metric: str, code: int = 1000, reason: str = "") -> None:
        if self.is_open:
            self.is_open = False
            self.fragments = None
            self._session.closed(self, metric, code, reason)
            self.client = self.query = None
            self.after(CLOSE_SECONDS, self.abort)

    def _send(self, ws: ServerProtocol) -> None:
        """Write what the protocol has to say by itself."""
        transport = self._transport
        if transport is None:
            return
        for data in ws.data_to_send():
            if not data:
                if transport.can_write_eof() and not transport.is_closing():
                    transport.write_eof()
                else:
                    transport.close()
            elif self.writable or ws.state is not OPEN:
                transport.write(data)
            # else: a pong to a client that does not read; it asks again
