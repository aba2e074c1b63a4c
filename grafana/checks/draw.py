"""Pictures of the dashboards: their layout and real answers, drawn by us, since no Grafana is at hand.

`python -m grafana.checks.draw` runs the stack under load with two simulated hosts beside, lets an API be away once and
kills it again shortly before the end, and writes a picture of each dashboard as it looks then. What is drawn is what a
panel's JSON says: kind, place, colours, thresholds, units, order. What Grafana adds of its own is not.

In namespaces of its own, as root, the pictures hold no neighbour's processes:
`unshare --pid --fork --mount-proc --cgroup .venv/bin/python -m grafana.checks.draw --source procfs`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from dev.mariadb import Mariadb
from dev.waiting import wait_for
from grafana.checks import dashboards
from grafana.checks.dashboards import Panel
from grafana.checks.expander import Picked
from grafana.checks.run import Series, Sources, Table, WrongAnswerError, answer, pick
from grafana.checks.stack import HOST, Running, running
from ingest.schema import upgrade
from tests.faults.hosts import Host

FOLDER: Final = Path(__file__).parent.parent.parent / "docs" / "images" / "dashboards"
LABEL: Final = (
    "A drawing of our own, from the dashboard's JSON and real answers; not Grafana. {host} is a machine under load "
    "with a leak and zombies, {others} are simulated; the API orm was killed just before. Time in the rules runs "
    "{faster:.0f} times faster."
)
CALM: Final = ("db-1", "cache-1")

GRID: Final = 24
WIDTH: Final = 15.0
"""Inches, at 100 points each."""
LINE: Final = 0.34
"""Inches of a line of the grid: 38 points, as in Grafana."""
GAP: Final = 0.05
TITLE: Final = 0.28
TEXT: Final = 7.5
PALETTE: Final = 96
"""Colours of a picture."""

COLORS: Final[Mapping[str, str]] = {
    "green": "#56a64b", "dark-green": "#37872d", "orange": "#ff780a", "red": "#e02f44", "blue": "#3274d9",
    "light-blue": "#8ab8ff", "purple": "#a352cc", "yellow": "#f2cc0c", "dark-yellow": "#cc9d00", "text": "#8e8e8e",
    "transparent": "none",
}  # fmt: skip
"""What Grafana's names look like, about."""
CYCLE: Final = (
    "#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#1f78c1", "#ba43a9", "#705da0", "#508642", "#cca300",
    "#447ebc", "#c15c17", "#890f02", "#0a437c", "#6d1f62", "#584477",
)  # fmt: skip

