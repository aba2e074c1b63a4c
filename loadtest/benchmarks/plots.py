"""The plots of the page of results. The same results give the same files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from loadtest.benchmarks.measure import Ratio

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROWTH: Final = "scrape-growth"
BUDGETS: Final = "benchmarks-budgets"
MET, UNMET = "#2a7e43", "#c0392b"
FEW_TICKS: Final = (0.5, 1, 2, 5, 10, 20)


class Drawn(msgspec.Struct, frozen=True):
    """What growth's plot shows: medians of CPU seconds by contender and size, those of the busy fleet, and where."""

    medians: dict[str, dict[int, float]]
    busy: dict[str, float]
    busy_processes: int
    place: str


def drawn(document: Mapping[str, Any]) -> Drawn:
    """Return what the plot shows of a result of `growth` as it is written."""
    raw, place = document["raw"], document["machine"]
    sizes = raw["sizes"]
    kernel = ".".join(str(place["kernel"]).split(".")[:2])
    return Drawn(
        msgspec.convert(raw["median_cpu_seconds"], dict[str, dict[int, float]], strict=False),
        dict(raw["busy_median_cpu_seconds"]),
        int(sizes["busy"]["busy"]) if "busy" in sizes else 0,
        f"{place['cpu']}, {place['cores']} cores, Linux {kernel}",
    )


def growth(shown: Drawn, folder: Path) -> None:
    """Write growth's plot: both axes logarithmic, a line a contender, a cross the same one in the busy fleet."""
    figure = _figure(8, 5)
    axes = figure.subplots()
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
    _save(figure, folder, GROWTH)


def budgets(rows: Sequence[tuple[str, Ratio | None]], folder: Path) -> None:
    """Write how many times as good as its bar each figure is: the median, on a line from the worst to the best."""
    figure = _figure(9, 0.4 * len(rows) + 1)
    axes = figure.subplots()
    for place, (_, bar) in enumerate(rows):
        if bar is None:
            axes.text(1.05, place, "not measured", va="center", fontsize=8, color="gray")
            continue
        low, middle, high = sorted(
            figure / bar.bar if bar.better == "larger" else bar.bar / figure for figure in (bar.min, bar.value, bar.max)
        )
        color = MET if bar.met else UNMET
        axes.plot([low, high], [place, place], color=color, lw=2, alpha=0.4, solid_capstyle="round")
        axes.plot([middle], [place], "o", color=color, ms=7)
    axes.axvline(1, color="black", lw=1)
    axes.set(xscale="log", xlabel="times as good as the bar (1: just met)")
    axes.set_xticks(FEW_TICKS, [f"{tick:g}" for tick in FEW_TICKS])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(rows)), [what for what, _ in rows], fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=True, axis="x", alpha=0.25)
    _save(figure, folder, BUDGETS)


def _figure(width: float, height: float) -> Figure:
    import matplotlib as mpl  # noqa: PLC0415 - only for who wants a picture
    from matplotlib.figure import Figure as Made  # noqa: PLC0415 - as above

    mpl.rcParams["svg.hashsalt"] = "latido"
    return Made(figsize=(width, height), layout="constrained")


def _save(figure: Figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        figure.savefig(folder / f"{name}.{suffix}", dpi=144, metadata=metadata)
