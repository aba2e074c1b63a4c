"""An application served: sockets, protection and connections put together."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from exporter.serving import sockets, systemd
from exporter.serving.connections import Bounds, Connections
from exporter.serving.gate import Gate
from exporter.serving.live import Current, LiveConfig, unprotected
from exporter.serving.settings import ServingSettings
from latido import settings

SHUTDOWN_SECONDS: Final = 1.5
"""For answers in progress; who has not taken theirs by then is cut. A hasty init gives 5 s for everything."""
_LINGER_SECONDS: Final = 2.0
"""For the rest of a body that nobody asked for, before the connection is closed."""


def open_protection(given: ServingSettings) -> Current:
    """Return what guards the application. Raises SettingsError for a configuration that cannot be used."""
    return LiveConfig(given.config_file).current if given.config_file else unprotected


def open_sockets(given: ServingSettings, current: Current, environ: Mapping[str, str]) -> list[socket.socket]:
    """Return the listening sockets.

    Raises SettingsError for an address that cannot be had, or that other machines reach though no caller would
    have to show who they are.
    """
    authenticates = current().config.authenticates
    if not given.systemd_socket:
        for address in given.listen:
            _guard(address, given, authenticates=authenticates)
        return sockets.listen(given.listen)
    listeners = sockets.inherited(environ, os.getpid())
    for listener in listeners:
        _guard(sockets.bound(listener), given, authenticates=authenticates)
    return listeners


@asynccontextmanager
async def serve(
    app: web.Application,
    listeners: Sequence[socket.socket],
    current: Current,
    *,
    environ: Mapping[str, str] | None = None,
    bounds: Bounds | None = None,
) -> AsyncIterator[None]:
    """Serve an application on sockets, which are closed at the end; systemd is told when it is ready."""
    connections = Connections(current, bounds)
    Gate(current).install(app)
    connections.install(app)
    runner = web.AppRunner(
        app,
        access_log=None,
        logger=_logger(),
        lingering_time=_LINGER_SECONDS,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    try:
        await runner.setup()
        if runner.server is None:
            raise RuntimeError("the application was set up without a server")
        connections.start(runner.server, listeners)
        systemd.notify(systemd.READY, environ or {})
        yield
    finally:
        systemd.notify(systemd.STOPPING, environ or {})
        await connections.stop()
        sockets.close(listeners)
        cut = asyncio.get_running_loop().call_later(SHUTDOWN_SECONDS, connections.cut)
        await runner.cleanup()
        cut.cancel()
        connections.cut()


def _guard(address: settings.Address, given: ServingSettings, *, authenticates: bool) -> None:
    settings.guard(
        address,
        has_token=authenticates,
        insecure=given.insecure,
        flag="web.systemd-socket" if given.systemd_socket else "web.listen-address",
        remedy="ask for passwords or client certificates (--web.config.file), listen",
    )


def _logger() -> logging.Logger:
    """Return aiohttp's logger, without its trace for each client that does not speak HTTP."""
    logger = logging.getLogger("exporter.serving.http")
    if not logger.filters:
        logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
