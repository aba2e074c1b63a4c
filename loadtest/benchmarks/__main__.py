"""`python -m loadtest.benchmarks NAME [--json FILE]` runs one benchmark and prints its ratios; `all` runs all."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

from loadtest.benchmarks import document
from loadtest.benchmarks.measure import Result, recorded
from loadtest.benchmarks.programs import UnavailableError

NAMES: Final = ("encode", "scrape", "ingest", "latency", "page", "fanout", "growth", "exits", "kmod", "rows")
RESULTS: Final = Path(".run/benchmarks")


def main() -> int:
    """Run what the arguments name; the exit status is 1 if a bar is not met, or could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    modules = {name: importlib.import_module(f"loadtest.benchmarks.{name}") for name in NAMES}
    for name, module in modules.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").partition("\n")[0], description=module.__doc__)
        module.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="write the machine-readable result here")
    everything = commands.add_parser(
        "all", help="run every benchmark with its defaults, and make a page of the results"
    )
    everything.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER", help=f"where results and page go (default {RESULTS})"
    )
    page = commands.add_parser("document", help="make a page of results again; measure nothing")
    page.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="one file a benchmark")
    page.add_argument("--output", type=Path, metavar="FILE", help=f"the page (default FOLDER/{document.PAGE})")
    given = parser.parse_args()
    if given.name == "document":
        return _document(given.results, given.output or given.results / document.PAGE)
    if given.name == "all":
        return _all(modules, given.results)
    arguments = {name: value for name, value in vars(given).items() if name not in {"name", "json"}}
    try:
        result, written = recorded(lambda: modules[given.name].run(given), arguments)
    except UnavailableError as error:
        print(f"{given.name} cannot be measured here: {error}", file=sys.stderr)
        return 1
    show(result)
    if given.json is not None:
        _write(given.json, written)
    return 0 if all(ratio.met for ratio in result.ratios.values()) else 1


def _all(modules: Mapping[str, ModuleType], folder: Path) -> int:
    """Run all; each result is written when it is there, so that hours are not lost to what comes after."""
    folder.mkdir(parents=True, exist_ok=True)
    fine = True
    for number, (name, module) in enumerate(modules.items(), 1):
        defaults = argparse.ArgumentParser()
        module.add_arguments(defaults)
        given = defaults.parse_args([])
        print(f"-- {name}, {number} of {len(modules)}", flush=True)
        try:
            result, written = recorded(lambda module=module, given=given: module.run(given), vars(given))  # type: ignore[misc]  # mypy does not infer a default's type
        except UnavailableError as error:
            print(f"{name} cannot be measured here: {error}", file=sys.stderr, flush=True)
            fine = False
            continue
        except Exception:  # noqa: BLE001 - one that fails takes none of the others with it
            traceback.print_exc()
            fine = False
            continue
        show(result)
        _write(folder / f"{name}.json", written)
        fine = fine and all(ratio.met for ratio in result.ratios.values())
    return max(int(not fine), _document(folder, folder / document.PAGE))


def _document(folder: Path, page: Path) -> int:
    try:
        document.write(document.read(folder), page)
    except document.ResultsError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"the page: {page}")
    return 0


def show(result: Result) -> None:
    """Print each ratio with its spread and its bar."""
    for key, ratio in result.ratios.items():
        verdict = "met" if ratio.met else "NOT MET"
        relation = "at least" if ratio.better == "larger" else "at most"
        print(
            f"{key}: {ratio.value:.4g} ({ratio.min:.4g} to {ratio.max:.4g}, {ratio.runs} runs; "
            f"bar {relation} {ratio.bar:g}: {verdict})",
            flush=True,
        )


def _write(path: Path, written: object) -> None:
    path.write_text(json.dumps(written, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"the result: {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
