"""`growth`: how the CPU of one scrape grows with the number of processes, for us and the alternatives, as a plot.

The same contenders and the same measurement as `scrape`, at each size in turn, and at last among a fleet that is not
asleep: many threads, many open files, births and deaths. `--plot FOLDER` writes `scrape-growth` as SVG and PNG. It has
no bar of its own: `scrape` holds that.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadtest.benchmarks import scrape
from loadtest.benchmarks.measure import Result, machine

SIZES = (100, 300, 1_000, 3_000, 10_000, 20_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="processes that sleep meanwhile")
    parser.add_argument("--busy", type=int, default=1_000, help="processes of the fleet that is not asleep; 0: none")
    parser.add_argument("--runs", type=int, default=7, help="rounds (at least 7)")
    parser.add_argument("--sources", nargs="+", default=["bpf", "procfs"], help="our sources to measure")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write the plot there (needs the extra `loadtest`)")


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
    if given.plot is not None:
        plot(medians, (given.busy, busy), given.plot)
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


def plot(medians: Mapping[str, Mapping[int, float]], busy: tuple[int, Mapping[str, float]], folder: Path) -> None:
    """Write the plot: both axes logarithmic, a line a contender; a cross is the same contender in the busy fleet."""
    from matplotlib import pyplot as plt  # noqa: PLC0415 - only for who wants a picture

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    order: Sequence[str] = sorted(medians, key=lambda name: -list(medians[name].values())[-1])
    for name in order:
        column = medians[name]
        ours = name in {"bpf", "procfs", "kmod"}
        label = f"Latido, {name}" if ours else name
        (line,) = axes.plot(
            list(column),
            [seconds * 1000 for seconds in column.values()],
            marker="o",
            lw=2.5 if ours else 1.2,
            label=label,
        )
        if name in busy[1]:
            axes.plot([busy[0]], [busy[1][name] * 1000], marker="x", ms=9, mew=2, color=line.get_color())
    if busy[1]:
        label = f"the same, {busy[0]:,} busy processes"
        axes.plot([], [], marker="x", ms=9, mew=2, ls="", color="gray", label=label)
    axes.set(xscale="log", yscale="log", xlabel="processes", ylabel="CPU of one scrape, ms (median)")
    axes.set_title(f"One full scrape over HTTP, {machine()['cpu']}, Linux {machine()['kernel']}", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"scrape-growth.{suffix}", dpi=144)
    plt.close(figure)
