"""`latido bridge`: the WebSocket server, its page, health and metrics, and the clients' conversation."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, disable_created_metrics
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHeaderFormat
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from bridge_ws import access, database, pages, protocol
from bridge_ws.access import OriginPolicy, UnauthorizedError
from bridge_ws.feed import LiveFeed
from bridge_ws.hub import Client, Hub, SlowClientError
from bridge_ws.live import Live
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import Authenticate, Close, Error, ErrorCode, Hello, ProtocolError, Subscription
from ingest.contract import tokens as token_file
from ingest.contract.tokens import Token, Tokens
from ingest.contract.wire import Feed
from latido import logs, settings
from latido.settings import Address, DatabaseSettings, LogSettings, SettingsError, group, setting

log = logs.get(__name__)

PROG: Final = "latido bridge"
OPEN_SECONDS: Final = 10.0
"""For a handshake, and for the first message where a token must come in it."""
CLOSE_SECONDS: Final = 2.0
STOP_SECONDS: Final = 2.5
PING_SECONDS: Final = 20.0
MAX_TOKEN_FILE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class BridgeSettings:
    """What `latido bridge` takes."""

    listen: Address = setting(
        "web.listen-address", settings.address, "127.0.0.1:10113", "where to listen", metavar="HOST:PORT"
    )
    origins: tuple[str, ...] = setting(
        "web.origins",
        access.origin,
        None,
        "origin of a page that may connect beside the bridge's own; may be repeated",
        metavar="ORIGIN",
        repeated=True,
    )
    token_file: Path | None = setting(
        "auth.token-file", settings.path, None, "file of tokens, one a line, then the hosts it may see", metavar="FILE"
    )
    insecure: bool = setting("insecure", settings.boolean, "false", "listen beyond loopback without a token")
    poll_interval: float = setting(
        "bridge.poll-interval", settings.positive_duration, "250ms", "pause between polls", metavar="DURATION"
    )
    max_clients: int = setting(
        "bridge.max-clients", settings.integer(1, 1_000_000), "5000", "most WebSocket clients at once", metavar="N"
    )
    client_buffer: int = setting(
        "bridge.client-buffer", settings.size, "4MiB", "frames that may wait for one client", metavar="SIZE"
    )
    send_timeout: float = setting(
        "bridge.send-timeout",
        settings.positive_duration,
        "20s",
        "a client that takes no frame for so long is closed",
        metavar="DURATION",
    )
    host_timeout: float = setting(
        "bridge.host-timeout",
        settings.positive_duration,
        "1h",
        "a host that sent nothing for so long is shown no more until it does",
        metavar="DURATION",
    )
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


def main(argv: Sequence[str]) -> int:
    """Run the bridge until it is told to end; return its exit status."""
    return settings.run(PROG, lambda: _main(argv))


def _main(argv: Sequence[str]) -> int:
    given = settings.load(
        BridgeSettings,
        PROG,
        "Serve what the ingest APIs store as a live WebSocket feed, with a page that shows it.",
        argv,
        os.environ,
    )
    logs.setup(given.log.level, given.log.format)
    tokens = _read_tokens(given.token_file) if given.token_file is not None else Tokens()
    settings.guard(
        given.listen,
        has_token=bool(tokens),
        insecure=given.insecure,
        flag="web.listen-address",
        token_flag="auth.token-file",  # noqa: S106 - the name of a flag
    )
    dsn = given.database.resolved()
    context = database.tls(dsn)
    # They double the series, and say only when the program started.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client gives it no types
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    live = Live()
    hub = Hub(live, metrics)
    feed = LiveFeed(
        dsn,
        context,
        live,
        hub,
        metrics,
        poll_interval=given.poll_interval,
        host_timeout=given.host_timeout,
    )
    bridge = Bridge(given, tokens=tokens, live=live, hub=hub, feed=feed, metrics=metrics)
    asyncio.run(bridge.run())
    return 0


def _read_tokens(path: Path) -> Tokens:
    flag = "--auth.token-file"
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                raise SettingsError(f"{flag}: {path} is readable by every user; `chmod o-r {path}`")
            text = file.read(MAX_TOKEN_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{flag}: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{flag}: {path} is not text") from None
    if len(text) > MAX_TOKEN_FILE_BYTES:
        raise SettingsError(f"{flag}: {path} is larger than {MAX_TOKEN_FILE_BYTES} bytes")
    try:
        return token_file.parse(text.splitlines())
    except ValueError as error:
        raise SettingsError(f"{flag}: {path}: {error}") from None


class Bridge:
    """The server: handshakes in, conversations kept, everything closed at the end."""

    def __init__(
        self, given: BridgeSettings, *, tokens: Tokens, live: Live, hub: Hub, feed: LiveFeed, metrics: Metrics
    ) -> None:
        self._given, self._tokens = given, tokens
        self._live, self._hub, self._feed, self._metrics = live, hub, feed, metrics
        self._pages = pages.Pages(metrics.registry, lambda: feed.not_ready)
        self._policy = OriginPolicy(extra=frozenset(given.origins), private=given.listen.is_loopback and not tokens)
        self._conversations: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises SettingsError if the address cannot be had."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        server = await self._listen()
        feed = asyncio.create_task(self._feed.run())
        try:
            await stop.wait()
        finally:
            log.info("stopping", clients=len(self._hub))
            feed.cancel()
            await asyncio.wait([feed])
            await self._close_all(server)

    async def _listen(self) -> Server:
        address = self._given.listen
        try:
            server = await serve(
                self._handle,
                address.host,
                address.port,
                process_request=self._process_request,
                select_subprotocol=_select_subprotocol,
                # None: each client would compress every frame anew.
                compression=None,
                max_size=protocol.MAX_MESSAGE_BYTES,
                max_queue=4,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                ping_interval=PING_SECONDS,
                ping_timeout=PING_SECONDS,
                server_header=f"latido/{settings.version()}",
            )
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            raise SettingsError(f"--web.listen-address: cannot listen on {address}: {reason}") from None
        port = server.sockets[0].getsockname()[1]
        log.info("listening", url=f"http://{Address(address.host, port)}/", auth=bool(self._tokens))
        return server

    async def _close_all(self, server: Server) -> None:
        """Close every client with 1001, and end with the last of them: a silent handshake holds nothing up."""
        self._stopping = True
        connections = set(server.all_connections)
        server.close(code=Close.SHUTDOWN.code, reason=Close.SHUTDOWN.reason)
        if self._conversations:
            _, deaf = await asyncio.wait(self._conversations, timeout=STOP_SECONDS)
            if deaf:
                for connection in connections:
                    connection.transport.abort()

    # --- handshake ---

    def _process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        path, _, query = request.path.partition("?")
        if path != "/ws":
            return self._pages.answer(request.method, path, ",".join(request.headers.get_all("Accept")))
        refusal = self._refusal(request, query)
        return None if refusal is None else self._refuse(connection, *refusal)

    def _refusal(self, request: Request, query: str) -> tuple[HTTPStatus, str] | None:
        if not self._policy.allows(request.headers.get_all("Origin"), request.headers.get_all("Host")):
            return HTTPStatus.FORBIDDEN, "this origin may not connect; see --web.origins"
        try:
            protocol.parse_query(query)
            self._token(request)
        except (ProtocolError, InvalidHeaderFormat) as error:
            return HTTPStatus.BAD_REQUEST, str(error)
        except UnauthorizedError:
            return HTTPStatus.UNAUTHORIZED, Close.UNAUTHORIZED.reason
        if len(self._conversations) >= self._given.max_clients:
            return HTTPStatus.SERVICE_UNAVAILABLE, "as many clients as --bridge.max-clients"
        return None

    def _refuse(self, connection: ServerConnection, status: HTTPStatus, reason: str) -> Response:
        self._metrics.refused.labels(str(status.value)).inc()
        log.warning("refused a client", address=_address(connection), status=status.value, reason=reason)
        extra = []
        if status is HTTPStatus.UNAUTHORIZED:
            extra.append(("WWW-Authenticate", 'Bearer realm="latido"'))
        elif status is HTTPStatus.SERVICE_UNAVAILABLE:
            extra.append(("Retry-After", "5"))
        return pages.response(status, f"{reason}\n", extra=extra)

    def _token(self, request: Request) -> Token | None:
        """Return the token of a handshake, None where it has none. Raises UnauthorizedError, InvalidHeaderFormat."""
        offered: list[str] = []
        for value in request.headers.get_all("Sec-WebSocket-Protocol"):
            offered += parse_subprotocol(value)
        secret = access.bearer(offered)
        return access.check_token(self._tokens, secret) if secret is not None and self._tokens else None

    # --- conversation ---

    async def _handle(self, connection: ServerConnection) -> None:
        conversation = asyncio.current_task()
        if conversation is None:
            raise RuntimeError("a conversation is a task")
        self._conversations.add(conversation)
        reason = "error"
        try:
            reason = await self._converse(connection)
        except SlowClientError:
            reason = await self._close(connection, Close.SLOW)
        except ConnectionClosed as closed:
            reason = _reason(closed, stopping=self._stopping)
        finally:
            self._conversations.discard(conversation)
            self._metrics.closed.labels(reason).inc()

    async def _converse(self, connection: ServerConnection) -> str:
        subscription = await self._admit(connection)
        if subscription is None:
            return await self._close(connection, Close.UNAUTHORIZED)
        client = Client(connection, subscription, self._given.client_buffer)
        await self._send(client, self._hello(subscription))
        self._hub.attach(client)
        writer = asyncio.create_task(self._write(connection, client))
        try:
            reason = await self._read(connection, client)
        finally:
            self._hub.detach(client)
            writer.cancel()
            await asyncio.wait([writer])
        return "slow" if not writer.cancelled() and writer.result() else reason

    async def _admit(self, connection: ServerConnection) -> Subscription | None:
        """Return what the client may have and wants, once it has a token where one is needed; None: it has none."""
        request = connection.request
        if request is None:
            raise RuntimeError("a conversation begins after its handshake")
        token = self._token(request)
        if self._tokens and token is None:
            detail = 'send {"type": "authenticate", "token": "..."}'
            await connection.send(protocol.encode(Error(code=ErrorCode.TOKEN_REQUIRED, detail=detail)).text, text=True)
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    message = await connection.recv()
                first = protocol.parse_message(message) if isinstance(message, str) else None
                if not isinstance(first, Authenticate):
                    return None
                token = access.check_token(self._tokens, first.token)
            except (TimeoutError, ProtocolError, UnauthorizedError):
                return None
        return protocol.parse_query(request.path.partition("?")[2], access.visible_hosts(token))

    def _hello(self, subscription: Subscription) -> Hello:
        return Hello(
            version=protocol.VERSION,
            server=f"latido {settings.version()}",
            feeds=list(Feed),
            hosts=[host for host in self._live.hosts() if subscription.may_see(host)],
        )

    async def _send(self, client: Client, frame: protocol.AnyFrame) -> None:
        await client.send(protocol.encode(frame), self._metrics, self._given.send_timeout)

    async def _write(self, connection: ServerConnection, client: Client) -> bool:
        """Send what waits for a client; return whether it was closed for not reading."""
        try:
            await client.write(self._hub.resolve, self._metrics, self._given.send_timeout)
        except ConnectionClosed:
            return False
        except SlowClientError:
            try:
                await self._close(connection, Close.SLOW)
            except asyncio.CancelledError:
                return True  # the reader saw the end first
            return True
        except Exception:
            log.exception("a client's writer failed", address=_address(connection))
            connection.transport.abort()
        return False

    async def _read(self, connection: ServerConnection, client: Client) -> str:
        """Answer a client's messages until it goes; return why it went."""
        errors = 0
        try:
            while True:
                message = await connection.recv()
                if not isinstance(message, str):
                    return await self._close(connection, Close.BINARY)
                try:
                    self._answer(client, message)
                except ProtocolError as error:
                    errors += 1
                    if errors > protocol.MAX_ERRORS:
                        return await self._close(connection, Close.MISBEHAVED)
                    # Sent from here, not queued: a client that sends and never reads stops being read.
                    await self._send(client, Error(code=error.code, detail=str(error)))
        except ConnectionClosed as closed:
            return _reason(closed, stopping=self._stopping)

    def _answer(self, client: Client, text: str) -> None:
        message = protocol.parse_message(text)
        if isinstance(message, Authenticate):
            return  # not needed any more, and no harm
        client.subscription = client.subscription.changed(message)
        if isinstance(message, protocol.Subscribe):
            nothing = Subscription(dict.fromkeys(Feed, protocol.HostSet()), client.subscription.visible)
            self._hub.send_newest(client, nothing.changed(message))

    async def _close(self, connection: ServerConnection, close: Close) -> str:
        """Close a client with its code, then whether it listens or not; return the reason for the metrics."""
        log.warning("closed a client", address=_address(connection), code=close.code, reason=close.reason)
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close(close.code, close.reason)
        except TimeoutError:
            log.debug("a client did not take its close frame", address=_address(connection))
        connection.transport.abort()
        return _METRIC_REASONS[close]


_METRIC_REASONS: Final = {
    Close.SHUTDOWN: "shutdown",
    Close.BINARY: "binary",
    Close.UNAUTHORIZED: "unauthorized",
    Close.MISBEHAVED: "protocol",
    Close.SLOW: "slow",
}
_KEEPALIVE: Final = 1011
_FAULTS: Final = frozenset({1002, 1007, 1009})
"""What `websockets` closes with by itself: broken frames, text that is not UTF-8, a message that is too large."""


def _reason(closed: ConnectionClosed, *, stopping: bool) -> str:
    if stopping:
        return "shutdown"
    if closed.sent is not None and not closed.rcvd_then_sent:
        if closed.sent.code == _KEEPALIVE:
            return "keepalive"
        if closed.sent.code in _FAULTS:
            return "protocol"
    return "client"


def _select_subprotocol(_connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    # The one that carries a token is never the one chosen: it would come back in the answer.
    return Subprotocol(protocol.SUBPROTOCOL) if protocol.SUBPROTOCOL in offered else None


def _address(connection: ServerConnection) -> str:
    remote = connection.remote_address
    return str(Address(*remote[:2])) if isinstance(remote, tuple) else "unknown"
