"""Every part of Latido under a varied load, and a Prometheus with the rules, in which time runs faster.

How much faster is measured: a scrape that does not come in time ends its series, so the interval is several times what
the slowest program takes to answer on this machine at this moment, and a written minute is one interval. On an idle
machine that is one second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from dev import prometheus
from dev.ports import free_port
from dev.program import Program
from grafana.checks import rules
from grafana.checks.load import KINDS

HOST: Final = "web-1"
START_SECONDS: Final = 180
SHORTEST_SCRAPE, LONGEST_SCRAPE = 1, 5
"""Seconds. The longest is that of prometheus.yml: then time runs twelve times faster."""
ROOM: Final = 5
"""A scrape's interval, in times of what it took."""
TRIES: Final = 3
GROUPS: Final = {
    "groups": [
        *({"name": name, "command": name} for name in (*KINDS, "latido", "mariadbd", "prometheus")),
        {"name": "kernel", "kernel_thread": True},
        {"name": "the-rest", "command_regex": ""},
    ]
}
"""Group rules: a drill is about processes of a certain name, which keep it however many busier neighbours there are."""


class QueryError(Exception):
    """Prometheus refused a query; the message is its own."""


@dataclass(frozen=True)
class Running:
    """The stack as it runs."""

    prometheus: str
    database: str
    programs: dict[str, Program]
    scrape_seconds: int
    began: float
    """In seconds since the epoch: what is older is not this stack's."""

    @property
    def faster(self) -> float:
        """How much faster time runs in the rules."""
        return 60 / self.scrape_seconds

    @property
    def patience(self) -> float:
        """Seconds to wait for what takes up to three quarters of an hour in the rules, many times over."""
        return 300 + 120 * self.scrape_seconds

    def instant(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return an instant vector, or of a range's selector its samples; nothing while Prometheus does not answer.

        Raises QueryError.
        """
        return self._query("query", {"query": expression, **({"time": str(at)} if at is not None else {})})

    def over_time(self, expression: str, first: float, last: float, step: float) -> list[dict[str, Any]]:
        """Return a range query's series. Raises QueryError."""
        times = {"start": f"{first:.3f}", "end": f"{last:.3f}", "step": f"{step:.3f}"}
        return self._query("query_range", {"query": expression, **times})

    def firing(self) -> set[str]:
        """Return the names of alerts that fire."""
        return {series["metric"]["alertname"] for series in self.instant('ALERTS{alertstate="firing"}')}

    def labels(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of what fires or is."""
        return [series["metric"] for series in self.instant(expression)]

    def _query(self, kind: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        url = f"{self.prometheus}/api/v1/{kind}"
        try:
            data = urllib.parse.urlencode(parameters).encode()
            with urllib.request.urlopen(url, data, timeout=60) as response:  # noqa: S310 - loopback
                result: list[dict[str, Any]] = json.load(response)["data"]["result"]
                return result
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                return []  # starting
            raise QueryError(f"{parameters['query']}\n{error.read().decode()}") from None
        except OSError:
            return []  # not up yet, or too slow to answer


@contextmanager
def running(
    dsn: str,
    folder: Path,
    loads: Sequence[str] = tuple(KINDS),
    others: Mapping[str, Path] | None = None,
    source: str = "auto",
) -> Iterator[Running]:
    """Run everything over a database with its tables, until the block ends.

    `source` is how the exporter reads the kernel.
    `others` are further hosts, by name the root of a /proc: each has an exporter of its own.
    """
    environ = {"LATIDO_DB_DSN": dsn}
    with ExitStack() as stack:
        programs: dict[str, Program] = {}

        def start(name: str, *flags: str) -> Program:
            program = Program(name.split(), flags, environ)
            stack.callback(_end, program)
            programs[name] = program.start(ready="")
            return program

        apis = [start("ingest raw"), start("ingest orm")]
        start("bridge")
        for program in programs.values():
            program.wait_ready(seconds=START_SECONDS)
        pushes = [f"--push.url={api.url}" for api in apis]
        groups = folder / "groups.yml"
        groups.write_text(yaml.safe_dump(GROUPS), encoding="utf-8")
        flags = [f"--spool.path={folder / 'spool.sqlite'}", f"--collector.processes.config-file={groups}"]
        flags.append(f"--source={source}")
        exporter = start("exporter", *pushes, "--push.interval=1s", f"--push.host={HOST}", *flags)
        exporter.wait_ready(seconds=START_SECONDS)
        for name, root in (others or {}).items():
            flags = [f"--spool.path={folder / f'{name}.sqlite'}", f"--path.procfs={root}", "--source=procfs"]
            other = Program(["exporter"], [*pushes, "--push.interval=1s", f"--push.host={name}", *flags], environ)
            stack.callback(_end, other)
            programs[f"exporter of {name}"] = other.start(ready="")
            other.wait_ready(seconds=START_SECONDS)
        for kind in loads:
            stack.enter_context(_load(kind))
        stack.enter_context(_client(programs["bridge"].url))
        began = time.time()
        seconds = _interval(programs)
        yield Running(stack.enter_context(_prometheus(folder, programs, seconds)), dsn, programs, seconds, began)


def _interval(programs: Mapping[str, Program]) -> int:
    """Return seconds from one scrape to the next, by what the slowest of some takes."""
    slowest = 0.0
    for program in programs.values():
        for _ in range(TRIES):
            start = time.monotonic()
            program.get("/metrics")
            slowest = max(slowest, time.monotonic() - start)
    return min(max(math.ceil(ROOM * slowest), SHORTEST_SCRAPE), LONGEST_SCRAPE)


def _end(program: Program) -> None:
    if program.runs():
        program.stop()
    program.close()


@contextmanager
def _load(kind: str) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-m", "grafana.checks.load", kind])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _prometheus(folder: Path, programs: dict[str, Program], seconds: int) -> Iterator[str]:
    port = free_port()
    moved = {variable: str(programs[name].port) for name, (variable, _) in prometheus.PORTS.items() if name in programs}
    home = folder / "prometheus"
    command = prometheus.command(port, home, {**moved, "LATIDO_PUSH_HOST": HOST})
    config = home / "prometheus.yml"
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    exporters = next(job for job in document["scrape_configs"] if job["job_name"] == "latido-exporter")
    exporters["static_configs"] += [
        {"targets": [f"127.0.0.1:{program.port}"], "labels": {"host": name.removeprefix("exporter of ")}}
        for name, program in programs.items()
        if name.startswith("exporter of ")
    ]
    every = f"{seconds}s"
    document["global"] = {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    document["rule_files"] = [str(rules.write_faster(folder / "rules", 60 / seconds))]
    config.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    process = subprocess.Popen(["setpriv", "--pdeathsig", "TERM", *command], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(START_SECONDS)


@contextmanager
def _client(url: str) -> Iterator[None]:
    """Read the live feed as a page would, so that the bridge has a client."""
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def read() -> None:
        address = f"{url.replace('http', 'ws')}/ws"
        with contextlib.suppress(OSError, WebSocketException):
            async with connect(address, max_size=64 << 20) as socket:
                frames = asyncio.create_task(_drain(socket))
                await stop.wait()
                frames.cancel()

    thread = threading.Thread(target=lambda: loop.run_until_complete(read()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


async def _drain(frames: Any) -> None:  # noqa: ANN401 - a connection, which the library names only by module
    with contextlib.suppress(WebSocketException):
        async for _ in frames:
            pass
