"""The page of results: budgets first, then each benchmark with its ratios, its figures, its plot and our notes.

Everything measured on the page comes from the results files, one a benchmark; what stands between is `notes.md`, by
benchmark. The same files give the same page and the same plots.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from loadtest.benchmarks import encode, exits, fanout, growth, ingest, kmod, latency, page, plots, rows, scrape
from loadtest.benchmarks.details import DETAILS, figure
from loadtest.benchmarks.measure import Ratio

PAGE: Final = "benchmarks.md"
NOTES: Final = Path(__file__).with_name("notes.md")


class ResultsError(Exception):
    """Results cannot be read; the message names the file and says what is wrong."""


class Load(msgspec.Struct, frozen=True):
    """Load averages of 1, 5 and 15 minutes."""

    before: list[float]
    after: list[float]


class Document(msgspec.Struct, frozen=True):
    """A results file."""

    name: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    measured_at: str
    seconds: float
    load_average: Load
    arguments: dict[str, Any]
    ratios: dict[str, Ratio]
    raw: dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """What was promised of a figure: `bar` as it reads, and what we are after. The bar's number is the result's own."""

    what: str
    key: str
    aim: float


BUDGETS: Final = (
    Budget("CPU of a full grouped scrape at 10,000 processes: process-exporter's over `bpf`'s",
           "scrape.process_exporter_over_bpf", 300),
    Budget("the same with `procfs`, every field", "scrape.process_exporter_over_procfs", 6),
    Budget("memory of the exporter at 10,000 processes, MiB", "scrape.resident_mib", 32),
    Budget("CPU of read and parse of 5,000 processes in one guest: `procfs`'s over `kmod`'s",
           "kmod.procfs_over_kmod", 50),
    Budget("CPU of encoding a sample: `generate_latest`'s over ours", "encode.prometheus_client_over_ours", 20),
    Budget("share of a storm's CPU time that lands in groups, `bpf`", "exits.attributed_bpf", 0.9999),
    Budget("the same, `kmod`", "exits.attributed_kmod", 0.9999),
    Budget("durable process rows a second: raw over `LOAD DATA LOCAL`", "ingest.raw_over_load_data", 0.9),
    Budget("the same load: raw over orm", "ingest.raw_over_orm", 5),
    Budget("small posts a second: raw over one INSERT and one commit a request", "ingest.small_raw_over_naive", 5),
    Budget("fan-out to 1,000 clients, 1 KB, CPU: one prebuilt frame's over ours", "fanout.over_limit_1k", 1),
    Budget("the same, 20 KB", "fanout.over_limit_20k", 1),
    Budget("memory of an idle WebSocket client, KiB", "fanout.idle_client_kib", 12),
    Budget("kernel read to browser, p99, ms", "latency.kernel_to_browser_p99_ms", 100),
)  # fmt: skip

SECTIONS: Final = (
    ("scrape", "One scrape at 10,000 processes", scrape),
    ("growth", "How a scrape's cost grows", growth),
    ("encode", "The encoder", encode),
    ("exits", "Short-lived processes", exits),
    ("kmod", "The kernel modules", kmod),
    ("ingest", "Ingest", ingest),
    ("fanout", "The fan-out", fanout),
    ("latency", "From the kernel to the browser", latency),
    ("page", "A hundred hosts on the page", page),
    ("rows", "The history at 50 million rows", rows),
)

_HEAD: Final = """\
# Benchmarks

Made of the results files in `docs/benchmarks/` by `make bench-page`; do not edit. `python -m loadtest.benchmarks NAME`
runs one benchmark; `make bench` runs all of them, which takes an hour, and makes the same page of its own results in
`.run/benchmarks/`. Each measures ours and the real alternative in the same interleaved run and prints a ratio, its
spread and the bar that it has to meet. Nothing is installed: Debian's packages are unpacked beside the checkout. CPU
time comes before wall time, medians of at least seven decide.

The ratios mean something; seconds are the machine's: {machine}. Each section says when it was measured and how busy
the machine was, as load averages of a minute before and after.
"""


def read(folder: Path) -> dict[str, Document]:
    """Read a folder's results, by benchmark. Raises ResultsError."""
    found: dict[str, Document] = {}
    for name, *_ in SECTIONS:
        path = folder / f"{name}.json"
        try:
            found[name] = msgspec.json.decode(path.read_bytes(), type=Document)
        except FileNotFoundError:
            continue
        except (OSError, msgspec.DecodeError) as error:
            raise ResultsError(f"{path}: no result of a benchmark: {error}") from None
    if not found:
        raise ResultsError(f"{folder}: no results here; `python -m loadtest.benchmarks all` writes them")
    return found


