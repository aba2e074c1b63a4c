"""The page of results is what its files say, is committed as it is made, and hides no bar that is not met."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from loadtest.benchmarks import document, plots
from loadtest.benchmarks.__main__ import NAMES
from loadtest.benchmarks.details import DETAILS, figure
from loadtest.benchmarks.measure import Ratio, Result, recorded

GROWTH = {
    "machine": {"cpu": "a CPU", "cores": 2, "kernel": "6.1.0-25-amd64"},
    "raw": {
        "median_cpu_seconds": {"bpf": {"100": 0.009, "20000": 0.06}, "psutil": {"100": 0.08, "20000": 4.0}},
        "busy_median_cpu_seconds": {"bpf": 0.02},
        "sizes": {"busy": {"busy": 1000}},
    },
}


@pytest.fixture
def committed(repository: Path) -> dict[str, document.Document]:
    return document.read(repository / "docs/benchmarks")


def test_committed_page_and_plots_are_what_the_committed_results_give(
    repository: Path, committed: dict[str, document.Document], tmp_path: Path
) -> None:
    document.write(committed, tmp_path / "benchmarks.md")
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".png"}
    assert made.keys() == {"benchmarks.md", f"{plots.BUDGETS}.svg", f"{plots.GROWTH}.svg"}
    for name, content in made.items():
        assert (repository / "docs" / name).read_bytes() == content, "make bench-page"


def test_every_benchmark_has_its_section_its_tables_and_a_committed_result(
    committed: dict[str, document.Document],
) -> None:
    names = {name for name, *_ in document.SECTIONS}
    assert names == set(NAMES) == DETAILS.keys() == committed.keys()
    for name, result in committed.items():
        assert result.name == name
        assert result.machine.keys() >= {"cpu", "cores", "memory_mib", "kernel"}
        assert result.versions.keys() >= {"python", "latido"}
        # Resident memory is looked at once for each of our sources.
        assert all(ratio.runs >= 7 for key, ratio in result.ratios.items() if key != "scrape.resident_mib")


def test_every_budget_is_in_the_first_table_with_its_verdict(committed: dict[str, document.Document]) -> None:
    table = document.render(committed).partition("\n## Budgets\n")[2].partition("\n## ")[0]
    for budget in document.BUDGETS:
        ratio = document.ratio_of(committed, budget.key)
        assert ratio is not None
        (line,) = [line for line in table.splitlines() if f"(`{budget.key}`)" in line]
        assert f"| {figure(ratio.value)} |" in line
        assert ratio.met == ("**not met**" not in line)


def test_bar_that_is_missed_or_not_measured_is_named_before_the_table(committed: dict[str, document.Document]) -> None:
    missed = replace(committed["encode"].ratios["encode.prometheus_client_over_ours"], value=2.0)
    encode = msgspec.structs.replace(committed["encode"], ratios={"encode.prometheus_client_over_ours": missed})
    text = document.render({"encode": encode})
    head = text.partition("\n## Budgets\n")[2].partition("\n|")[0]
    assert head.lstrip().startswith(f"0 of {len(document.BUDGETS)} bars are met. Not met or not measured: ")
    assert {budget.key for budget in document.BUDGETS} == set(re.findall(r"`([^`]+)`", head))
    assert text.count("**not measured**") == len(document.BUDGETS) - 1
    assert "| 2 |" in text
    assert "**Not measured** in these results." in text


def test_result_says_when_where_and_how_it_was_measured() -> None:
    found = Result("x", {"x.y": Ratio(1 / 3, 0.1, 0.5, 7, 0.3)}, {"column": (1 / 3, 2)}, {"library": "1"})
    result, written = recorded(lambda: found, {"runs": 7, "folder": Path("a"), "dsn": None})
    assert result is found
    assert written["ratios"] == {
        "x.y": {"value": 0.33333, "min": 0.1, "max": 0.5, "runs": 7, "bar": 0.3, "better": "larger", "met": True}
    }
    assert written["raw"] == {"column": [0.33333, 2]}
    assert written["arguments"] == {"runs": 7, "folder": "a", "dsn": None}
    read = msgspec.json.decode(json.dumps(written), type=document.Document)
    assert read.ratios["x.y"].met
    assert len(read.load_average.before) == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", read.measured_at)


def test_file_that_is_no_result_is_named_without_a_stack_trace(tmp_path: Path) -> None:
    (tmp_path / "encode.json").write_text('{"name": 1}')
    command = [sys.executable, "-m", "loadtest.benchmarks", "document", "--results"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{tmp_path / 'encode.json'}: no result of a benchmark: ")
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "empty").mkdir()
    done = subprocess.run([*command, str(tmp_path / "empty")], capture_output=True, text=True, check=False)
    assert done.stderr == f"{tmp_path / 'empty'}: no results here; `python -m loadtest.benchmarks all` writes them\n"


def test_plots_are_drawn_alike_each_time(tmp_path: Path) -> None:
    bars = [("met", Ratio(2, 1, 3, 7, 1)), ("missed", Ratio(20, 1, 30, 7, 10, "smaller")), ("not measured", None)]
    drawn = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        plots.growth(plots.drawn(GROWTH), folder)
        plots.budgets(bars, folder)
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 4
    shown = plots.drawn(GROWTH)
    assert (shown.medians["psutil"][20000], shown.busy_processes) == (4.0, 1000)
    assert b"<!-- not measured -->" in drawn[0][f"{plots.BUDGETS}.svg"]
