"""`exits`: the share of a storm's CPU time that groups account for, beside process-exporter and psutil in the same run.

560 processes that live some milliseconds, with execs (by other threads than the leader, too), threads, and zombies that
nobody waits for until it is over; the truth is getrusage(2) of the storm. Grouped by command, by user and by cgroup; a
round counts with the worst of them. `bpf` is measured here and, like `kmod`, in guests of kmod/tests, which are slow:
their storms are smaller. Where this machine has cgroups of version 1, which hide the ids of the others, grouping by
cgroup is measured in the guests alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict

import msgspec

from loadtest.benchmarks.attribution import Round, measure, worst
from loadtest.benchmarks.guest import SERIES, boot
from loadtest.benchmarks.measure import Ratio, Result, installed
from loadtest.benchmarks.programs import UnavailableError, debian

BAR = 0.99
SOURCES = ("bpf", "kmod")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--rounds", type=int, default=40, help="of 14 processes each, in a storm on this machine")
    parser.add_argument("--runs", type=int, default=7, help="storms on this machine (at least 7, as in each guest)")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between scrapes, on this machine")
    parser.add_argument("--series", nargs="*", default=list(SERIES), help="kernels to boot; without one: no guest")


def run(given: argparse.Namespace) -> Result:
    """Measure here and in each guest; each source's ratio is the smallest of its medians."""
    places: dict[str, list[Round]] = {}
    raw: dict[str, object] = {}
    try:
        places["this machine"] = measure(["bpf"], given.rounds, given.runs, given.interval)
    except UnavailableError as error:
        left_out("this machine", error)
    try:
        debian("prometheus-process-exporter", "prometheus-process-exporter")  # a guest has no network to fetch it by
    except UnavailableError as error:
        left_out("process-exporter", error)
    for series in given.series:
        try:
            report = boot(series, "loadtest/benchmarks/guest_exits.py", crowd=50)
        except UnavailableError as error:
            left_out(series, error)
            continue
        places[report.release] = msgspec.convert(report.figures["rounds"], list[Round])
        raw[f"guest_seconds {report.release}"] = report.seconds
    for place, rounds in places.items():
        raw[place] = [{**asdict(one), "shares": one.shares()} for one in rounds]
        print(f"{place}: {described(rounds)}", flush=True)  # noqa: T201 - the benchmark's output
    ratios = {
        f"exits.attributed_{source}": min(found, key=lambda one: one.value)
        for source in SOURCES
        if (found := [share(worst(rounds, source)) for rounds in places.values() if worst(rounds, source)])
    }
    return Result("exits", ratios, raw, installed("numpy", "psutil"))


def share(each: Sequence[float]) -> Ratio:
    """Return the shares as a ratio with the design's bar."""
    return Ratio(statistics.median(each), min(each), max(each), len(each), BAR)


def described(rounds: Sequence[Round]) -> str:
    """Return a line for people: each contender's median share."""
    seconds = statistics.median(one.cpu_seconds for one in rounds)
    shares = {name: statistics.median(one.shares()[name] for one in rounds) for name in rounds[0].attributed}
    seen = "; ".join(f"{name} {value:.2%}" for name, value in shares.items())
    return f"storms of {rounds[0].ended} ends, {seconds:.2f} CPU seconds, median of {len(rounds)}: {seen}"


def left_out(what: str, error: UnavailableError) -> None:
    """Say what is not measured."""
    print(f"{what} is left out: {error}", file=sys.stderr)  # noqa: T201 - to the person who runs it
