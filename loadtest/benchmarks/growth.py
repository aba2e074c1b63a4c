"""`growth`: how the CPU of one scrape grows with the number of processes, for us and the alternatives, as a plot.

The same contenders and the same measurement as `scrape`, at each size in turn, and at last among a fleet that is not
asleep: many threads, many open files, births and deaths. `--plot FOLDER` writes `scrape-growth` as SVG and PNG; with
`--drawn-from FILE` it draws an earlier result again and measures nothing. It has no bar of its own: `scrape` has.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from loadtest.benchmarks import scrape
from loadtest.benchmarks.measure import Result

SIZES = (100, 300, 1_000, 3_000, 10_000, 20_000)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="processes that sleep meanwhile")
    parser.add_argument("--busy", type=int, default=1_000, help="processes of the fleet that is not asleep; 0: none")
    parser.add_argument("--runs", type=int, default=7, help="rounds (at least 7)")
    parser.add_argument("--sources", nargs="+", default=["bpf", "procfs"], help="our sources to measure")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="write the plot there (needs the extra `loadtest`)")
    parser.add_argument("--drawn-from", type=Path, metavar="FILE", help="draw this result (of --json); measure nothing")


def run(given: argparse.Namespace) -> Result:
    """Measure at each size, then the busy fleet; or draw what was measured."""
    if given.drawn_from is not None:
        document = json.loads(given.drawn_from.read_text(encoding="utf-8"))
        plot(drawn(document), given.plot or given.drawn_from.parent)
        return Result("growth", {}, document["raw"], document["versions"])
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
    result = Result(
        "growth", {}, {"median_cpu_seconds": medians, "busy_median_cpu_seconds": busy, "sizes": raw}, versions
    )
    if given.plot is not None:
        plot(drawn(json.loads(json.dumps(result.document()))), given.plot)
    return result


def _measured(given: argparse.Namespace, *, processes: int, busy: int) -> Result:
    return scrape.run(argparse.Namespace(processes=processes, busy=busy, runs=given.runs, sources=given.sources))


def _medians(found: Result) -> dict[str, float]:
    figures = found.raw["cpu_seconds"]
    if not isinstance(figures, dict):
        raise TypeError("scrape measures CPU by contender")
    return {name: statistics.median(column) for name, column in figures.items()}


def _line(medians: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in medians.items())


class Drawn(msgspec.Struct, frozen=True):
    """What the plot shows: medians of CPU seconds by contender and size, those of the busy fleet, and where it was."""

    medians: dict[str, dict[int, float]]
    busy: dict[str, float]
    busy_processes: int
    place: str


def drawn(document: Mapping[str, Any]) -> Drawn:
    """Return what the plot shows of a result as it is written (`--json`)."""
    raw, place = document["raw"], document["machine"]
    sizes = raw["sizes"]
    return Drawn(
        msgspec.convert(raw["median_cpu_seconds"], dict[str, dict[int, float]], strict=False),
        dict(raw["busy_median_cpu_seconds"]),
        int(sizes["busy"]["busy"]) if "busy" in sizes else 0,
        f"{place['cpu']}, {place['cores']} cores, Linux {place['kernel']}",
    )


def plot(shown: Drawn, folder: Path) -> None:
    """Write the plot: both axes logarithmic, a line a contender; a cross is the same contender in the busy fleet.

    The same result gives the same files.
    """
    import matplotlib as mpl  # noqa: PLC0415 - only for who wants a picture
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    mpl.rcParams["svg.hashsalt"] = "latido"
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in sorted(shown.medians, key=lambda name: -max(shown.medians[name].values())):
        column = shown.medians[name]
        ours = name in {"bpf", "procfs", "kmod"}
        (line,) = axes.plot(
            list(column),
            [seconds * 1000 for seconds in column.values()],
            marker="o",
            lw=2.5 if ours else 1.2,
            label=f"Latido, {name}" if ours else name,
        )
        if name in shown.busy:
            axes.plot([shown.busy_processes], [shown.busy[name] * 1000], "x", ms=9, mew=2, color=line.get_color())
    if shown.busy:
        axes.plot([], [], "x", ms=9, mew=2, color="gray", label=f"{shown.busy_processes:,} busy processes")
    axes.set(xscale="log", yscale="log", xlabel="processes", ylabel="CPU of one scrape, ms (median)")
    axes.set_title(f"One full scrape over HTTP, {shown.place}", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        figure.savefig(folder / f"scrape-growth.{suffix}", dpi=144, metadata=metadata)
    plt.close(figure)
