"""The exporter over HTTP: /metrics, a landing page, /-/healthy and /-/ready.

Reading the kernel blocks, so it runs in one worker thread beside the event loop: scrapes take turns, a few may wait,
and more are refused, so that a scraper that retries cannot pile up work.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import html
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from exporter.collectors.driver import MachineCollector
from exporter.exposition import Encoder
from latido import logs

log = logs.get(__name__)

WAITING: Final = 40
"""Scrapes that run or wait at once, as many as node_exporter takes; `--web.max-requests` says otherwise."""
_GZIP_LEVEL: Final = 1
"""Text of metrics shrinks to a tenth at once; higher levels cost more CPU than they save on the wire."""


class Format(Enum):
    """The two expositions, each by the `Accept` that prometheus-client knows it by."""

    TEXT = "text/plain; version=0.0.4"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0"

    @property
    def content_type(self) -> str:
        """The `Content-Type` of an answer."""
        return choose_encoder(self.value)[1]


Scrape = Callable[[Format], bytes]
"""Reads everything anew and returns the exposition. Called in one thread, never twice at a time."""

Ready = Callable[[], str | None]
"""Returns why the exporter is not ready yet, in words, or None."""


def scraper(machine: MachineCollector, registry: CollectorRegistry) -> Scrape:
    """Return a scrape: what `machine` reads, by our own encoder, then what the exporter counts itself in `registry`."""
    encoder = Encoder()

    def scrape(form: Format) -> bytes:
        own, _ = choose_encoder(form.value)
        encode = encoder.openmetrics if form is Format.OPENMETRICS else encoder.text
        return encode(machine.collect()) + own(registry)

    return scrape


def make_app(scrape: Scrape, ready: Ready, *, version: str, max_requests: int = WAITING) -> web.Application:
    """Return the application. It scrapes once at its start, so that counters count from there."""
    handlers = _Handlers(_Worker(scrape, max_requests), ready, _landing_page(version))
    app = web.Application(middlewares=[_no_trace])
    app.on_startup.append(handlers.start)
    app.on_cleanup.append(handlers.stop)
    app.on_response_prepare.append(_headers)
    app.router.add_get("/", handlers.landing)
    app.router.add_get("/metrics", handlers.metrics)
    app.router.add_get("/-/healthy", handlers.healthy)
    app.router.add_get("/-/ready", handlers.ready)
    return app


# --- negotiation: header in, choice out (RFC 9110 sections 12.4.2, 12.5.1 and 12.5.3) ---


def choose_format(accept: str | None) -> Format:
    """Return OpenMetrics where it is asked for by name and not valued below text; text for everyone else."""
    wanted = _qualities(accept)
    quality = wanted.get("application/openmetrics-text", 0.0)
    text = wanted.get("text/plain", wanted.get("text/*", wanted.get("*/*", 0.0)))
    return Format.OPENMETRICS if quality > 0 and quality >= text else Format.TEXT


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether an answer may be compressed."""
    wanted = _qualities(accept_encoding)
    return wanted.get("gzip", wanted.get("*", 0.0)) > 0


def _qualities(header: str | None) -> dict[str, float]:
    """Return what a header asks for, by lower-case name, with its q; of a name given twice, the higher."""
    wanted: dict[str, float] = {}
    for part in (header or "").split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "q":
                try:
                    quality = min(max(float(value), 0.0), 1.0)
                except ValueError:
                    quality = 0.0  # what cannot be read is not asked for
        wanted[name.lower()] = max(quality, wanted.get(name.lower(), 0.0))
    return wanted


# --- the worker ---


class _BusyError(Exception):
    """More scrapes wait than may."""


@dataclass(frozen=True, slots=True)
class _Answer:
    body: bytes
    content_type: str
    compressed: bool


class _Worker:
    """Runs scrapes in one thread, one after another."""

    def __init__(self, scrape: Scrape, places: int) -> None:
        self._scrape = scrape
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scrape")
        self._places = threading.BoundedSemaphore(places)

    async def run(self, form: Format, *, compress: bool) -> _Answer:
        """Scrape. Raises _BusyError, and what the scrape raises."""
        if not self._places.acquire(blocking=False):
            raise _BusyError
        try:
            future = self._thread.submit(self._answer, form, compress=compress)
        except RuntimeError:  # the thread was shut down: the program is ending
            self._places.release()
            raise _BusyError from None
        # Given back when the work is done, not when the client has gone.
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    async def stop(self) -> None:
        """Wait for the scrape that runs; those that wait are dropped."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    def _answer(self, form: Format, *, compress: bool) -> _Answer:
        body = self._scrape(form)
        if compress:
            body = gzip.compress(body, _GZIP_LEVEL, mtime=0)
        return _Answer(body, form.content_type, compress)

    def _leave(self, _: Future[_Answer]) -> None:
        self._places.release()


# --- routes ---


class _Handlers:
    def __init__(self, worker: _Worker, ready: Ready, page: str) -> None:
        self._worker = worker
        self._ready = ready
        self._page = page

    async def start(self, _: web.Application) -> None:
        await self._try_scrape()

    async def stop(self, _: web.Application) -> None:
        await self._worker.stop()

    async def metrics(self, request: web.Request) -> web.Response:
        form = choose_format(_joined(request, "Accept"))
        try:
            answer = await self._worker.run(form, compress=accepts_gzip(_joined(request, "Accept-Encoding")))
        except _BusyError:
            return web.Response(status=503, headers={"Retry-After": "5"}, text="too many scrapes at once\n")
        headers = {"Content-Type": answer.content_type, "Vary": "Accept, Accept-Encoding"}
        if answer.compressed:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=answer.body, headers=headers)

    async def landing(self, _: web.Request) -> web.Response:
        return web.Response(
            text=self._page, content_type="text/html", charset="utf-8", headers={"Content-Security-Policy": _POLICY}
        )

    async def healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="healthy\n")

    async def ready(self, _: web.Request) -> web.Response:
        # Who is not ready may get no scrape from Prometheus: the probe itself brings the first read about.
        if self._ready() is not None:
            await self._try_scrape()
        reason = self._ready()
        return web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")

    async def _try_scrape(self) -> None:
        try:
            await self._worker.run(Format.TEXT, compress=False)
        except _BusyError:
            log.debug("scrapes wait already: none added")
        except Exception:
            log.exception("scrape failed")


def _joined(request: web.Request, name: str) -> str:
    return ", ".join(request.headers.getall(name, []))


@web.middleware
async def _no_trace(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Keep defects in the log: what goes wrong inside is nothing for a client."""
    try:
        return await handler(request)
    except web.HTTPException:
        raise
    except Exception:
        log.exception("request failed", path=request.path)
        return web.Response(status=500, text="the exporter has a defect; its log says more\n")


async def _headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "latido"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"


_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 3rem auto; max-width: 40rem; padding: 0 1rem; }
dt { font-weight: 600; }
dd { margin: 0 0 .75rem; }
"""
_POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _landing_page(version: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Latido exporter</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Latido exporter</h1>
<p>What every process on this host is doing now. Version {html.escape(version)}.</p>
<dl>
<dt><a href="/metrics">/metrics</a></dt>
<dd>for Prometheus: text, or OpenMetrics when asked for; every scrape reads the kernel anew</dd>
<dt><a href="/-/healthy">/-/healthy</a></dt>
<dd>whether the program runs</dd>
<dt><a href="/-/ready">/-/ready</a></dt>
<dd>whether it has read the kernel</dd>
</dl>
</body>
</html>
"""