def write(results: Mapping[str, Document], to: Path) -> None:
    """Write the page, and its plots beside it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(render(results), encoding="utf-8")
    plots.budgets([(one.what.replace("`", ""), ratio_of(results, one.key)) for one in BUDGETS], to.parent)
    if "growth" in results:
        plots.growth(plots.drawn(msgspec.to_builtins(results["growth"])), to.parent)


def render(results: Mapping[str, Document]) -> str:
    """Return the page."""
    notes = dict(_notes(NOTES.read_text(encoding="utf-8")))
    machines = sorted({_machine(one) for one in results.values()})
    parts = [_HEAD.format(machine="; ".join(machines)), "## Budgets\n", *_budgets(results)]
    for name, title, module in SECTIONS:
        parts += ["", f"## {title}\n", _about(module.__doc__ or ""), ""]
        result = results.get(name)
        if result is None:
            parts.append("**Not measured** in these results.")
            continue
        parts += [_measured(result), ""]
        if name == "growth":
            parts += [f"![CPU of one scrape by number of processes]({plots.GROWTH}.svg)", ""]
        for table in DETAILS[name](result.raw):
            parts += [*table.lines(), ""]
        if result.ratios:
            parts += [*_ratios(result), ""]
        if name in notes:
            parts.append(notes[name])
    text = "\n".join(parts)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def ratio_of(results: Mapping[str, Document], key: str) -> Ratio | None:
    """Return a ratio by its key, None where it was not measured."""
    result = results.get(key.partition(".")[0])
    return result.ratios.get(key) if result else None


def _budgets(results: Mapping[str, Document]) -> Iterator[str]:
    found = {budget.key: ratio_of(results, budget.key) for budget in BUDGETS}
    unmet = [key for key, ratio in found.items() if ratio is None or not ratio.met]
    yield (
        f"{len(found) - len(unmet)} of {len(found)} bars are met."
        + (f" Not met or not measured: {', '.join(f'`{key}`' for key in unmet)}." if unmet else "")
        + " The aim is what we are after."
    )
    yield ""
    yield "| what | median | spread | bar | aim | |"
    yield "|---|---|---|---|---|---|"
    for budget in BUDGETS:
        ratio = found[budget.key]
        sign = "≤" if ratio and ratio.better == "smaller" else "≥"
        if ratio is None:
            yield f"| {budget.what} (`{budget.key}`) | | | | {figure(budget.aim)} | **not measured** |"
            continue
        reached = ratio.value <= budget.aim if ratio.better == "smaller" else ratio.value >= budget.aim
        yield (
            f"| {budget.what} (`{budget.key}`) | {figure(ratio.value)} | {figure(ratio.min)} to {figure(ratio.max)} | "
            f"{sign} {figure(ratio.bar)} | {sign} {figure(budget.aim)} | {_verdict(ratio, reached=reached)} |"
        )
    yield "| samples lost or doubled in any fault test | `make test`, `make faults` and `make soak` count | | 0 | 0 | |"
    yield ""
    yield f"![How far each figure is from its bar]({plots.BUDGETS}.svg)"


def _verdict(ratio: Ratio, *, reached: bool) -> str:
    if not ratio.met:
        return "**not met**"
    return "met, the aim too" if reached else "met"


def _ratios(result: Document) -> Iterator[str]:
    yield "| ratio | median | spread | runs | bar |"
    yield "|---|---|---|---|---|"
    panels = 0
    for key, ratio in result.ratios.items():
        if ratio.met and ".panel_" in key:
            panels += 1  # dozens, of which the table above has the slowest
            continue
        sign = "≤" if ratio.better == "smaller" else "≥"
        met = "met" if ratio.met else "**not met**"
        yield (
            f"| `{key}` | {figure(ratio.value)} | {figure(ratio.min)} to {figure(ratio.max)} | {ratio.runs} | "
            f"{sign} {figure(ratio.bar)}, {met} |"
        )
    if panels:
        yield f"| `rows.panel_*_seconds`, {panels} of them | | | | met by each |"


def _measured(result: Document) -> str:
    given = " ".join(f"{name}={_shown(value)}" for name, value in result.arguments.items() if value is not None)
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items() if name != "latido")
    day, _, clock = result.measured_at.partition("T")
    return (
        f"Measured on {day} at {clock[:5]} UTC in {max(1, round(result.seconds / 60))} min, load "
        f"{result.load_average.before[0]:.1f} to {result.load_average.after[0]:.1f}; {versions}; {given}."
    )


def _shown(value: object) -> str:
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _about(docstring: str) -> str:
    """Return a benchmark's docstring, which says what it measures and how, as prose of the page."""
    return inspect.cleandoc(docstring)


def _machine(result: Document) -> str:
    of = result.machine
    gib = int(of["memory_mib"]) / 1024
    kernel = ".".join(str(of["kernel"]).split(".")[:2])
    return f"{of['cores']} cores of {of['cpu']}, {gib:.0f} GiB, Linux {kernel} ({of['architecture']})"


def _notes(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each `## name`."""
    for section in text.split("\n## ")[1:]:
        name, _, body = section.partition("\n")
        yield name.strip(), body.strip("\n") + "\n"