_SIZES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B"))
_COUNTS: Final = ((1e9, "Bil"), (1e6, "Mil"), (1e3, "K"), (1, ""))
_TIMES: Final = ((86400, "day"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs"))


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """Return a value in its unit as a panel shows it."""
    forms: Mapping[str, Callable[[], str]] = {
        "percentunit": lambda: f"{value * 100:.{1 if decimals is None else decimals}f}%",
        "bytes": lambda: _scaled(value, _SIZES, decimals),
        "binBps": lambda: _scaled(value, _SIZES, decimals) + "/s",
        "dateTimeAsIso": lambda: f"{datetime.fromtimestamp(value / 1000, UTC):%H:%M:%S}",
        "s": lambda: _scaled(value, _TIMES, decimals),
        "none": lambda: f"{value:.0f}",
        "cps": lambda: _scaled(value, _COUNTS, decimals) + " c/s",
        "short": lambda: _scaled(value, _COUNTS, decimals),
    }
    return forms[unit]() if math.isfinite(value) else "-"


def _scaled(value: float, steps: Sequence[tuple[float, str]], decimals: int | None) -> str:
    """Return a value in the largest of some units that it fills, as `steps` name them; 0 in the plain one."""
    width, name = next((step for step in steps if abs(value) >= step[0]), next(step for step in steps if step[0] == 1))
    return f"{_short(value / width, decimals)} {name}".rstrip()


def _short(value: float, decimals: int | None) -> str:
    if decimals is None:
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits
    return f"{value:.{decimals}f}"


def color_of(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    """Return the colour of a value by threshold steps."""
    found = "text"
    for step in steps:
        if step.get("value") is None or value >= step["value"]:
            found = step["color"]
    return COLORS.get(found, found)


def mapped(value: object, mappings: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Return the words and the colour that a panel shows in place of a value."""
    for mapping in mappings:
        options = mapping["options"]
        if mapping["type"] == "range":
            low, high = (options.get(end) for end in ("from", "to"))
            number = float(value) if isinstance(value, (int, float)) else math.nan
            hit = (low is None or number >= low) and (high is None or number < high)
            result = options["result"] if hit and math.isfinite(number) else None
        else:
            result = options.get(f"{value:g}" if isinstance(value, (int, float)) else str(value))
        if result is not None:
            return str(result["text"]), COLORS.get(result["color"], result["color"])
    return None


class Page:
    """One dashboard as a figure; places are those of Grafana's grid."""

    def __init__(self, title: str, label: str, lines: int) -> None:
        """Take what stands above the panels, and how many lines of the grid they take."""
        self._head = 0.75
        self._height = self._head + lines * LINE + 0.1
        self.figure = Figure(figsize=(WIDTH, self._height), dpi=100, facecolor="#f4f5f5")
        self._write(0.1, 0.28, title, size=14, weight="bold")
        self._write(0.1, 0.55, label, size=8, color="#b0413e")

    def row(self, place: Mapping[str, int], title: str) -> None:
        """Draw the title of a row."""
        left, top, _, height = self._box(place)
        self._write(left, top + height * 0.65, f"⌄ {title}", size=9.5, weight="bold")

    def panel(self, panel: Panel, answers: Sequence[list[Series] | Table] | str, picked: Picked, marks: Marks) -> None:
        """Draw a panel; of one that has no answer the reason."""
        left, top, width, height = box = self._box(panel.raw["gridPos"])
        self._rectangle(left, top, width, height, "white", edge="#dcdcdc")
        self._write(left + 0.08, top + 0.19, panel.title, size=8.5, weight="bold", clip=width)
        if isinstance(answers, str):
            self._write(left + 0.08, top + 0.5, answers, size=TEXT, color="#8e8e8e", clip=width)
            return
        series = [one for answer in answers if isinstance(answer, list) for one in answer]
        tables = [answer for answer in answers if isinstance(answer, Table)]
        if panel.kind == "stat":
            self._stat(panel, box, series, tables)
        elif panel.kind == "timeseries":
            self._lines(panel, box, series, picked, marks)
        elif panel.kind == "bargauge":
            self._bars(panel, box, series)
        else:
            of_sql = panel.queries[0].source == "mysql"
            self._table(panel, box, tables[0] if of_sql else joined(tables, list(panel.overrides)))

    def _stat(
        self, panel: Panel, box: tuple[float, float, float, float], series: Sequence[Series], tables: Sequence[Table]
    ) -> None:
        values = [(one.name, one.values[-1]) for one in series if one.values]
        values += [(table.columns[-1], float(table.rows[0][-1])) for table in tables]
        defaults = panel.raw["fieldConfig"]["defaults"]
        left, top, width, height = box
        part = (width - 0.16) / max(len(values), 1)
        for number, (name, value) in enumerate(values):
            words = mapped(value, defaults.get("mappings", []))
            color = words[1] if words else color_of(value, defaults["thresholds"]["steps"])
            filled = panel.raw["options"]["colorMode"] == "background"
            at = left + 0.08 + number * part
            self._rectangle(at, top + TITLE, part - 0.04, height - TITLE - 0.08, color if filled else "white")
            text = words[0] if words else shown(value, panel.unit, defaults.get("decimals"))
            named = panel.raw["options"]["textMode"] == "value_and_name"
            ink = "white" if filled else "#333333"
            middle = top + TITLE + (height - TITLE) / 2
            if named:
                self._write(at + part / 2, middle - 0.24, name, size=8, color=ink, align="center")
            size = min(24.0, 150 * part / max(len(text), 4) / 2)
            self._write(at + part / 2, middle + 0.14, text, size=size, color=ink, weight="bold", align="center")

    def _lines(
        self,
        panel: Panel,
        box: tuple[float, float, float, float],
        series: Sequence[Series],
        picked: Picked,
        marks: Marks,
    ) -> None:
        left, top, width, height = box
        defaults = panel.raw["fieldConfig"]["defaults"]
        custom = defaults["custom"]
        below = panel.raw["options"]["legend"]["placement"] == "bottom"
        stacked = custom.get("stacking", {}).get("mode") == "normal"
        drawn = sorted((one for one in series if one.values), key=lambda one: -one.values[-1])
        room = 0.5 if below else 0.2
        side = 0.12 if below else min(2.1, width * 0.36)
        axes = self._axes(left + 0.55, top + TITLE + 0.05, width - 0.55 - side, height - TITLE - 0.05 - room)
        colors = {one.name: _fixed(panel, one.name) or CYCLE[number % len(CYCLE)] for number, one in enumerate(drawn)}
        if stacked:
            _stack(axes, drawn, colors)
        else:
            for one in drawn:
                axes.plot(*_broken(one), color=colors[one.name], linewidth=1.2)
        for times, color in marks:
            for at in times:
                axes.axvline(at, color=color, linewidth=0.6, linestyle=":", alpha=0.7)
        axes.set_xlim(picked.first, picked.last)
        low = min([0.0, *(value for one in drawn for value in one.values)])
        axes.set_ylim(low, defaults.get("max") or (axes.get_ylim()[1] if axes.get_ylim()[1] > low else 1.0))
        if custom.get("thresholdsStyle", {}).get("mode") == "dashed":
            for step in defaults["thresholds"]["steps"]:
                if step.get("value") is not None and step["value"] <= axes.get_ylim()[1]:
                    axes.axhline(step["value"], color=COLORS[step["color"]], linestyle="--", linewidth=1)
        axes.xaxis.set_major_formatter(lambda at, _: f"{datetime.fromtimestamp(at, UTC):%H:%M}")
        axes.set_xticks(_minutes(picked))
        axes.yaxis.set_major_formatter(lambda value, _: shown(value, panel.unit))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        entries = [(one.name, colors[one.name], shown(one.values[-1], panel.unit)) for one in drawn]
        if below:
            self._legend_below(entries, left + 0.1, top + height - 0.2, width - 0.15)
        else:
            self._legend_beside(entries, left + width - side + 0.1, top + TITLE + 0.1, side - 0.12, height - TITLE)

    def _legend_below(self, entries: Sequence[tuple[str, str, str]], left: float, top: float, width: float) -> None:
        at = left
        for name, color, value in entries:
            text = f"{name}  {value}"
            needs = 0.2 + 0.058 * len(text)
            if at + needs > left + width:
                self._write(at, top + 0.09, "…", size=TEXT)
                return
            self._rectangle(at, top, 0.1, 0.03, color)
            self._write(at + 0.14, top + 0.05, text, size=6.5)
            at += needs

    def _legend_beside(
        self, entries: Sequence[tuple[str, str, str]], left: float, top: float, width: float, height: float
    ) -> None:
        fits = int((height - 0.2) / 0.165)
        for number, (name, color, value) in enumerate(entries[:fits]):
            y = top + number * 0.165
            self._rectangle(left, y, 0.1, 0.03, color)
            self._write(left + 0.14, y + 0.05, name, size=6.5, clip=width - 0.72)
            self._write(left + width, y + 0.05, value, size=6.5, align="right")

    def _bars(self, panel: Panel, box: tuple[float, float, float, float], series: Sequence[Series]) -> None:
        left, top, width, height = box
        values = [(one.name, one.values[-1]) for one in series if one.values]
        largest = max((value for _, value in values), default=0) or 1
        part = (height - TITLE - 0.1) / max(len(values), 1)
        for number, (name, value) in enumerate(values):
            y = top + TITLE + number * part
            self._write(left + 2.0, y + part * 0.65, name, size=TEXT, align="right")
            steps = panel.raw["fieldConfig"]["defaults"]["thresholds"]["steps"]
            long = (width - 3.2) * value / largest
            self._rectangle(left + 2.1, y + part * 0.15, long, part * 0.7, color_of(value, steps))
            self._write(left + 2.15 + long, y + part * 0.65, shown(value, panel.unit), size=TEXT)

    def _table(self, panel: Panel, box: tuple[float, float, float, float], table: Table) -> None:
        left, top, width, height = box
        rows = list(table.rows)
        for order in reversed(panel.raw["options"].get("sortBy") or []):
            number = list(table.columns).index(order["displayName"])
            rows.sort(key=lambda row: _sortable(row[number]), reverse=order.get("desc", False))
        texts = [
            [_cell(panel, name, value)[0] for name, value in zip(table.columns, row, strict=True)]
            for row in rows[: int((height - TITLE - 0.3) / 0.2)]
        ]
        longest = [
            max(len(name), *(len(row[number]) for row in texts), 4) if texts else len(name)
            for number, name in enumerate(table.columns)
        ]
        scale = (width - 0.16) / sum(min(length, 34) + 2 for length in longest)
        at = left + 0.08
        for number, name in enumerate(table.columns):
            wide = (min(longest[number], 34) + 2) * scale
            self._write(at, top + TITLE + 0.16, name, size=TEXT, weight="bold", color="#3274d9", clip=wide)
            for line, (row, text) in enumerate(zip(rows, texts, strict=False)):
                y = top + TITLE + 0.36 + line * 0.2
                _, color, share = _cell(panel, name, row[number])
                if share is not None:
                    self._rectangle(at, y - 0.12, (wide - 0.6) * min(share, 1), 0.14, color)
                    self._write(at + wide - 0.12, y, text[number], size=TEXT, align="right", color=color)
                else:
                    self._write(at, y, text[number], size=TEXT, color=color, clip=wide - 0.06)
            at += wide

    def _box(self, place: Mapping[str, int]) -> tuple[float, float, float, float]:
        unit = (WIDTH - 0.1) / GRID
        return (
            0.05 + place["x"] * unit + GAP / 2,
            self._head + place["y"] * LINE + GAP / 2,
            place["w"] * unit - GAP,
            place["h"] * LINE - GAP,
        )

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        y = 1 - (top + height) / self._height
        axes = self.figure.add_axes((left / WIDTH, y, width / WIDTH, height / self._height))
        axes.tick_params(labelsize=6.5, length=2, colors="#555555")
        axes.grid(color="#ececec", linewidth=0.6)
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def _rectangle(
        self, left: float, top: float, width: float, height: float, color: str, *, edge: str = "none"
    ) -> None:
        x, y = left / WIDTH, 1 - (top + height) / self._height
        patch = Rectangle(
            (x, y),
            max(width, 0) / WIDTH,
            height / self._height,
            facecolor=color,
            edgecolor=edge,
            linewidth=0.6,
            transform=self.figure.transFigure,
            zorder=-1,
        )
        self.figure.patches.append(patch)

    def _write(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float,
        color: str = "#333333",
        weight: str = "normal",
        align: str = "left",
        clip: float = math.inf,
    ) -> None:
        """Write a line whose foot is `top` inches from the top; `clip` is the room for it, in inches."""
        fits = clip / (size * 0.0083)
        cut = text if len(text) <= fits else text[: max(int(fits) - 1, 1)] + "…"
        x, y = left / WIDTH, 1 - top / self._height
        self.figure.text(x, y, cut.replace("$", r"\$"), fontsize=size, color=color, fontweight=weight, ha=align)


Marks = Sequence[tuple[Sequence[float], str]]
"""Of each kind of marks the moments and the colour."""


def joined(tables: Sequence[Table], order: Sequence[str]) -> Table:
    """Return several queries' columns as one table in the order of its columns, joined on the labels that all have."""
    labels = [name for name in order if all(name in table.columns for table in tables)]
    rows: dict[tuple[object, ...], dict[str, object]] = {}
    for table in tables:
        for row in table.rows:
            held = dict(zip(table.columns, row, strict=True))
            rows.setdefault(tuple(held[name] for name in labels), {}).update(held)
    columns = [name for name in order if any(name in table.columns for table in tables)]
    return Table(columns, [tuple(row.get(name) for name in columns) for row in rows.values()])


def _cell(panel: Panel, name: str, value: object) -> tuple[str, str, float | None]:
    """Return a cell's text, its colour, and how much of it a bar fills where it is one."""
    override = panel.overrides.get(name, {})
    words = mapped(value, override.get("mappings", []))
    if words is not None:
        return words[0], words[1], None
    if value is None:
        return "", "#333333", None
    if isinstance(value, str):
        return value, "#333333", None
    number = float(str(value))
    steps = override.get("thresholds", {}).get("steps")
    text = shown(number, override.get("unit", panel.unit), override.get("decimals"))
    color = color_of(number, steps) if steps else "#333333"
    if override.get("custom.cellOptions", {}).get("type") == "gauge":
        return text, color if steps else COLORS["green"], number / (override.get("max") or 1)
    return text, color, None


def _sortable(value: object) -> tuple[bool, float, str]:
    if isinstance(value, str):
        return True, 0.0, value
    return value is not None, -math.inf if value is None else float(str(value)), ""


def _fixed(panel: Panel, name: str) -> str | None:
    color = panel.overrides.get(name, {}).get("color", {}).get("fixedColor")
    return COLORS.get(color, color) if color else None


def _broken(one: Series) -> tuple[list[float], list[float]]:
    """Return a series that is broken where it has no points for a while: a line there would be made up."""
    times, values = [one.times[0]], [one.values[0]]
    steps = sorted(after - before for before, after in itertools.pairwise(one.times))
    usual = steps[len(steps) // 2] if steps else 0.0
    for (before, after), value in zip(itertools.pairwise(one.times), one.values[1:], strict=True):
        if after - before > 3 * usual:
            times.append(before)
            values.append(math.nan)
        times.append(after)
        values.append(value)
    return times, values


def _stack(axes: Axes, drawn: Sequence[Series], colors: Mapping[str, str]) -> None:
    """Stack series on one another at the times that any of them has; where one has no point it adds nothing."""
    times = sorted({at for one in drawn for at in one.times})
    held = [dict(zip(one.times, one.values, strict=True)) for one in drawn]
    axes.stackplot(
        times,
        *([one.get(at, 0.0) for at in times] for one in held),
        colors=[colors[one.name] for one in drawn],
        alpha=0.75,
        linewidth=0,
    )


def _minutes(picked: Picked) -> list[float]:
    step = 60 * max(1, round((picked.last - picked.first) / 60 / 5))
    return [float(at) for at in range(int(picked.first // step + 1) * step, int(picked.last) + 1, step)]


def draw(name: str, sources: Sources, picked: Picked, label: str) -> Figure:
    """Return a dashboard's picture."""
    document = dashboards.load(name)
    held = pick(name, sources, picked, {"host": HOST})
    places = [raw["gridPos"] for raw in document["panels"]]
    page = Page(document["title"], label, max(place["y"] + place["h"] for place in places))
    colors = {"Alerts": COLORS["red"], "Restarts": COLORS["blue"]}
    marks = [
        (_beginnings(sources.over_time(mark.text, held)), colors[mark.legend]) for mark in dashboards.marks(document)
    ]
    for raw in document["panels"]:
        if raw["type"] == "row":
            page.row(raw["gridPos"], raw["title"])
    for panel in dashboards.panels(document):
        try:
            answers: list[list[Series] | Table] | str = answer(panel, sources, held)
        except WrongAnswerError as error:
            print(f"{name}: {error}", file=sys.stderr)
            answers = panel.raw["fieldConfig"]["defaults"].get("noValue", "No data")
        page.panel(panel, answers, held, marks)
    return page.figure


def write(figure: Figure, path: Path, dpi: int = 100) -> None:
    """Write a picture as a PNG of few colours, a third of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    Image.open(drawn).convert("RGB").quantize(PALETTE).save(path, optimize=True)


def _beginnings(series: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return when each of some marks begins: Grafana draws a line there and a bar up to its end."""
    found = []
    for one in series:
        before = -math.inf
        for at, _ in one["values"]:
            if at - before > 60:  # noqa: PLR2004 - seconds without it, as `step` of the mark says
                found.append(float(at))
            before = at
    return found


# --- what is drawn ---


@contextmanager
def calm_hosts(folder: Path) -> Iterator[Mapping[str, Path]]:
    """Simulate hosts for the block: by name, where their /proc is."""
    hosts = {name: Host(folder / name, seed) for seed, name in enumerate(CALM)}
    ends = threading.Event()

    def live() -> None:
        while not ends.wait(0.5):
            for host in hosts.values():
                host.step()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield {name: host.root for name, host in hosts.items()}
    finally:
        ends.set()
        thread.join()


def incident(stack: Running, seconds: float) -> None:
    """Let an API be away for a while and come back, wait for the slow alerts, and let it be away again."""
    end = time.monotonic() + seconds
    orm = stack.programs["ingest orm"]

    def firing(*names: str) -> Callable[[], bool]:
        return lambda: set(names) <= stack.firing()

    wait_for(lambda: stack.instant('latido_ingest_samples_total{job="latido-ingest-orm"} > 0'), "samples", 120)
    orm.kill()
    wait_for(firing("LatidoIngestDown", "LatidoSpoolGrowing"), "the alerts of an outage", stack.patience)
    orm.start(ready="")
    orm.wait_ready(seconds=stack.patience)
    wait_for(firing("LatidoGroupLeaking", "LatidoZombies"), "the alerts of the load", stack.patience)
    wait_for(lambda: time.monotonic() > end, "", seconds + 60)
    orm.kill()
    wait_for(firing("LatidoIngestDown", "LatidoSpoolGrowing"), "the alerts of the second outage", stack.patience)


def main() -> int:
    """Run, draw, and write the pictures."""
    parser = argparse.ArgumentParser(
        prog="python -m grafana.checks.draw", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pictures go")
    parser.add_argument("--seconds", type=float, default=300, help="how long the stack runs before the last fault")
    parser.add_argument("--source", default="auto", help="how the exporter of the machine reads the kernel")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = Mariadb(folder / "mariadb")
        stack.callback(server.stop)
        server.start()
        dsn = server.create_database("latido")
        if upgrade.main([f"--db.dsn={dsn}"]):
            return 1
        hosts = stack.enter_context(calm_hosts(folder))
        started = stack.enter_context(running(dsn, folder, others=hosts, source=given.source))
        incident(started, given.seconds)
        sources = stack.enter_context(closing(Sources(dsn, started.instant, started.over_time)))
        picked = Picked(started.began, time.time(), started.scrape_seconds)
        label = LABEL.format(host=HOST, others=" and ".join(CALM), faster=started.faster)
        for name in dashboards.NAMES:
            path = given.folder / f"{name}.png"
            write(draw(name, sources, picked, label), path)
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
