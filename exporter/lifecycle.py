"""Reading group rules again while the exporter runs: on SIGHUP, and on `POST /-/reload` as Prometheus has it.

The request works only with `--web.enable-lifecycle`, from this machine, and not from a web page: a browser says where
a page is from, and none has business here.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Callable
from typing import Final

from aiohttp import web

from latido import logs

log = logs.get(__name__)

Reload = Callable[[], str | None]
"""Reads again, and returns why that failed, or None. May block; called in a thread."""

PATH: Final = "/-/reload"


class Lifecycle:
    """Runs `reload` when it is asked for, in a thread of its own, one at a time."""

    def __init__(self, reload: Reload, *, enabled: bool) -> None:
        self._reload = reload
        self._enabled = enabled
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[str | None]] = set()

    def install(self, app: web.Application, loop: asyncio.AbstractEventLoop) -> None:
        """Add the route, and listen for SIGHUP until the application ends."""
        app.router.add_post(PATH, self.handle)
        app.router.add_put(PATH, self.handle)
        loop.add_signal_handler(signal.SIGHUP, self._on_signal)
        app.on_cleanup.append(self._stop)

    async def handle(self, request: web.Request) -> web.Response:
        """Answer 200 once the rules are read again, 500 with the reason where they could not be; else 403."""
        if not self._enabled:
            return web.Response(status=403, text="not enabled; --web.enable-lifecycle enables it\n")
        if not is_loopback(request.remote) or "Origin" in request.headers:
            return web.Response(status=403, text="only from this machine, and not from a web page\n")
        error = await self._run()
        return web.Response(text="read again\n") if error is None else web.Response(status=500, text=f"{error}\n")

    async def _run(self) -> str | None:
        async with self._turn:
            return await asyncio.to_thread(self._reload)

    def _on_signal(self) -> None:
        task = asyncio.get_running_loop().create_task(self._run())
        self._running.add(task)  # the loop itself keeps no reference
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[str | None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("reading again failed", error=repr(error))

    async def _stop(self, _: web.Application) -> None:
        await asyncio.gather(*self._running, return_exceptions=True)


def is_loopback(remote: str | None) -> bool:
    """Whether a peer is on this machine. A proxy on this machine is, whomever it speaks for."""
    if remote is None:
        return False
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
