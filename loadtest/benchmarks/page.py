"""`page`: a hundred hosts on the live page in a real browser, and whether it stutters.

`--hosts` hosts push cpu, memory and processes at the exporter's own pace to an API over a private MariaDB; a bridge
follows it, and Debian's Chromium, without a graphics card, shows the fleet. Its main thread is watched: tasks of more
than 50 ms (the Long Tasks API), and the time from one drawn frame to the next. The same browser over an empty page is
the reference of what the machine allows, before each run. All programs share the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

import aiohttp
import msgspec

from loadtest.benchmarks.ingest import BOOT_ID, Source, api_server, database, make_table
from loadtest.benchmarks.latency import WAIT_MS, percentile
from loadtest.benchmarks.measure import LEAST_RUNS, Ratio, Result, installed
from loadtest.benchmarks.programs import Server, UnavailableError

PROCESSES: Final = 40
"""Rows of a sample that is no keyframe, on a host of some hundred processes."""
BAR_BUSY: Final = 0.05
"""Share of the time that the main thread spends in long tasks."""
BAR_FRAME_MS: Final = 100.0
WATCH: Final = """() => {
  window.tasks = [];
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) window.tasks.push(entry.duration);
  }).observe({ type: "longtask" });
  window.frames = [];
  let before = performance.now();
  const next = (now) => { window.frames.push(now - before); before = now; requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--hosts", type=int, default=100, help="on the page")
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two samples of a host")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument(
        "--runs", type=int, default=LEAST_RUNS, help=f"pages, one after another (at least {LEAST_RUNS})"
    )


def run(given: argparse.Namespace) -> Result:
    """Measure. Raises UnavailableError where the browser or the programs cannot be had."""
    if given.runs < LEAST_RUNS:
        raise ValueError(f"at least {LEAST_RUNS} runs are needed, got {given.runs}")
    try:
        from dev.browser import chromium  # noqa: PLC0415 - not in the wheel: it measures a checkout
        from dev.program import Program  # noqa: PLC0415
    except ImportError as error:
        raise UnavailableError(f"{error}; this benchmark runs in a checkout") from None
    busy, longest, frames, idle = [], [], [], []
    with database(None) as dsn:
        text = f"mysql://{dsn.user}:{dsn.password}@{dsn.host}:{dsn.port}/{dsn.database}"
        environ = {"LATIDO_DB_DSN": text, "LATIDO_LOG_LEVEL": "warning"}
        bridge = Program(("bridge",), (), environ)
        try:
            with api_server("raw", {**os.environ, **environ}, None) as api, pushing(api, given), chromium() as browser:
                bridge.start()
                for _ in range(given.runs):
                    page = browser.new_page()
                    page.goto("about:blank")
                    idle.append(percentile(watched(page, given.seconds / 4)[1], 0.99))
                    page.goto(f"{bridge.url}/")
                    page.locator("a.tile").nth(given.hosts - 1).wait_for(timeout=WAIT_MS)
                    tasks, gaps = watched(page, given.seconds)
                    busy.append(sum(tasks) / 1000 / given.seconds)
                    longest.append(max(tasks, default=0.0))
                    frames.append(percentile(gaps, 0.99))
                    page.close()
        finally:
            bridge.stop()
            bridge.close()
    ratios = {
        "page.long_tasks_share": Ratio(statistics.median(busy), min(busy), max(busy), len(busy), BAR_BUSY, "smaller"),
        "page.frame_p99_ms": Ratio(
            statistics.median(frames), min(frames), max(frames), len(frames), BAR_FRAME_MS, "smaller"
        ),
    }
    sys.stdout.write(
        f"{given.hosts} hosts: longest task {statistics.median(longest):.0f} ms (at most {max(longest):.0f});"
        f" frames of an empty page: p99 {statistics.median(idle):.0f} ms\n"
    )
    raw = {"long_tasks_share": busy, "longest_task_ms": longest, "frame_p99_ms": frames, "empty_frame_p99_ms": idle}
    return Result("page", ratios, raw, installed("playwright", "websockets"))


def watched(page: object, seconds: float) -> tuple[list[float], list[float]]:
    """Watch a page (Playwright's) for so long; return its long tasks and the gaps between frames, ascending, in ms."""
    from playwright.sync_api import Page  # noqa: PLC0415 - as above

    if not isinstance(page, Page):
        raise TypeError(f"expected a page, got {type(page).__name__}")
    page.evaluate(WATCH)
    page.wait_for_timeout(1_000 * seconds)
    found = cast(list[list[float]], page.evaluate("[window.tasks, window.frames]"))
    return found[0], sorted(found[1])


@contextmanager
def pushing(api: Server, given: argparse.Namespace) -> Iterator[None]:
    """Push every host's samples in turn, spread over the interval, in a thread of its own."""
    over = threading.Event()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(push(api.url.removesuffix("/metrics"), given, over))
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            faults.append(error)

    thread = threading.Thread(target=work, name="hosts")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if faults:
        raise faults[0]


async def push(url: str, given: argparse.Namespace, over: threading.Event) -> None:
    """Push until `over`. Raises AssertionError for an answer that is no success."""
    tables = [make_table(PROCESSES, variant) for variant in range(4)]
    sources = [Source(f"page-{number:03}") for number in range(given.hosts)]
    async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
        due = time.monotonic()
        while not over.is_set():
            for number, source in enumerate(sources):
                due += given.interval / given.hosts
                table = tables[(number + source.seq) % len(tables)]
                for feed, body in (
                    ("procesos", now(source.procesos(table, PROCESSES))),
                    ("cpu", now(source.cpu())),
                    ("ram", ram(source)),
                ):
                    async with session.post(f"{url}/api/{feed}", data=body) as response:
                        if response.status != 201:  # noqa: PLR2004 - Created
                            raise AssertionError(f"a push was answered {response.status}: {await response.text()}")
                if over.is_set():
                    return
                await asyncio.sleep(max(0.0, due - time.monotonic()))  # the hosts' own pace


def now(body: bytes) -> bytes:
    """Return a body whose samples were taken now: the tables' are spread over a day."""
    document = msgspec.json.decode(body)
    for sample in document["samples"]:
        sample["sampled_at"] = time.time_ns() // 1_000_000
    return msgspec.json.encode(document)


def ram(source: Source) -> bytes:
    """Return a body with one memory sample."""
    seq, _ = source.next()
    total = 16 << 30
    names = ("free", "available", "cached", "buffers", "swap_free")
    sizes = {f"{name}_bytes": (seq * 7_919_000_003 + 100_003 * place) % total for place, name in enumerate(names)}
    sample = {"seq": seq, "sampled_at": time.time_ns() // 1_000_000, "total_bytes": total, **sizes}
    head = {"host": source.host, "stream": source.stream, "boot_id": BOOT_ID, "kernel": "6.1.0"}
    return msgspec.json.encode({**head, "samples": [{**sample, "swap_total_bytes": total}]})
