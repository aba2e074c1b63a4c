"""The pure parts of `exits` and `kmod`, and one small storm that says what it burnt."""

from __future__ import annotations

import json
import os
import resource

import pytest

from loadtest.benchmarks.attribution import OUR_CPU, Round, stormer, told, total, worst
from loadtest.benchmarks.exits import BAR, described, share
from loadtest.benchmarks.guest import figures_in
from loadtest.benchmarks.kmod import Figures, derived
from loadtest.benchmarks.kmod import described as described_kmod
from loadtest.benchmarks.measure import ratio
from loadtest.benchmarks.programs import UnavailableError

SCRAPE = b"""\
# TYPE latido_group_cpu_seconds_total counter
latido_group_cpu_seconds_total{group="st-brief",mode="user"} 1.5
latido_group_cpu_seconds_total{group="st-brief",mode="system"} 0.25
latido_group_cpu_seconds_total{group="st-late",mode="user"} 0.125
latido_group_cpu_seconds_total{group="other",mode="user"} 7
latido_group_cpu_seconds_total{group="best-",mode="user"} 7
# TYPE latido_group_exits_total counter
latido_group_exits_total{group="st-brief"} 3
"""


def a_round(**attributed: float) -> Round:
    names = {name.replace("_", " "): seconds for name, seconds in attributed.items()}
    return Round(cpu_seconds=2.0, ended=10, attributed=names, exits={}, scrapes=1)


def test_only_groups_of_the_storm_are_summed() -> None:
    assert total(SCRAPE, OUR_CPU, "group") == 1.875
    assert total(SCRAPE, "latido_group_exits_total", "group") == 3
    assert total(b"", OUR_CPU, "group") == 0


def test_round_counts_with_its_worst_way_of_grouping() -> None:
    rounds = [a_round(bpf_by_command=2.0, bpf_by_user=1.9, kmod_by_user=1.0), a_round(bpf_by_command=1.98, psutil=0.1)]
    assert worst(rounds, "bpf") == [0.95, 0.99]
    assert worst(rounds, "kmod") == [0.5]
    assert worst(rounds, "procfs") == []


def test_share_below_99_percent_is_not_met() -> None:
    assert share([0.98, 0.989, 1.0]).met is False
    assert share([0.98, 0.99, 1.0]).met is True
    assert share([0.98, 0.99, 1.0]).bar == BAR


def test_line_for_people_names_every_contender() -> None:
    assert described([a_round(bpf_by_user=1.99, psutil=0.1)]) == (
        "storms of 10 ends, 2.00 CPU seconds, median of 1: bpf by user 99.50%; psutil 5.00%"
    )


def test_figures_are_found_in_a_report() -> None:
    assert figures_in('PASS one\nFIGURES {"rounds": []}\nDONE\n', "6.1") == {"rounds": []}


@pytest.mark.parametrize("report", ["", "PASS one\nDONE\n", "FIGURES [1]\n"])
def test_report_without_figures_is_refused_with_its_last_lines(report: str) -> None:
    with pytest.raises(UnavailableError, match=r"6\.1 gave no figures"):
        figures_in(report, "6.1")


def test_kmod_figures_become_ratios_and_sizes() -> None:
    figures = Figures(
        cpu_seconds={"kmod": [0.01, 0.02], "kernel": [0.005, 0.01], "json": [0.02, 0.04], "procfs": [1.0, 2.0]},
        processes=100,
        binary_bytes=16_000,
        json_bytes=8_000,
    )
    found = derived(figures)
    assert found["procfs_over_json"] == 50
    assert found["kernel_share_of_kmod"] == 0.5
    assert (found["binary_bytes_a_process"], found["json_bytes_a_process"]) == (160, 80)
    line = described_kmod(figures, ratio(figures.cpu_seconds["procfs"], figures.cpu_seconds["kmod"], 10.0))
    assert "procfs over kmod 100" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="the storm becomes another user, which takes root")
def test_storm_says_what_the_kernel_says_of_it() -> None:
    """Its own sum lies within what this process is told of its child by wait4(2): that includes the start and end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with stormer(rounds=2) as process:
        said = json.loads(told(process, "go"))
        found = json.loads(told(process, "end"))["cpu_seconds"]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    whole = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert said == {"waited": 26, "zombies": 2}
    assert 28 * 0.003 < found < whole
