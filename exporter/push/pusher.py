"""The push side of the exporter, put together: sampler, spool and a delivery for each API, on one event loop.

Everything that blocks (the kernel read, SQLite) runs in one thread of this object, so that a scrape waits for neither
and no two of them meet.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client import CollectorRegistry

from exporter.model import Source
from exporter.push.delivery import Delivery, Envelope, HttpPoster, R, destinations
from exporter.push.metrics import PushMetrics, SpoolCollector
from exporter.push.sampler import Sampler
from exporter.push.spool import Depth, Loss, Spool
from exporter.push.tls import client_tls
from exporter.settings import PushSettings
from latido import logs
from latido.settings import SettingsError, read_secret

log = logs.get(__name__)

CONNECT_SECONDS: Final = 5.0

MEASURE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class HostFacts:
    """What the stream says of its host: its name, this boot's id and the kernel's release."""

    host: str
    boot_id: str
    kernel: str


def timeouts(seconds: float) -> aiohttp.ClientTimeout:
    """Return how long a push may take in all, and a connection to come about once its address is known.

    Finding the address is bounded by the whole alone: where the first of two name servers is silent, resolv.conf(5) has
    every look-up take 5 s, and a bound as short as that would keep samples for as long as the server is silent.
    """
    return aiohttp.ClientTimeout(total=seconds, sock_connect=min(CONNECT_SECONDS, seconds))


class Pusher:
    """Pushes what `source` reads as `settings` say, from `run` until that is cancelled; then `close`."""

    def __init__(self, settings: PushSettings, source: Source, facts: HostFacts, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._facts = facts
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._tls = client_tls(settings.tls)
        self._destinations = destinations(settings.mode, settings.urls)
        self._spool = Spool(settings.spool_path, [destination.name for destination in self._destinations])
        self._metrics = PushMetrics(registry, settings.urls)
        self._count(self._spool.losses())  # of the stream, whichever process saw them
        self._sampler = Sampler(
            source,
            self._spool,
            self._metrics,
            boot_id=facts.boot_id,
            keyframe_ms=round(settings.keyframe_interval * 1000),
            clock=_now_ms,
        )
        self._depth = self._spool.depth()
        registry.register(SpoolCollector(self._measure, time.time))

    async def run(self) -> None:
        """Sample and deliver until cancelled."""
        envelope = Envelope(self._facts.host, self._spool.stream, self._facts.boot_id, self._facts.kernel)
        connector = aiohttp.TCPConnector(ssl=self._tls)
        async with (
            aiohttp.ClientSession(timeout=timeouts(self._settings.timeout), connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            poster = HttpPoster(session, self._token)
            deliveries = [
                Delivery(
                    destination,
                    self._spool,
                    self._in_thread,
                    poster=poster,
                    envelope=envelope,
                    metrics=self._metrics,
                    backlog_rate=self._settings.backlog_rate,
                )
                for destination in self._destinations
            ]
            for delivery in deliveries:
                tasks.create_task(delivery.run())
            tasks.create_task(self._sample(deliveries))

    async def _sample(self, deliveries: list[Delivery]) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            await self._in_thread(self._take)
            for delivery in deliveries:
                delivery.notify()
            # On a grid, so that readings keep their pace; what a stall has missed is not made up for.
            due = max(due + self._settings.interval, loop.time())
            await asyncio.sleep(due - loop.time())

    def _take(self) -> None:
        self._sampler.take()
        try:
            self._trim()
        except sqlite3.Error as error:
            log.error("the spool cannot be trimmed", path=str(self._spool.path), reason=str(error))

    def _trim(self) -> None:
        oldest = _now_ms() - round(self._settings.spool_max_age * 1000)
        loss = self._spool.trim(self._settings.spool_max_bytes, oldest)
        self._count(loss)
        for feed, count in loss.dropped.items():
            log.warning(
                "the spool is at its bound; its oldest samples are gone",
                feed=feed.value,
                samples=count,
                lost=loss.lost.get(feed, 0),
            )

    def _count(self, loss: Loss) -> None:
        for counter, counts in ((self._metrics.dropped, loss.dropped), (self._metrics.lost, loss.lost)):
            for feed, count in counts.items():
                counter.labels(feed).inc(count)

    def _measure(self) -> Depth:
        """Ask the spool in its own thread; while that is busy for long, its last answer stands."""
        try:
            self._depth = self._thread.submit(self._spool.depth).result(MEASURE_SECONDS)
        except (TimeoutError, RuntimeError, sqlite3.Error) as error:
            # RuntimeError: the pool is closed, and a last scrape came during the shutdown.
            log.debug("the spool's depth is an earlier one", reason=str(error) or type(error).__name__)
        return self._depth

    def _token(self) -> str | None:
        if self._settings.token_file is None:
            return None
        try:
            return read_secret(self._settings.token_file, "--push.token-file")
        except SettingsError as error:
            # While it is being replaced: the API's 401 pauses, and everything is kept.
            log.error("the token cannot be read", reason=str(error))
            return None

    def _in_thread(self, work: Callable[[], R], /) -> Awaitable[R]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Wait for the call in progress and close the spool."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._spool.close()


def host_facts(root: Path, host: str, kernel: str) -> HostFacts:
    """Return the facts of the host whose /proc is at `root`. Raises SettingsError if that is no /proc."""
    path = root / "sys/kernel/random/boot_id"
    try:
        return HostFacts(host, path.read_text(encoding="ascii").strip(), kernel)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--path.procfs: {path} cannot be read: {error}") from None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
