"""`latido ingest orm`: the HTTP side of the ingest API on FastAPI.

Each step of a request is a dependency, in the order in which both APIs check: path and method, token, media type,
encoding, room, size, inflating, JSON, fields, the token's host, partitions, and then the database.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, Final

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, disable_created_metrics, generate_latest
from sqlalchemy import Engine
from sqlmodel import Session
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingest import serving
from ingest.contract import body as contract_body
from ingest.contract import limits
from ingest.contract.encoding import Take, inflate
from ingest.contract.metrics import Metrics
from ingest.contract.problems import Problem, ProblemType
from ingest.contract.tokens import Token, Tokens, authorize
from ingest.contract.wire import Feed
from ingest.orm import schemas
from ingest.orm.store import Store, connect
from ingest.serving import ServingSettings
from latido import logs, settings
from latido.settings import Address, group, setting

log = logs.get(__name__)

PROG: Final = "latido ingest orm"
SERVER_CHECK_SECONDS: Final = 1.0
"""How soon a server that ended by itself, of a defect, ends the program."""
DRAIN_BYTES: Final = limits.MAX_INFLATED_BYTES
"""Of a body that is too large this much is read and dropped, so that its sender gets to read the answer."""

LARGE_BYTES: Final = 4 << 20
"""Bodies beyond it are parsed one at a time: threads would only share the interpreter, and values take memory."""


@dataclass(frozen=True)
class OrmSettings:
    """What `latido ingest orm` takes."""

    listen: Address = setting(
        "web.listen-address", settings.address, "127.0.0.1:10112", "where the API listens", metavar="HOST:PORT"
    )
    connections: int = setting(
        "db.connections", settings.integer(1, 100), "8", "connections in the pool; each push takes one", metavar="N"
    )
    serving: ServingSettings = group(ServingSettings)


def main(argv: Sequence[str]) -> int:
    """Run the API until SIGTERM or SIGINT; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(
        OrmSettings, PROG, "Take pushed samples into MySQL: FastAPI, SQLModel, one session a push.", argv, os.environ
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
    dsn = given.serving.database.resolved()
    tls = serving.tls(given.serving)
    listener = serving.listen(given.listen)
    engine = connect(dsn, connections=given.connections)
    metrics = Metrics(CollectorRegistry(), "orm", settings.version())
    metrics.pool(given.connections)
    room = serving.Room(given.serving.max_bytes)
    application = create_app(Resources(engine, Store(metrics), metrics, tokens, given.serving, room))
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=serving.KEEP_ALIVE_SECONDS,
    )
    config.load()
    config.ssl = tls
    server = uvicorn.Server(config)
    log.info("listening", address=str(serving.bound(listener)), dsn=str(dsn), version=settings.version())
    status = _serve_until_signal(server, listener)
    engine.dispose()
    return status


def _serve_until_signal(server: uvicorn.Server, listener: socket.socket) -> int:
    """Serve on a thread until SIGTERM or SIGINT, then give requests in flight `serving.STOP_SECONDS`; return 0.

    A request that waits for a database that hangs cannot be interrupted: Python would wait for its thread, and the
    thread for the server. The process ends without it. Its transaction has not committed, so the server rolls it back
    when the connection is gone, and the sender, who got no answer, sends again.
    """
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # in the thread too: they are waited for here
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
    thread.start()
    # In a thread of its own, not by `sigtimedwait`: after a SIGSTOP that outlasts its time-out, CPython 3.11's returns
    # as if a signal had come, and the API would end because a host or a debugger held it for a moment.
    stopping = threading.Event()

    def listen() -> None:
        signal.sigwait(stops)
        stopping.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    while not stopping.wait(SERVER_CHECK_SECONDS):
        if not thread.is_alive():
            log.error("the server ended by itself")
            return 1
    log.info("stopping")
    server.should_exit = True
    thread.join(serving.STOP_SECONDS)
    if thread.is_alive():
        log.warning("requests still wait for the database and are left without an answer")
        logging.shutdown()
        os._exit(0)
    return 0


@dataclass
class Resources:
    """What requests share."""

    engine: Engine
    store: Store
    metrics: Metrics
    tokens: Tokens
    given: ServingSettings
    room: serving.Room
    large: threading.Lock = field(default_factory=threading.Lock)
    in_flight: int = 0


