"""`latido exporter`: sources, collectors, web and push wired together, and run until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, disable_created_metrics

from exporter.collectors.driver import MachineCollector, make_collectors
from exporter.lifecycle import Lifecycle
from exporter.memory import keep_small
from exporter.model import Source, SourceError
from exporter.rules.errors import RulesError
from exporter.rules.live import LiveRules
from exporter.serving.server import open_protection, open_sockets, serve
from exporter.serving.sockets import bound
from exporter.settings import ExporterSettings, this_host
from exporter.sources.choose import AUTO, open_source
from exporter.tools import use_tool
from exporter.web import make_app, scraper
from latido import logs, settings
from latido.settings import SettingsError

if TYPE_CHECKING:
    from exporter.push.pusher import Pusher

log = logs.get(__name__)

PROG: Final = "latido exporter"


def main(argv: Sequence[str]) -> int:
    """Run the exporter; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(
        ExporterSettings,
        PROG,
        "Read the kernel: serve /metrics for Prometheus, and push every sample to the ingest APIs.",
        argv,
        os.environ,
    )
    logs.setup(given.log.level, given.log.format)
    status = use_tool(given.tools, lambda: _rules(given), lambda: _open(given, "explain"))
    if status is not None:
        return status
    if given.push.token_file is not None:
        settings.read_secret(given.push.token_file, "--push.token-file")
    keep_small()
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client leaves it without types
    asyncio.run(_serve(given))
    return 0


async def _serve(given: ExporterSettings) -> None:
    protection = open_protection(given.serving)
    listeners = open_sockets(given.serving, protection, os.environ)
    rules = _rules(given)
    # A source each for scrape and push: they read in two threads, and neither waits for the other.
    sources = [_open(given, reader) for reader in ("scrape", "push")[: 2 if given.push.urls else 1]]
    registry = CollectorRegistry()
    machine = MachineCollector(sources[0], make_collectors(given.collectors, rules))
    rules.register(registry)
    pusher: Pusher | None = None
    try:
        if given.push.urls:
            pusher = _open_pusher(given, sources[-1], registry)
        application = make_app(
            scraper(machine, registry),
            machine.waits_for,
            version=settings.version(),
            max_requests=given.serving.max_requests,
        )
        Lifecycle(rules.reload, enabled=given.enable_lifecycle).install(application, asyncio.get_running_loop())
        async with serve(application, listeners, protection, environ=os.environ):
            log.info(
                "exporter runs",
                address=", ".join(str(bound(listener)) for listener in listeners),
                source=sources[0].name,
                push=", ".join(given.push.urls) or "off: no --push.url",
            )
            await _until_signal(pusher)
    finally:
        if pusher is not None:
            pusher.close()
        for source in sources:
            source.close()
    log.info("exporter ends")


def _open_pusher(given: ExporterSettings, source: Source, registry: CollectorRegistry) -> Pusher:
    # Imported where it is wanted: who only scrapes needs no SQLite in memory.
    from exporter.push.pusher import Pusher, host_facts  # noqa: PLC0415
    from exporter.push.spool import SpoolError  # noqa: PLC0415

    facts = host_facts(given.collectors.procfs, given.push.host or this_host(), os.uname().release)
    try:
        return Pusher(given.push, source, facts, registry)
    except SpoolError as error:
        raise SettingsError(str(error)) from None


def _rules(given: ExporterSettings) -> LiveRules:
    try:
        return LiveRules(given.rules, given.collectors.procfs)
    except RulesError as error:
        raise SettingsError(str(error)) from None


def _open(given: ExporterSettings, reader: str) -> Source:
    try:
        return open_source(given.source, given.collectors.procfs, reader)
    except SourceError as error:
        flag = "path.procfs" if given.source == AUTO else "source"
        raise SettingsError(f"--{flag}: {error}") from None


async def _until_signal(pusher: Pusher | None) -> None:
    """Push until a signal comes. What the push raises is a defect and ends the program."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    waiting = asyncio.create_task(stop.wait())
    tasks: set[asyncio.Task[object]] = {waiting}
    if pusher is not None:
        tasks.add(asyncio.create_task(pusher.run()))
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()
