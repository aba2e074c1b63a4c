"""`latido ingest raw`: the HTTP side of the ingest API that is built for speed.

Checks run in one order in both APIs: path and method, token, media type, encoding, room, size, inflating, JSON,
fields, the token's host, partitions, and then the database.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from time import perf_counter
from typing import Final

import msgspec
from aiohttp import ClientPayloadError, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, disable_created_metrics, generate_latest

from ingest import serving
from ingest.contract import body as contract_body
from ingest.contract import limits
from ingest.contract.encoding import Take, inflate
from ingest.contract.metrics import Metrics
from ingest.contract.problems import Problem, ProblemType
from ingest.contract.tokens import Tokens, authorize
from ingest.contract.wire import Feed
from ingest.raw import workers
from ingest.raw.decode import decode
from ingest.raw.store import Store
from ingest.serving import ServingSettings
from latido import logs, settings
from latido.settings import Address, Dsn, group, setting

log = logs.get(__name__)

PROG: Final = "latido ingest raw"
DRAIN_BYTES: Final = limits.MAX_INFLATED_BYTES
"""Of a body that is too large this much is read and dropped, so that its sender gets to read the answer."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class RawSettings:
    """What `latido ingest raw` takes."""

    listen: Address = setting(
        "web.listen-address", settings.address, "127.0.0.1:10111", "where the API listens", metavar="HOST:PORT"
    )
    connections: int = setting(
        "db.connections",
        settings.integer(1, 100),
        "2",
        "connections that write at the same time; pushes share their transactions",
        metavar="N",
    )
    workers: int = setting(
        "web.workers",
        settings.integer(1, 64),
        "1",
        "processes that share the address; each has its own connections and limits",
        metavar="N",
    )
    serving: ServingSettings = group(ServingSettings)


