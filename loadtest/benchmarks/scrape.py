"""`scrape`: CPU of one full grouped scrape over HTTP, against process-exporter, node_exporter and psutil.

All run at once over the same processes and are scraped in turn; what is compared is the CPU time of the serving
process between two readings of its scheduler clocks (schedstat). process-exporter groups by command as we do, with
`-threads=false -gather-smaps=false`, its cheapest form. Nothing is installed: Debian's packages are unpacked.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from loadtest.benchmarks.measure import Ratio, Result, cpu_of, installed, interleave, ratio
from loadtest.benchmarks.programs import Server, UnavailableError, busy_fleet, debian, free_port, serving, sleepers

PSUTIL_FIELDS = (
    "pid",
    "ppid",
    "name",
    "status",
    "uids",
    "num_threads",
    "cpu_times",
    "memory_info",
    "io_counters",
    "num_ctx_switches",
    "create_time",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--processes", type=int, default=10_000, help="processes that sleep meanwhile")
    parser.add_argument(
        "--busy",
        type=int,
        default=0,
        help="processes of ten threads and 200 files that wake 20 times a second, some of them to start others",
    )
    parser.add_argument("--runs", type=int, default=7, help="rounds (at least 7)")
    parser.add_argument("--sources", nargs="+", default=["bpf", "procfs"], help="our sources to measure")


def run(given: argparse.Namespace) -> Result:
    """Measure, and report what could not be."""
    raw: dict[str, object] = {
        "processes": given.processes,
        "busy": given.busy,
        "load_average_before": os.getloadavg(),
    }
    with ExitStack() as stack:
        stack.enter_context(sleepers(given.processes))
        if given.busy:
            stack.enter_context(busy_fleet(given.busy))
        servers: dict[str, Server] = {}
        for name, start in contenders(given.sources).items():
            try:
                servers[name] = stack.enter_context(start())
            except UnavailableError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)  # noqa: T201 - to the person who runs it
        walls: dict[str, list[float]] = {}
        figures = interleave(
            {
                **{name: measured(server, walls.setdefault(name, [])) for name, server in servers.items()},
                "psutil": by_psutil,
            },
            given.runs,
        )
        raw["cpu_seconds"] = figures
        raw["wall_seconds"] = walls
        raw["resident_mib"] = {name: server.resident_mib() for name, server in servers.items()}
        raw["load_average"] = os.getloadavg()
        raw["bytes"] = {name: len(server.scrape()) for name, server in servers.items()}
    return Result("scrape", ratios(figures, raw["resident_mib"]), raw, installed("numpy", "psutil"))


def ratios(figures: dict[str, list[float]], resident: object) -> dict[str, Ratio]:
    """Return the design's ratios, as far as their contenders ran."""
    found: dict[str, Ratio] = {}
    reference = figures.get("process-exporter")
    for source, bar in (("bpf", 100.0), ("procfs", 4.0)):
        if reference and source in figures:
            found[f"scrape.process_exporter_over_{source}"] = ratio(reference, figures[source], bar)
    ours = [value for name, value in dict(resident).items() if name in {"bpf", "procfs"}]  # type: ignore[call-overload]  # made above
    if ours:
        found["scrape.resident_mib"] = Ratio(max(ours), min(ours), max(ours), len(ours), 64.0, better="smaller")
    return found


def contenders(sources: list[str]) -> dict[str, Callable[[], contextlib.AbstractContextManager[Server]]]:
    """Return how each serving contender is started."""
    found: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
        source: lambda source=source: ours(source)  # type: ignore[misc]  # mypy does not infer a default's type
        for source in sources
    }
    found["process-exporter"] = process_exporter
    found["node_exporter"] = node_exporter
    return found


@contextmanager
def ours(source: str) -> Iterator[Server]:
    """Run our exporter over one source, without push."""
    port = free_port()
    binary = str(Path(sys.executable).parent / "latido")
    flags = [f"--source={source}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with serving([binary, "exporter", *flags], f"http://127.0.0.1:{port}/metrics") as server:
        yield server


@contextmanager
def process_exporter() -> Iterator[Server]:
    """Run process-exporter, grouping by command."""
    binary = debian("prometheus-process-exporter", "prometheus-process-exporter")
    port = free_port()
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as config:
        config.write('process_names:\n  - name: "{{.Comm}}"\n    cmdline: [".+"]\n')
        config.flush()
        flags = ["-threads=false", "-gather-smaps=false", f"-config.path={config.name}"]
        with serving(
            [str(binary), *flags, f"-web.listen-address=127.0.0.1:{port}"], f"http://127.0.0.1:{port}/metrics"
        ) as server:
            yield server


@contextmanager
def node_exporter() -> Iterator[Server]:
    """Run node_exporter with its processes collector alone: states and totals, no groups."""
    binary = debian("prometheus-node-exporter", "prometheus-node-exporter")
    port = free_port()
    flags = ["--collector.disable-defaults", "--collector.processes", f"--web.listen-address=127.0.0.1:{port}"]
    with serving([str(binary), *flags], f"http://127.0.0.1:{port}/metrics") as server:
        yield server


def measured(server: Server, walls: list[float]) -> Callable[[], float]:
    """Return a measurement of one scrape: the CPU seconds of the server; the wall seconds go to `walls`."""

    def measure() -> float:
        before, start = server.cpu_seconds(), time.perf_counter()
        server.scrape()
        walls.append(time.perf_counter() - start)
        return server.cpu_seconds() - before

    return measure


def by_psutil() -> float:
    """Read the same fields with psutil, in this process, without grouping or serving them."""
    return cpu_of(lambda: [process.info for process in psutil.process_iter(PSUTIL_FIELDS)])
