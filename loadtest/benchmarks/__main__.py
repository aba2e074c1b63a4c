"""`python -m loadtest.benchmarks NAME [--json FILE]` runs one benchmark and prints its ratios; `all` runs all."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Final

from loadtest.benchmarks.measure import Result

NAMES: Final = ("encode", "exits", "fanout", "growth", "ingest", "kmod", "latency", "page", "rows", "scrape")


def main() -> int:
    """Run what the arguments name; the exit status is 1 if a bar is not met."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    modules = {name: importlib.import_module(f"loadtest.benchmarks.{name}") for name in NAMES}
    for name, module in modules.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").partition("\n")[0], description=module.__doc__)
        module.add_arguments(command)
        command.add_argument("--json", type=Path, metavar="FILE", help="write the machine-readable result here")
    everything = commands.add_parser("all", help="run every benchmark with its defaults")
    everything.add_argument("--json", type=Path, metavar="FILE", help="write a list of all results here")
    given = parser.parse_args()
    if given.name == "all":
        results = []
        for name, module in modules.items():
            defaults = argparse.ArgumentParser()
            module.add_arguments(defaults)
            print(f"-- {name}", flush=True)
            results.append(module.run(defaults.parse_args([])))
            show(results[-1])
        _write(given.json, [result.document() for result in results])
    else:
        results = [modules[given.name].run(given)]
        show(results[0])
        _write(given.json, results[0].document())
    return 0 if all(ratio.met for result in results for ratio in result.ratios.values()) else 1


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


def _write(path: Path | None, document: object) -> None:
    if path is not None:
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