def main(argv: Sequence[str]) -> int:
    """Run the API until SIGTERM or SIGINT; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(
        RawSettings, PROG, "Take pushed samples into MySQL: aiohttp, msgspec, group commit.", argv, os.environ
    )
    logs.setup(given.serving.log.level, given.serving.log.format)
    tokens = serving.read_tokens(given.serving.token_file)
    settings.guard(
        given.listen,
        has_token=bool(tokens),
        insecure=given.serving.insecure,
        flag="web.listen-address",
        token_flag="auth.token-file",  # noqa: S106 - a flag's name
    )
    # A series of each counter's start would double /metrics and answer nothing.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client does not annotate it
    tls = serving.tls(given.serving)
    dsn = given.serving.database.resolved()
    listeners = serving.listen_often(given.listen, given.workers)
    # Pushes leave few cycles; looking for them as often as CPython does by itself costs a tenth of the CPU.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    return workers.run(listeners, lambda worker: asyncio.run(_serve(given, dsn, tokens, tls, worker)))


async def _serve(
    given: RawSettings, dsn: Dsn, tokens: Tokens, tls: ssl.SSLContext | None, worker: workers.Worker
) -> None:
    metrics = Metrics(CollectorRegistry(), "raw", settings.version())
    store = Store(dsn, metrics, writers=given.connections)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    worker.watch(stop)
    api = Api(store, metrics, tokens, given.serving, worker)
    # Without aiohttp's application: on a small push its router and middlewares are felt.
    server = web.Server(
        api.answer,
        access_log=None,
        keepalive_timeout=serving.KEEP_ALIVE_SECONDS,
        auto_decompress=False,  # `inflate` does it, within the contract's limits
        lingering_time=1.0,
    )
    # For answers on their way there is little time: `drain` and `Store.close` have ended the pushes by then.
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=0.5)
    await runner.setup()
    store.start()
    teller = None if worker.alone else await worker.tell(api.own_metrics)
    site = web.SockSite(runner, worker.listener, backlog=serving.BACKLOG, ssl_context=tls)
    await site.start()
    log.info("listening", address=str(serving.bound(worker.listener)), dsn=str(dsn), version=settings.version())
    await stop.wait()
    log.info("stopping")
    await site.stop()
    await api.drain(serving.STOP_SECONDS)
    await store.close()
    await runner.cleanup()
    if teller is not None:
        await teller.cleanup()


class Api:
    """The routes. Holds nothing of its own but the number of pushes in flight."""

    def __init__(
        self, store: Store, metrics: Metrics, tokens: Tokens, given: ServingSettings, worker: workers.Worker
    ) -> None:
        self._worker = worker
        self._store = store
        self._metrics = metrics
        self._tokens = tokens
        self._max_requests = given.max_requests
        self._read_timeout = given.read_timeout
        self._room = serving.Room(given.max_bytes)
        self._debug = log.is_enabled(logging.DEBUG)  # asked once, not for each push
        self._in_flight = 0
        metrics.in_flight(lambda: self._in_flight)
        self._idle = asyncio.Event()
        self._idle.set()
        self._openapi = (files("ingest.contract") / "openapi.json").read_bytes()
        self._routes = {
            **{f"/api/{feed.value}": _Route(_POST, self._push(feed), feed) for feed in Feed},
            "/api/health": _Route(_GET, self._health),
            "/metrics": _Route(_GET, self._expose),
            "/openapi.json": _Route(_GET, self._contract),
            "/-/healthy": _Route(_GET, self._healthy),
            "/-/ready": _Route(_GET, self._ready),
        }

    def own_metrics(self) -> bytes:
        """Return this process's metrics as text."""
        return generate_latest(self._metrics.registry)

    async def drain(self, seconds: float) -> None:
        """Wait until no push is in flight, `seconds` at most."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("pushes still wait for the database", pushes=self._in_flight)

    def _push(self, feed: Feed) -> Handler:
        async def push(request: web.BaseRequest) -> web.StreamResponse:
            token = self._tokens.authenticate(request.headers.get("Authorization"))
            encoding = request.headers.get("Content-Encoding")
            contract_body.check_headers(request.headers.get("Content-Type"), encoding)
            if self._in_flight >= self._max_requests:
                raise Problem(
                    ProblemType.OVERLOADED,
                    f"{self._in_flight} pushes are in flight",
                    retry_after=serving.RETRY_AFTER_BUSY,
                )
            self._in_flight += 1
            self._idle.clear()
            try:
                with self._room.place() as take:
                    body = _read_at_once(request, take) or await self._read(request, take)
                    with self._metrics.timed("decode"):
                        inflated = inflate(body, encoding, take)
                        del body
                        decoded = decode(feed, inflated)
                    del inflated
                    authorize(token, decoded.push.host)
                    accepted = await self._store.store(feed, decoded.push)
            finally:
                self._in_flight -= 1
                if not self._in_flight:
                    self._idle.set()
            self._metrics.unknown_fields(feed, decoded.unknown_fields)
            return _json(201, msgspec.json.encode(accepted))

        return push

    async def _read(self, request: web.BaseRequest, take: Take) -> bytes:
        size = 0
        chunks: list[bytes] = []
        declared = request.content_length or 0
        try:
            async with asyncio.timeout(self._read_timeout):
                async for chunk in request.content.iter_any():
                    size += len(chunk)
                    if max(size, declared) <= limits.MAX_COMPRESSED_BYTES:
                        take(len(chunk))
                        chunks.append(chunk)
                    else:
                        chunks.clear()
                    if size > DRAIN_BYTES:
                        break
        except TimeoutError:
            raise Problem(ProblemType.REQUEST_TIMEOUT, f"{size} bytes in {self._read_timeout:g} s") from None
        except ConnectionError:  # nobody reads the answer; it is counted
            raise Problem(ProblemType.REQUEST_TIMEOUT, "the sender went away") from None
        if max(size, declared) > limits.MAX_COMPRESSED_BYTES:
            raise Problem(ProblemType.TOO_LARGE, f"more than {limits.MAX_COMPRESSED_BYTES} bytes")
        return b"".join(chunks)

    async def _health(self, _request: web.BaseRequest) -> web.StreamResponse:
        await self._store.ping()
        state = {"status": "ok", "api": "raw", "version": settings.version(), "database": "ok"}
        return _json(200, msgspec.json.encode(state))

    async def _expose(self, _request: web.BaseRequest) -> web.StreamResponse:
        text = self.own_metrics()
        if not self._worker.alone:
            try:
                text = await self._worker.ask(text)
            except workers.PeerError as error:  # a sum without one would go back
                raise Problem(ProblemType.UNAVAILABLE, str(error), retry_after=serving.RETRY_AFTER_BUSY) from None
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _contract(self, _request: web.BaseRequest) -> web.StreamResponse:
        return _json(200, self._openapi)

    async def _healthy(self, _request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="healthy\n")

    async def _ready(self, _request: web.BaseRequest) -> web.StreamResponse:
        await self._store.ping()
        return web.Response(text="ready\n")

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request: by its route, or with the document of the problem that it meets; count it."""
        start = perf_counter() if self._debug else 0.0
        path = request.path
        route = self._routes.get(path)
        try:
            handler = _handler(route, request.method)
            if "Expect" in request.headers:
                await _go_on(request)
            response = await handler(request)
        except Problem as problem:
            response = _problem(problem)
        except (ClientPayloadError, HttpProcessingError) as error:
            response = _problem(Problem(ProblemType.MALFORMED_ENCODING, f"the body breaks off: {error}"))
        except Exception as error:  # the last resort of a server: say it, count it, go on
            exhausted = serving.without_memory(error)
            if exhausted is None:
                log.exception("a request met a defect", path=path)
            else:
                log.error("there is no memory for a request", path=path)
            response = _problem(exhausted or Problem(ProblemType.INTERNAL, "the log says more"))
        if route is not None and route.feed is not None:
            self._metrics.request(route.feed, response.status)
            if self._debug:
                log.debug("answered", path=path, status=response.status, seconds=perf_counter() - start)
        return response


def _read_at_once(request: web.BaseRequest, take: Take) -> bytes:
    """Return a body that came with its head, which a small one does, without a clock; b"" if there is more to come."""
    if not request.content.is_eof() or (request.content_length or 0) > limits.MAX_COMPRESSED_BYTES:
        return b""
    body = request.content.read_nowait()  # what flow control lets in is far below the limit
    take(len(body))
    return body


_GET: Final = frozenset({"GET", "HEAD"})
_POST: Final = frozenset({"POST"})


@dataclass(frozen=True, slots=True)
class _Route:
    methods: frozenset[str]
    handler: Handler
    feed: Feed | None = None


def _handler(route: _Route | None, method: str) -> Handler:
    if route is None:
        raise Problem(ProblemType.NOT_FOUND, "the API's paths are in /openapi.json")
    if method not in route.methods:
        allow = ", ".join(sorted(route.methods))
        raise Problem(ProblemType.METHOD_NOT_ALLOWED, f"it takes {allow}", allow=allow)
    return route.handler


async def _go_on(request: web.BaseRequest) -> None:
    """Tell a sender that waits to be told so to send its body (RFC 9110 section 10.1.1)."""
    if request.headers["Expect"].lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


def _json(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, headers={"Content-Type": "application/json"})


def _problem(problem: Problem) -> web.Response:
    response = web.Response(
        status=problem.type.status, body=msgspec.json.encode(problem.document()), headers=problem.headers()
    )
    if problem.type in {ProblemType.REQUEST_TIMEOUT, ProblemType.TOO_LARGE}:
        response.force_close()  # what is left of the body is not the next request
    return response
