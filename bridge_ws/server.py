"""`latido bridge`: the WebSocket server, its page, health and metrics, and the clients' conversation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import stat
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, disable_created_metrics
from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response

from bridge_ws import access, database, pages, protocol
from bridge_ws.access import OriginPolicy, UnauthorizedError
from bridge_ws.backfill import Backfills
from bridge_ws.certificate import Certificate
from bridge_ws.connection import OPEN_SECONDS, Connection
from bridge_ws.feed import LiveFeed
from bridge_ws.grafana_live import GrafanaLive, GrafanaSettings
from bridge_ws.hub import Client, Hub
from bridge_ws.live import Live
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import Authenticate, Backfill, Close, Error, ErrorCode, Hello, ProtocolError, Subscription
from bridge_ws.reading import Reader
from bridge_ws.recent import Recent
from bridge_ws.resume import Resumption
from ingest.contract import tokens as token_file
from ingest.contract.tokens import Token, Tokens
from ingest.contract.wire import Feed
from latido import logs, settings
from latido.settings import Address, DatabaseSettings, Dsn, LogSettings, SettingsError, group, setting

log = logs.get(__name__)

PROG: Final = "latido bridge"
STOP_SECONDS: Final = 2.5
SWEEP_SECONDS: Final = 1.0
PING_SWEEPS: Final = 20
"""Each client is asked once in so many sweeps whether it is there, a part of them in each."""
BACKLOG: Final = 1_024
SPARE_CONNECTIONS: Final = 100
SPARE_CONNECTIONS_EACH: Final = 20
"""Connections beyond the clients, in all and of one address: for pages, `/metrics`, and to refuse with an answer."""
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
    tls_cert_file: Path | None = setting(
        "web.tls-cert-file", settings.path, None, "serve TLS with this certificate and its chain, PEM", metavar="FILE"
    )
    tls_key_file: Path | None = setting(
        "web.tls-key-file", settings.path, None, "the certificate's key, PEM without a password", metavar="FILE"
    )
    insecure: bool = setting("insecure", settings.boolean, "false", "listen beyond loopback without a token")
    poll_interval: float = setting(
        "bridge.poll-interval",
        settings.positive_duration,
        "50ms",
        "pause between polls while samples come",
        metavar="DURATION",
    )
    idle_interval: float = setting(
        "bridge.idle-interval",
        settings.positive_duration,
        "1s",
        "longest pause between polls while none come",
        metavar="DURATION",
    )
    max_clients: int = setting(
        "bridge.max-clients", settings.integer(1, 1_000_000), "5000", "most WebSocket clients at once", metavar="N"
    )
    max_clients_each: int = setting(
        "bridge.max-clients-each",
        settings.integer(1, 1_000_000),
        "500",
        "most connections of one address; behind a proxy all are the proxy's",
        metavar="N",
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
    resume_buffer: int = setting(
        "bridge.resume-buffer",
        settings.size,
        "32MiB",
        "samples kept for clients that reconnect, of the last five minutes at most",
        metavar="SIZE",
    )
    host_timeout: float = setting(
        "bridge.host-timeout",
        settings.positive_duration,
        "1h",
        "a host that sent nothing for so long is shown no more until it does",
        metavar="DURATION",
    )
    grafana: GrafanaSettings = group(GrafanaSettings)
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
    parts = Parts.build(given, dsn, context, Metrics(registry))
    bridge = Bridge(given, parts, tokens=tokens)
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


@dataclass(frozen=True)
class Parts:
    """What a bridge is made of."""

    live: Live
    hub: Hub
    feed: LiveFeed
    backfills: Backfills
    resumption: Resumption
    grafana: GrafanaLive | None
    metrics: Metrics

    @classmethod
    def build(cls, given: BridgeSettings, dsn: Dsn, context: ssl.SSLContext | None, metrics: Metrics) -> Parts:
        """Wire them together."""
        grafana = GrafanaLive.build(given.grafana, metrics.registry)
        live = Live(grafana.offer if grafana is not None else None)
        recent, reader = Recent(given.resume_buffer), Reader(metrics)
        hub = Hub(live, recent, metrics, limit=given.client_buffer)
        feed = LiveFeed(
            dsn,
            context,
            live,
            hub,
            recent,
            metrics,
            poll_interval=given.poll_interval,
            idle_interval=given.idle_interval,
            host_timeout=given.host_timeout,
        )
        backfills = Backfills(dsn, context, reader, live, hub)
        return cls(live, hub, feed, backfills, Resumption(dsn, context, reader, feed, recent), grafana, metrics)


class Bridge:
    """The server: connections in, conversations kept, everything closed at the end. Every connection's `Session`."""

    def __init__(self, given: BridgeSettings, parts: Parts, *, tokens: Tokens) -> None:
        self._given, self._tokens = given, tokens
        self._live, self._hub, self._feed, self._metrics = parts.live, parts.hub, parts.feed, parts.metrics
        self._backfills, self._resumption, self._grafana = parts.backfills, parts.resumption, parts.grafana
        self._pages = pages.Pages(parts.metrics.registry, lambda: parts.feed.not_ready)
        self._policy = OriginPolicy(extra=frozenset(given.origins), private=given.listen.is_loopback and not tokens)
        self._connections: set[Connection] = set()
        self._talking: dict[Connection, int] = {}  # clients, and how many of their messages were wrong
        self._from: Counter[str] = Counter()  # connections by address
        self._resuming: dict[Connection, asyncio.Task[None]] = {}
        self._turned_away = 0
        self._sweeps = 0
        self._empty = asyncio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Raises SettingsError if the address or the certificate cannot be had."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with self.listening():
            tasks = [asyncio.create_task(self._feed.run())]
            if self._grafana is not None:
                tasks.append(asyncio.create_task(self._grafana.run()))
            try:
                await stop.wait()
            finally:
                log.info("stopping", clients=len(self._hub))
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Serve without following the database, and yield the port; at the end every client is told."""
        certificate = Certificate.load(self._given.tls_cert_file, self._given.tls_key_file)
        server = await self._listen(certificate)
        sweeps = asyncio.create_task(self._sweep_all(certificate))
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            sweeps.cancel()
            await asyncio.wait([sweeps])
            await self._close_all(server)

    async def _listen(self, certificate: Certificate | None) -> asyncio.Server:
        address = self._given.listen
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(self),
                address.host,
                address.port,
                backlog=BACKLOG,
                ssl=None if certificate is None else certificate.context,
                ssl_handshake_timeout=None if certificate is None else OPEN_SECONDS,
            )
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            raise SettingsError(f"--web.listen-address: cannot listen on {address}: {reason}") from None
        port = server.sockets[0].getsockname()[1]
        scheme = "http" if certificate is None else "https"
        log.info("listening", url=f"{scheme}://{Address(address.host, port)}/", auth=bool(self._tokens))
        return server

    async def _close_all(self, server: asyncio.Server) -> None:
        """Close every client with 1001, and end with the last of them: a silent handshake holds nothing up."""
        server.close()
        for connection in list(self._connections):
            if connection.is_open:
                connection.close(Close.SHUTDOWN)
            else:
                connection.abort()
        if self._connections:
            self._empty.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    await self._empty.wait()
        for connection in list(self._connections):
            connection.abort()

    # --- every second ---

    async def _sweep_all(self, certificate: Certificate | None) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                self._sweep()
                if certificate is not None:
                    certificate.refresh()
            except Exception:
                log.exception("a sweep failed")

    def _sweep(self) -> None:
        """Close who does not read or answer, and read again from who said too much."""
        self._sweeps += 1
        if self._turned_away:
            log.warning("turned connections away", connections=self._turned_away, reason="as many as allowed")
            self._turned_away = 0
        slow = set(self._hub.stuck(self._given.send_timeout))
        for connection in list(self._talking):
            if connection.client is not None and connection.client in slow:
                connection.close(Close.SLOW)
            elif id(connection) // 16 % PING_SWEEPS == self._sweeps % PING_SWEEPS and not connection.ping():
                connection.close(Close.KEEPALIVE)
            else:
                connection.resume_reading()

    # --- a connection ---

    def admit(self, connection: Connection) -> bool:
        """Take a connection in unless there are too many: some more than clients, so that `/metrics` answers."""
        if len(self._connections) >= self._given.max_clients + SPARE_CONNECTIONS or (
            self._from[connection.host] >= self._given.max_clients_each + SPARE_CONNECTIONS_EACH
        ):
            self._turned_away += 1
            return False
        self._connections.add(connection)
        self._from[connection.host] += 1
        return True

    def gone(self, connection: Connection) -> None:
        """Forget a connection."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._from[connection.host] -= 1
            if not self._from[connection.host]:
                del self._from[connection.host]
            if not self._connections:
                self._empty.set()

    def answer(self, connection: Connection, request: Request) -> Response | None:
        """Return a page, a refusal, or None for a client that may come in."""
        path, _, query = request.path.partition("?")
        if path != "/ws":
            accept, encoding = (",".join(request.headers.get_all(name)) for name in ("Accept", "Accept-Encoding"))
            return self._pages.answer(request.method, path, accept, encoding)
        refusal = self._refusal(connection, request, query)
        return None if refusal is None else self._refuse(connection, *refusal)

    def _refusal(self, connection: Connection, request: Request, query: str) -> tuple[HTTPStatus, str] | None:
        if not self._policy.allows(request.headers.get_all("Origin"), request.headers.get_all("Host")):
            return HTTPStatus.FORBIDDEN, "this origin may not connect; see --web.origins"
        try:
            resumes = protocol.parse_query(query).resume is not None
            self._token(request)
        except (ProtocolError, InvalidHeaderFormat) as error:
            return HTTPStatus.BAD_REQUEST, str(error)
        except UnauthorizedError:
            return HTTPStatus.UNAUTHORIZED, Close.UNAUTHORIZED.reason
        return self._full(connection, resumes=resumes)

    def _full(self, connection: Connection, *, resumes: bool) -> tuple[HTTPStatus, str] | None:
        if len(self._talking) >= self._given.max_clients:
            return HTTPStatus.SERVICE_UNAVAILABLE, "as many clients as --bridge.max-clients"
        if self._from[connection.host] > self._given.max_clients_each:
            return HTTPStatus.TOO_MANY_REQUESTS, "as many clients of one address as --bridge.max-clients-each"
        if resumes and self._feed.position is None:
            return HTTPStatus.SERVICE_UNAVAILABLE, "the database was not reached yet; nothing can be resumed"
        return None

    def _refuse(self, connection: Connection, status: HTTPStatus, reason: str) -> Response:
        self._metrics.refused.labels(str(status.value)).inc()
        log.warning("refused a client", address=connection.address, status=status.value, reason=reason)
        extra = []
        if status is HTTPStatus.UNAUTHORIZED:
            extra.append(("WWW-Authenticate", 'Bearer realm="latido"'))
        elif status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
            extra.append(("Retry-After", "5"))
        return pages.response(status, f"{reason}\n", extra=extra)

    def _token(self, request: Request) -> Token | None:
        """Return the token of a handshake, None where it has none. Raises UnauthorizedError, InvalidHeaderFormat."""
        offered: list[str] = []
        for value in request.headers.get_all("Sec-WebSocket-Protocol"):
            offered += parse_subprotocol(value)
        secret = access.bearer(offered)
        return access.check_token(self._tokens, secret) if secret is not None and self._tokens else None

    # --- a conversation ---

    def opened(self, connection: Connection, request: Request) -> None:
        """Ask for a token where one is needed, or begin at once."""
        self._talking[connection] = 0
        query = request.path.partition("?")[2]
        token = self._token(request)
        connection.query = protocol.parse_query(query, access.visible_hosts(token))
        if self._tokens and token is None:
            detail = 'send {"type": "authenticate", "token": "..."}'
            connection.write(protocol.encode(Error(code=ErrorCode.TOKEN_REQUIRED, detail=detail)).plain)
            connection.after(OPEN_SECONDS, lambda: connection.close(Close.UNAUTHORIZED))
        else:
            self._begin(connection, connection.query)

    def said(self, connection: Connection, text: str) -> None:
        """Answer a message."""
        client = connection.client
        try:
            if client is None:
                self._authenticate(connection, protocol.parse_message(text))
            else:
                self._answer(client, protocol.parse_message(text))
        except ProtocolError as error:
            if client is None:
                connection.close(Close.UNAUTHORIZED)
                return
            if error.code is not ErrorCode.BUSY:
                self._talking[connection] += 1
            if self._talking[connection] > protocol.MAX_ERRORS:
                connection.close(Close.MISBEHAVED)
            else:
                self._hub.send(client, protocol.encode(Error(code=error.code, detail=str(error))))

    def closed(self, connection: Connection, metric: str, code: int, reason: str) -> None:
        """Let a client go, and say why unless it went by itself."""
        self._talking.pop(connection, None)
        if (task := self._resuming.pop(connection, None)) is not None:
            task.cancel()
        if connection.client is not None:
            self._backfills.forget(connection.client)
            self._hub.detach(connection.client)
        self._metrics.closed.labels(metric).inc()
        if metric not in {"client", "shutdown"}:
            log.warning("closed a client", address=connection.address, code=code, reason=reason)

    def paused(self, client: Client) -> None:
        """Hold back: the kernel took less than all."""
        self._hub.pause(client)

    def resumed(self, client: Client) -> None:
        """Go on."""
        self._hub.resume(client)

    def _authenticate(self, connection: Connection, message: protocol.ClientMessage) -> None:
        query = connection.query
        if query is None or not isinstance(message, Authenticate):
            connection.close(Close.UNAUTHORIZED)
            return
        try:
            token = access.check_token(self._tokens, message.token)
        except UnauthorizedError:
            connection.close(Close.UNAUTHORIZED)
            return
        connection.in_time()
        subscription = Subscription(query.subscription.hosts, access.visible_hosts(token))
        self._begin(connection, protocol.Query(subscription, query.resume))

    def _begin(self, connection: Connection, query: protocol.Query) -> None:
        connection.query = None
        if query.resume is None:
            self._attach(connection, query.subscription, None, lost=False)
        else:
            connection.waiting = True
            connection.pause_reading()
            self._resuming[connection] = asyncio.create_task(self._resume(connection, query.subscription, query.resume))

    async def _resume(self, connection: Connection, subscription: Subscription, token: datetime) -> None:
        try:
            there = await self._resumption.prepare(token)
            # No await from here on: what is there now is dropped only later.
            self._attach(connection, subscription, token if there else None, lost=not there)
        except Exception:
            log.exception("a client could not resume", address=connection.address)
            connection.abort()
        finally:
            self._resuming.pop(connection, None)
        connection.waiting = False
        connection.resume_reading()

    def _attach(
        self, connection: Connection, subscription: Subscription, resume: datetime | None, *, lost: bool
    ) -> None:
        client = Client(connection.writer.write, subscription, compressed=connection.compressed)
        client.flowing = connection.writable
        connection.client = client
        hello = protocol.encode(self._hello(subscription, resume or self._feed.position))
        connection.write(hello.plain)
        self._metrics.frames.labels(hello.type).inc()
        self._hub.attach(client, resume, lost=lost)

    def _hello(self, subscription: Subscription, position: datetime | None) -> Hello:
        return Hello(
            version=protocol.VERSION,
            server=f"latido {settings.version()}",
            feeds=list(Feed),
            hosts=[host for host in self._live.hosts() if subscription.may_see(host)],
            resume=None if position is None else protocol.resume_token(position),
        )

    def _answer(self, client: Client, message: protocol.ClientMessage) -> None:
        if isinstance(message, Authenticate):
            return  # not needed any more, and no harm
        if isinstance(message, Backfill):
            self._backfills.ask(client, message)
            return
        asked = None
        if isinstance(message, protocol.Subscribe):
            asked = Subscription(dict.fromkeys(Feed, protocol.HostSet()), client.subscription.visible).changed(message)
        self._hub.subscribe(client, client.subscription.changed(message), asked)
