"""`latido loadtest report`: a run's results as one HTML file that stands alone, and its plots as PNG."""

from __future__ import annotations

import base64
import math
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from latido import settings
from latido.settings import SettingsError, setting
from loadtest.results import FILE, Results, ResultsError, decode
from loadtest.tally import Line, Summary, summarise
from loadtest.verdict import CONFIDENCE, RESAMPLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROG: Final = "latido loadtest report"
PAGE: Final = "report.html"
POINTS: Final = 60
"""Windows that a curve over time has, at most."""
COLORS: Final = {"raw": "#1f77b4", "orm": "#d62728"}
_OTHER_COLORS: Final = ("#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#ff7f0e")
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#1b1b1b;background:#fff}
h1{font-size:1.35rem;padding:.8rem 1rem;border-left:.5rem solid;overflow-wrap:anywhere}
h1.green{border-color:#1a7f37;background:#eaf6ec}h1.red{border-color:#b42318;background:#fdecea}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.25rem .7rem;border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}
img{max-width:100%;height:auto}.broken{color:#b42318;font-weight:600}p.note{color:#555;max-width:48rem}
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e6e6e6}th,td{border-color:#3a3f47}p.note{color:#aaa}
h1.green{background:#12301c}h1.red{background:#3a1715}img{background:#fff}}
"""
_METHOD: Final = (
    "Both had the same load in turn, in slices in the order raw, orm, orm, raw, so that a machine that changes "
    "meanwhile is the same for both. Of each slice the first seconds are left out; each pair of neighbours gives a "
    "ratio. Shown are medians over pairs. The interval is the percentile bootstrap of the median ratio: pairs drawn "
    f"anew {RESAMPLES:,} times. One that does not hold 1 is a difference."
)
_SEARCH: Final = (
    "The number of hosts was raised until the p95 objective or that of errors broke, twice in a row; both APIs had "
    "each in turn. The knee lies between the last number that held and the first that did not, where p95 crosses the "
    "objective on a logarithmic scale."
)
_FIGURES: Final = {
    "p50_ms": "latency p50, ms",
    "p95_ms": "latency p95, ms",
    "mean_ms": "latency, mean, ms",
    "api_cpu_ms_per_1000_rows": "CPU of the API for 1,000 rows, ms",
}


@dataclass(frozen=True)
class ReportSettings:
    """Which results, and where the report goes."""

    results: Path = setting(
        "results", settings.path, f"loadtest-report/{FILE}", "what `latido loadtest run` has written", metavar="FILE"
    )
    output: Path | None = setting(
        "output", settings.path, None, "folder for the report; default: that of the results", metavar="FOLDER"
    )


def main(argv: Sequence[str]) -> int:
    """Write the report; return the exit status."""

    def body() -> int:
        given = settings.load(ReportSettings, PROG, "Draw a run's results as one HTML file.", argv, os.environ)
        try:
            results = decode(given.results.read_bytes())
        except OSError as error:
            raise SettingsError(f"--results: {given.results} cannot be read: {error.strerror}") from None
        except ResultsError as error:
            raise SettingsError(f"--results: {given.results}: {error}") from None
        page = write(results, given.output or given.results.parent)
        sys.stdout.write(f"{results.verdict}\nreport: {page}\n")
        return 0

    return settings.run(PROG, body)


def write(results: Results, folder: Path) -> Path:
    """Write the page and its plots into a folder; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, bytes] = {}
    for name, draw in _plots(results).items():
        file = folder / f"{name}.png"
        figure = _figure()
        draw(figure)
        figure.savefig(file, dpi=120, metadata={"Software": None})
        pictures[name] = file.read_bytes()
    page = folder / PAGE
    page.write_text(html(results, pictures), encoding="utf-8")
    return page


def html(results: Results, pictures: Mapping[str, bytes]) -> str:
    """Return the page. Pure; the pictures are PNGs by name, and become part of it."""
    color = "green" if results.green else "red"
    images = {
        name: f'<img alt="{escape(_ALT[name])}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in pictures.items()
    }
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(results.verdict)}</title>',
        # Should anything here ever name another host, no browser would follow it.
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{_STYLE}</style></head><body>",
        f'<h1 class="{color}">{escape(results.verdict)}</h1>',
        *_knees(results, images),
        "<h2>What each API was held to</h2>",
        _objectives(results),
        *_compared(results, images),
        "<h2>Over time</h2>",
        *(images[name] for name in ("rate", "latency", "errors") if name in images),
        "<h2>What the programs used</h2>",
        *(images[name] for name in ("cpu", "memory") if name in images),
        "<h2>What MySQL holds</h2>",
        _counted(results),
        "<h2>By request</h2>",
        _requests(results),
        "<h2>Where and how</h2>",
        _table(
            ("", ""),
            [(name, value) for name, value in {**results.settings, **results.place, **results.versions}.items()],
        ),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


_ALT: Final = {
    "rate": "Requests and rows a second over time, by API",
    "latency": "Latency percentiles over time, by API",
    "errors": "Errors a second over time, by API",
    "cpu": "CPU of each program over time",
    "memory": "Memory of each program over time",
    "compared": "orm over raw, with intervals",
    "knee": "p95 by number of hosts, by API",
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are text, of which those that begin with `<` are ours."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    return f'<span class="broken">{escape(text[1:])}</span>' if text.startswith("!") else escape(text)


def _objectives(results: Results) -> str:
    broken = {(one.objective, one.api) for one in results.broken}
    rows = []
    for objective, unit, value in (
        ("latency_p95_ms", "ms", _p95),
        ("error_ratio", "", _errors),
        ("sample_age_p99_seconds", "s", _age),
    ):
        bound = getattr(results.objectives, objective)
        if bound is None:
            continue
        row = [objective, f"{bound:g} {unit}"]
        for api, summary in results.apis.items():
            found = value(summary)
            text = "nothing measured" if found is None else f"{found:.4g} {unit}"
            row.append(f"!{text}" if (objective, api) in broken else text)
        rows.append(row)
    return _table(("objective", "at most", *results.apis), rows)


def _p95(seen: Summary) -> float | None:
    return seen.p95_ms


def _errors(seen: Summary) -> float | None:
    return seen.error_ratio if seen.requests else None


def _age(seen: Summary) -> float | None:
    return None if seen.age_p99_ms is None else seen.age_p99_ms / 1000


def _compared(results: Results, images: Mapping[str, str]) -> list[str]:
    if not results.comparisons:
        return []
    rows = [
        (
            _FIGURES[one.figure],
            f"{one.raw:.3g}",
            f"{one.orm:.3g}",
            f"{one.ratio:.2f}",
            "too few slices" if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}",
            str(one.pairs),
        )
        for one in results.comparisons
    ]
    return [
        "<h2>raw and orm, side by side</h2>",
        _table(("", "raw", "orm", "orm over raw", f"{CONFIDENCE:.0%} interval", "pairs of slices"), rows),
        images.get("compared", ""),
        f'<p class="note">{_METHOD}</p>',
    ]


def _knees(results: Results, images: Mapping[str, str]) -> list[str]:
    if not results.stages:
        return []
    rows = [
        (
            knee.api,
            f"{knee.hosts:.0f}",
            str(knee.held),
            "did not break" if knee.broke is None else str(knee.broke),
        )
        for knee in results.knees
    ]
    return [
        "<h2>How many hosts each API holds</h2>",
        _table(("API", "hosts at the knee", "held", "broke at"), rows),
        images.get("knee", ""),
        f'<p class="note">{_SEARCH}</p>',
    ]


def _counted(results: Results) -> str:
    counts = results.counts
    if counts is None:
        return "<p>It was not counted.</p>"
    rows = [
        (table, f"{counts.acknowledged[table]:,}", f"{'' if equal else '!'}{counts.stored[table]:,}")
        for table in counts.acknowledged
        for equal in [counts.acknowledged[table] == counts.stored[table]]
    ]
    notes = "".join(f"<li>{escape(difference)}</li>" for difference in counts.differences)
    return (
        _table(("table", "acknowledged", "stored"), rows)
        + f"<p>Counted by host, stream and feed over {counts.hosts:,} hosts: {counts.different:,} differences.</p>"
        + (f"<ul>{notes}</ul>" if notes else "")
        + f'<p class="note">{counts.doubtful:,} samples more were sent and never acknowledged (a run ends somewhere); '
        f"{counts.doubtful_stored:,} of them are stored. Nobody was told that they are: they are in neither column.</p>"
    )


def _requests(results: Results) -> str:
    def row(name: str, seen: Summary) -> Sequence[str]:
        times = (seen.p50_ms, seen.p95_ms, seen.p99_ms)
        shown = ["-" if value is None else f"{value:.1f}" for value in times]
        failures = ", ".join(f"{count:,} times {failure}" for failure, count in seen.failures.items())
        errors = f"!{seen.errors:,} ({failures})" if seen.errors else "0"
        return (name, f"{seen.requests:,}", *shown, f"{seen.rows:,}", f"{seen.bytes / (1 << 20):.1f}", errors)

    head = ("request", "requests", "p50 ms", "p95 ms", "p99 ms", "rows", "MiB sent", "errors")
    return _table(head, [row(name, seen) for name, seen in results.names.items()])


# --- plots ---


def _figure() -> Figure:
    from matplotlib.figure import Figure as Made  # noqa: PLC0415 - only for who draws

    return Made(figsize=(9, 3.2), layout="constrained")


def _plots(results: Results) -> dict[str, Callable[[Figure], None]]:
    """Return what draws each plot that the results have something for."""
    plots: dict[str, Callable[[Figure], None]] = {}
    if results.stages:
        plots["knee"] = lambda figure: _draw_knee(results, figure)
    if results.comparisons:
        plots["compared"] = lambda figure: _draw_compared(results, figure)
    plots["rate"] = lambda figure: _draw_rate(results, figure)
    plots["latency"] = lambda figure: _draw_latency(results, figure)
    plots["errors"] = lambda figure: _draw_errors(results, figure)
    if results.usage:
        plots["cpu"] = lambda figure: _draw_cpu(results, figure)
        plots["memory"] = lambda figure: _draw_memory(results, figure)
    return plots


def _windows(results: Results, lines: Iterable[Line]) -> list[tuple[float, Summary]]:
    """Return lines added up in windows: seconds since the start of the run, and what there was."""
    found = [line for line in lines if line.kind != "read"]
    if not found:
        return []
    first = int(results.began)
    width = max(1, -(-int(results.ended - results.began) // POINTS))
    by_window: dict[int, list[Line]] = defaultdict(list)
    for line in found:
        by_window[(line.second - first) // width].append(line)
    return [
        ((number + 0.5) * width, summarise(by_window[number], width))
        for number in range(min(by_window), max(by_window) + 1)
    ]


def _by_api(results: Results) -> list[tuple[str, list[tuple[float, Summary]]]]:
    return [(api, _windows(results, [one for one in results.lines if one.api == api])) for api in results.apis]


def _draw_rate(results: Results, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    for api, windows in _by_api(results):
        at = [moment for moment, _ in windows]
        left.plot(at, [seen.rate(seen.requests) for _, seen in windows], color=COLORS[api], label=api)
        right.plot(at, [seen.rate(seen.rows) for _, seen in windows], color=COLORS[api], label=api)
    _finish(left, "acknowledged or not: requests a second")
    _finish(right, "acknowledged: process rows a second")


def _draw_latency(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    for api, windows in _by_api(results):
        at = [moment for moment, _ in windows]
        for share, style in (("p50_ms", ":"), ("p95_ms", "-"), ("p99_ms", "--")):
            label = f"{api} {share.removesuffix('_ms')}"
            # Where the other API had the load there is none of this one, and the line has a gap.
            values = [getattr(one, share) or math.nan for _, one in windows]
            axes.plot(at, values, style, color=COLORS[api], lw=1.4, marker=".", ms=3, label=label)
    if results.objectives.latency_p95_ms:
        axes.axhline(results.objectives.latency_p95_ms, color="gray", lw=1, label="objective of p95")
    axes.set_yscale("log")
    _finish(axes, "latency, ms")


def _draw_errors(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    for api, windows in _by_api(results):
        at = [moment for moment, _ in windows]
        axes.plot(at, [seen.rate(seen.errors) for _, seen in windows], color=COLORS[api], label=api)
    axes.set_ylim(bottom=0)
    _finish(axes, "errors a second")


def _programs(results: Results) -> dict[str, str]:
    names = dict.fromkeys(look.program for look in results.usage)
    others = iter(_OTHER_COLORS * (1 + len(names) // len(_OTHER_COLORS)))
    return {name: COLORS.get(name) or next(others) for name in names}


def _draw_cpu(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    for program, color in _programs(results).items():
        looks = [look for look in results.usage if look.program == program]
        step = max(1, len(looks) // POINTS)
        pairs = list(zip(looks[::step], looks[step::step], strict=False))
        axes.plot(
            [after.at - results.began for _, after in pairs],
            [max(0.0, after.cpu_seconds - before.cpu_seconds) / (after.at - before.at) for before, after in pairs],
            color=color,
            label=program,
        )
    axes.set_ylim(bottom=0)
    _finish(axes, "CPUs in use")


def _draw_memory(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    for program, color in _programs(results).items():
        looks = [look for look in results.usage if look.program == program]
        axes.plot(
            [look.at - results.began for look in looks],
            [look.memory_bytes / (1 << 20) for look in looks],
            color=color,
            label=program,
        )
    axes.set_ylim(bottom=0)
    _finish(axes, "resident memory, MiB")


def _draw_compared(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    for place, one in enumerate(results.comparisons):
        axes.plot([one.ratio], [place], "o", color=COLORS["orm"])
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [place, place], "-", color=COLORS["orm"], lw=2)
    axes.axvline(1, color="gray", lw=1)
    axes.set_yticks(range(len(results.comparisons)), [_FIGURES[one.figure] for one in results.comparisons])
    axes.invert_yaxis()
    axes.set_title(f"orm over raw: median and {CONFIDENCE:.0%} interval (1 is no difference)", fontsize=10, loc="left")
    axes.grid(visible=True, axis="x", alpha=0.25)


def _draw_knee(results: Results, figure: Figure) -> None:
    axes = figure.subplots()
    for knee in results.knees:
        own = [stage for stage in results.stages if stage.api == knee.api and stage.p95_ms]
        color = COLORS[knee.api]
        axes.plot(
            [stage.hosts for stage in own], [stage.p95_ms or 0.0 for stage in own], "o-", color=color, label=knee.api
        )
        if knee.hosts:
            axes.axvline(knee.hosts, color=color, ls=":", label=f"{knee.api}: {knee.hosts:.0f} hosts")
    if results.objectives.latency_p95_ms:
        axes.axhline(results.objectives.latency_p95_ms, color="gray", lw=1, label="objective")
    axes.set_yscale("log")
    _finish(axes, "p95 by number of hosts, ms", "hosts")


def _finish(axes: Axes, title: str, below: str = "seconds") -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(below, fontsize=9)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
