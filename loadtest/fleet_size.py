"""How many APIs and what MySQL for 1,000, 10,000 and 100,000 hosts: measured, checked, and written into the docs.

`python -m loadtest.fleet_size FIRST SECOND THIRD …` takes rounds of three runs (`results.json` of `make loadtest`, the
three with other hosts, intervals and copies), fits the costs to the first two, predicts the third, and keeps all in
`loadtest/data/fleet.json`. `--write` writes docs/operating.md's part and its plot from that file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, structs

from loadtest import fleet
from loadtest.fleet import Costs, FitError, Fleet, Outcome, Point, Size
from loadtest.results import decode

FILE: Final = Path(__file__).with_name("data") / "fleet.json"
DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "operating.md"
PLOT: Final = "fleet-size"
BEGIN: Final = "<!-- written by `python -m loadtest.fleet_size --write` -->\n"
END: Final = "<!-- end of what is written -->\n"
HOSTS: Final = (1_000, 10_000, 100_000)
P95_MS: Final = 200.0
INTERVAL: Final = 5.0
CHECK_SECONDS: Final = 60.0
SIZE_SECONDS: Final = 3.0
"""Of a simulated fleet: enough for some thousand requests of the smallest."""
_RUNS: Final = 3
_LIMITS: Final = """\
What it leaves out: one MySQL server's own limits beyond CPU (its log, its disk, locks of one table), networks and
gateways. Beyond what the cores of that machine can show it is an extrapolation: load the stack that you mean to run
([load tests](loadtest.md)) before you buy it."""


class Checked(Struct, frozen=True):
    """What was predicted for a point that the costs have not seen."""

    costs: Costs
    measured: Point
    predicted: Outcome

    @property
    def api(self) -> str:
        """Of which API."""
        return self.costs.api

    def errors(self) -> dict[str, float]:
        """Return the relative error of each figure that the costs predict; CPU without what idling takes."""
        api = self.measured.api_cpus - self.measured.api_idle_cpus
        pairs = {
            "CPU of the API": (self.predicted.api_cpus, api),
            "CPU of MySQL": (self.predicted.db_cpus, self.measured.db_cpus),
            "transactions": (self.predicted.transactions, self.measured.transactions),
            "p50": (self.predicted.p50_ms, self.measured.p50_ms),
            "p95": (self.predicted.p95_ms, self.measured.p95_ms),
        }
        return {name: predicted / measured - 1 for name, (predicted, measured) in pairs.items()}


class Document(Struct, frozen=True):
    """What the file holds: the points by API (means of rounds), of which two made the costs, and what came of them.

    `rounds` are the checks of each round by itself: they say how far one measurement can be trusted.
    """

    place: dict[str, str]
    loads: list[str]
    points: dict[str, list[Point]]
    checks: list[Checked]
    rounds: list[Checked]
    sizes: list[Size]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or write; return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", nargs="*", type=Path, help="results.json of three runs, or of rounds of three")
    parser.add_argument("--write", action="store_true", help="write the part of docs/operating.md and its plot")
    given = parser.parse_args(arguments)
    if given.results:
        if len(given.results) % _RUNS:
            parser.error("expected rounds of three runs: two to fit, one to check")
        try:
            made = document(given.results)
        except FitError as error:
            parser.error(str(error))
        FILE.write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    found = msgspec.json.decode(FILE.read_bytes(), type=Document)
    if given.write:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        DOCUMENT.write_text(before + BEGIN + text(found) + END + rest.partition(END)[2], encoding="utf-8")
        plot(found, DOCUMENT.parent)
    sys.stdout.write(text(found))
    return 0


def document(files: Sequence[Path]) -> Document:
    """Return what rounds of three runs say. Raises FitError."""
    runs = [decode(file.read_bytes()) for file in files]
    cores = int(runs[0].place["cores"])
    found = [{point.api: point for point in fleet.points(run)} for run in runs]
    columns, checks, rounds, sizes = {}, [], [], []
    for api in ("raw", "orm"):
        every = [points[api] for points in found]
        first, second, third = (fleet.mean(every[place::_RUNS]) for place in range(_RUNS))
        columns[api] = [first, second, third]
        checks.append(check(first, second, third, cores))
        turns = zip(every[::_RUNS], every[1::_RUNS], every[2::_RUNS], strict=True)
        rounds += [check(one, two, three, cores) for one, two, three in turns]
        load = Fleet(0, INTERVAL, columns["raw"][0].rows_a_beat)
        costs = checks[-1].costs
        sizes += [fleet.size(costs, structs.replace(load, hosts=hosts), P95_MS, SIZE_SECONDS) for hosts in HOSTS]
    loads = [run.place["load average before"].split()[0] for run in runs]
    return Document(runs[0].place, loads, columns, checks, rounds, sizes)


def check(first: Point, second: Point, third: Point, cores: int) -> Checked:
    """Return what two points say of the third."""
    costs = fleet.fit(first, second)
    load = Fleet(third.hosts, third.interval, third.rows_a_beat)
    return Checked(costs, third, fleet.simulate(costs, load, apis=1, db_cpus=cores, seconds=CHECK_SECONDS))


def text(found: Document) -> str:
    """Return the part of the document. Pure."""
    rows_a_beat = found.sizes[0].fleet.rows_a_beat
    errors = list(found.checks[0].errors())
    place = f"{found.place['cpu']}, {found.place['cores']} cores, Linux {found.place['kernel']}"
    average = f"load averages before the runs {', '.join(found.loads)}"
    load = f"hosts that push every {INTERVAL:g} s, with {rows_a_beat:.0f} process rows a sample on average"
    lines = [
        f"By a simulation with costs that were measured ({place}; a private MariaDB with durable commits; {average}):",
        f"{load}; CPUs in use by at most {fleet.HIGHEST_USE:.0%}, p95 below {P95_MS:g} ms.",
        "",
        "| hosts | API | requests/s | process rows/s | API processes | CPUs of MySQL | p95, simulated |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in sorted(found.sizes, key=lambda size: size.fleet.hosts):
        beats = size.fleet.hosts / size.fleet.interval
        cells = (
            f"{size.fleet.hosts:,}",
            size.api,
            f"{fleet.FEEDS * beats:,.0f}",
            f"{beats * size.fleet.rows_a_beat:,.0f}",
            f"{size.apis:,}",
            f"{size.db_cpus:,}",
            f"{size.outcome.p95_ms:.0f} ms",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"![CPUs for APIs and MySQL by number of hosts]({PLOT}.svg)",
        "",
        "What a request, a row and a transaction cost was fitted to two runs; a third, with other hosts, another",
        "interval and other process tables, was predicted without having been seen. A run is its hosts, of so many",
        "process rows a sample, and the interval. Points are means of rounds; in brackets is what each round by",
        "itself would have said. Take CPUs from this, and not times: on a machine that others use requests wait for",
        "them, which the model has no part of, and so its times are too short:",
        "",
        f"| API | fitted to | predicted | {' | '.join(f'{name}, error' for name in errors)} |",
        f"|---|---|---|{'---|' * len(errors)}",
    ]
    for check in found.checks:
        first, second, third = found.points[check.measured.api]
        rounds = [one.errors() for one in found.rounds if one.api == check.api]
        shown = " | ".join(
            f"{error:+.0%} ({min(one[name] for one in rounds):+.0%} to {max(one[name] for one in rounds):+.0%})"
            for name, error in check.errors().items()
        )
        lines.append(f"| {third.api} | {_setting(first)}; {_setting(second)} | {_setting(third)} | {shown} |")
    lines += ["", "CPU time of each:", ""]
    for check in found.checks:
        costs = check.costs
        lines.append(
            f"- {costs.api}: {1000 * costs.api_request:.2g} ms a request, {1e6 * costs.api_row:.2g} µs a row; in MySQL "
            f"{1000 * costs.db_transaction:.2g} ms a transaction, {1e6 * costs.db_row:.2g} µs a row."
        )
    lines += ["", _LIMITS]
    return "\n".join(lines) + "\n"


def _setting(point: Point) -> str:
    return f"{point.hosts} of {point.rows_a_beat:.0f}, {point.interval:g} s"


def plot(found: Document, folder: Path) -> None:
    """Draw the sizes. The same document gives the same files."""
    import matplotlib as mpl  # noqa: PLC0415 - only for who wants a picture
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    mpl.rcParams["svg.hashsalt"] = "latido"
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for api, color in (("raw", "#1f77b4"), ("orm", "#d62728")):
        own = [size for size in found.sizes if size.api == api]
        hosts = [size.fleet.hosts for size in own]
        axes.plot(hosts, [size.apis for size in own], "o-", color=color, label=f"{api}: API processes")
        axes.plot(hosts, [size.db_cpus for size in own], "s--", color=color, label=f"{api}: CPUs of MySQL")
    axes.set(xscale="log", yscale="log", xlabel="hosts", ylabel="needed")
    axes.set_title("What a fleet's ingest needs, simulated with measured costs", fontsize=10)
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(frameon=False)
    for suffix, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
        figure.savefig(folder / f"{PLOT}.{suffix}", dpi=144, metadata=metadata)


if __name__ == "__main__":
    sys.exit(main())
