"""`growth`: how the CPU of one scrape grows with the number of processes, for us and the alternatives.

The same contenders and the same measurement as `scrape`, at each size in turn, and at last among a fleet that is not
asleep: many threads, many open files, births and deaths. It has no bar of its own: `scrape` has.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping

from loadtest.benchmarks import scrape
from loadtest.benchmarks.measure import Result

SIZES = (100, 300, 1_000, 3_000, 10_000, 20_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="processes that sleep meanwhile")
    parser.add_argument("--busy", type=int, default=1_000, help="processes of the fleet that is not asleep; 0: none")
    parser.add_argument("--runs", type=int, default=7, help="rounds (at least 7)")
    parser.add_argument("--sources", nargs="+", default=["bpf", "procfs"], help="our sources to measure")


def run(given: argparse.Namespace) -> Result:
    """Measure at each size, then the busy fleet."""
    medians: dict[str, dict[int, float]] = {}
    raw: dict[str, object] = {}
    versions: Mapping[str, str] = {}
    for size in given.sizes:
        found = _measured(given, processes=size, busy=0)
        raw[str(size)], versions = found.raw, found.versions
        for name, median in _medians(found).items():
            medians.setdefault(name, {})[size] = median
        print(f"{size:>6} processes: {_line(_medians(found))}", flush=True)  # noqa: T201 - progress of minutes
    busy: dict[str, float] = {}
    if given.busy:
        found = _measured(given, processes=0, busy=given.busy)
        raw["busy"], busy = found.raw, _medians(found)
        print(f"{given.busy:>6} that are busy: {_line(busy)}", flush=True)  # noqa: T201 - as above
    return Result(
        "growth", {}, {"median_cpu_seconds": medians, "busy_median_cpu_seconds": busy, "sizes": raw}, versions
    )


def _measured(given: argparse.Namespace, *, processes: int, busy: int) -> Result:
    return scrape.run(argparse.Namespace(processes=processes, busy=busy, runs=given.runs, sources=given.sources))


def _medians(found: Result) -> dict[str, float]:
    figures = found.raw["cpu_seconds"]
    if not isinstance(figures, dict):
        raise TypeError("scrape measures CPU by contender")
    return {name: statistics.median(column) for name, column in figures.items()}


def _line(medians: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in medians.items())