def create_app(resources: Resources) -> FastAPI:
    """Return the application over these resources."""
    resources.metrics.in_flight(lambda: resources.in_flight)
    # The one document of both APIs is served, not FastAPI's own.
    app = FastAPI(
        title="Latido ingest",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.resources = resources
    app.add_middleware(CountRequests, metrics=resources.metrics)
    app.add_exception_handler(Problem, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(MemoryError, _answer_without_memory)
    app.add_exception_handler(RuntimeError, _answer_without_memory)
    app.add_exception_handler(Exception, _answer_defect)
    app.add_api_route("/api/ram", push_ram, methods=["POST"], status_code=201)
    app.add_api_route("/api/cpu", push_cpu, methods=["POST"], status_code=201)
    app.add_api_route("/api/procesos", push_procesos, methods=["POST"], status_code=201)
    app.add_api_route("/api/health", health, methods=["GET", "HEAD"])
    app.add_api_route("/metrics", expose, methods=["GET", "HEAD"])
    app.add_api_route("/openapi.json", contract, methods=["GET", "HEAD"])
    app.add_api_route("/-/healthy", healthy, methods=["GET", "HEAD"])
    app.add_api_route("/-/ready", ready, methods=["GET", "HEAD"])
    return app


# --- dependencies ---


def shared(request: Request) -> Resources:
    """Return what requests share."""
    resources = request.app.state.resources
    if not isinstance(resources, Resources):
        raise TypeError("create_app sets the resources")
    return resources


Shared = Annotated[Resources, Depends(shared)]


async def authenticated(request: Request, resources: Shared) -> Token | None:
    """Return the caller's token; check the headers that follow it."""
    token = resources.tokens.authenticate(request.headers.get("Authorization"))
    contract_body.check_headers(request.headers.get("Content-Type"), request.headers.get("Content-Encoding"))
    return token


Caller = Annotated[Token | None, Depends(authenticated)]


async def slot(_caller: Caller, resources: Shared) -> AsyncIterator[Take]:
    """Hold one of `--web.max-requests` places, and room for the body, while the push is read and stored."""
    if resources.in_flight >= resources.given.max_requests:
        raise Problem(
            ProblemType.OVERLOADED, f"{resources.in_flight} pushes are in flight", retry_after=serving.RETRY_AFTER_BUSY
        )
    resources.in_flight += 1
    try:
        with resources.room.place() as take:
            yield take
    finally:
        resources.in_flight -= 1


Place = Annotated[Take, Depends(slot)]


async def read(request: Request, resources: Shared, take: Place) -> bytes:
    """Return the body as it was sent, within the limits of size and time."""
    declared = request.headers.get("Content-Length", "0")
    size = 0
    too_large = declared.isdecimal() and int(declared) > limits.MAX_COMPRESSED_BYTES
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(resources.given.read_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                too_large = too_large or size > limits.MAX_COMPRESSED_BYTES
                if too_large:
                    chunks.clear()
                else:
                    take(len(chunk))
                    chunks.append(chunk)
                if size > DRAIN_BYTES:
                    break
    except TimeoutError:
        raise Problem(ProblemType.REQUEST_TIMEOUT, f"{size} bytes in {resources.given.read_timeout:g} s") from None
    if too_large:
        raise Problem(ProblemType.TOO_LARGE, f"more than {limits.MAX_COMPRESSED_BYTES} bytes")
    return b"".join(chunks)


Body = Annotated[bytes, Depends(read)]


def validated(feed: Feed, model: type[schemas.P]) -> Callable[[Request, Body, Caller, Resources, Take], schemas.P]:
    """Return the dependency that makes a body a checked push. It runs on a worker thread."""

    def dependency(request: Request, body: Body, caller: Caller, resources: Shared, take: Place) -> schemas.P:
        with resources.metrics.timed("decode"):
            inflated = inflate(body, request.headers.get("Content-Encoding"), take)
            with resources.large if len(inflated) > LARGE_BYTES else nullcontext():
                push, unknown = schemas.validate(model, inflated)
        authorize(caller, push.host)
        resources.metrics.unknown_fields(feed, unknown)
        return push

    return dependency


def session(resources: Shared) -> Iterator[Session]:
    """Return the request's session; what it did not commit is rolled back."""
    with Session(resources.engine, expire_on_commit=False) as opened:
        yield opened


Database = Annotated[Session, Depends(session)]

# --- routes ---


def push_ram(
    push: Annotated[schemas.RamPush, Depends(validated(Feed.RAM, schemas.RamPush))],
    database: Database,
    resources: Shared,
) -> schemas.Accepted:
    """Store `ram` samples."""
    return resources.store.store(database, Feed.RAM, push)


def push_cpu(
    push: Annotated[schemas.CpuPush, Depends(validated(Feed.CPU, schemas.CpuPush))],
    database: Database,
    resources: Shared,
) -> schemas.Accepted:
    """Store `cpu` samples."""
    return resources.store.store(database, Feed.CPU, push)


def push_procesos(
    push: Annotated[schemas.ProcesosPush, Depends(validated(Feed.PROCESOS, schemas.ProcesosPush))],
    database: Database,
    resources: Shared,
) -> schemas.Accepted:
    """Store `procesos` samples with their processes."""
    return resources.store.store(database, Feed.PROCESOS, push)


def health(database: Database, resources: Shared) -> schemas.Health:
    """Say whether pushes can be stored."""
    resources.store.ping(database)
    return schemas.Health(status="ok", api="orm", version=settings.version(), database="ok")


async def expose(resources: Shared) -> Response:
    """Serve the metrics."""
    return Response(generate_latest(resources.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def contract() -> Response:
    """Serve the contract's document."""
    return Response(_OPENAPI, media_type="application/json")


async def healthy() -> Response:
    """Say that the program runs."""
    return PlainTextResponse("healthy\n")


def ready(database: Database, resources: Shared) -> Response:
    """Say whether pushes can be stored."""
    resources.store.ping(database)
    return PlainTextResponse("ready\n")


# --- answers ---


async def _answer_problem(_request: Request, error: Exception) -> Response:
    if not isinstance(error, Problem):
        raise TypeError(f"expected a Problem, got {error!r}")
    headers = error.headers()
    if error.type in {ProblemType.REQUEST_TIMEOUT, ProblemType.TOO_LARGE}:
        headers["Connection"] = "close"  # what is left of the body is not the next request
    return JSONResponse(error.document(), status_code=error.type.status, headers=headers)


async def _answer_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise TypeError(f"expected an HTTPException, got {error!r}")
    if error.status_code == ProblemType.METHOD_NOT_ALLOWED.status:
        allow = ", ".join(sorted(part.strip() for part in (error.headers or {}).get("Allow", "").split(",")))
        return await _answer_problem(request, Problem(ProblemType.METHOD_NOT_ALLOWED, f"it takes {allow}", allow=allow))
    return await _answer_problem(request, Problem(ProblemType.NOT_FOUND, "the API's paths are in /openapi.json"))


async def _answer_nobody(request: Request, _error: Exception) -> Response:
    return await _answer_problem(request, Problem(ProblemType.REQUEST_TIMEOUT, "the sender went away"))


async def _answer_without_memory(request: Request, error: Exception) -> Response:
    problem = serving.without_memory(error)
    if problem is None:
        raise error  # another RuntimeError: a defect
    log.error("there is no memory for a request", path=request.url.path)
    return await _answer_problem(request, problem)


async def _answer_defect(request: Request, _error: Exception) -> Response:
    log.error("a request met a defect", path=request.url.path)  # uvicorn logs the trace
    return await _answer_problem(request, Problem(ProblemType.INTERNAL, "the log says more"))


class CountRequests:
    """ASGI middleware that counts the answers of the feeds' endpoints; other paths make no label."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and note the status of its answer."""
        feed = _FEEDS.get(scope.get("path", ""))
        if feed is None:
            await self._app(scope, receive, send)
            return
        status = ProblemType.INTERNAL.status  # what the outermost middleware answers where nothing was sent

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            self._metrics.request(feed, status)


_FEEDS: Final = {f"/api/{feed.value}": feed for feed in Feed}
_OPENAPI: Final = (files("ingest.contract") / "openapi.json").read_bytes()
