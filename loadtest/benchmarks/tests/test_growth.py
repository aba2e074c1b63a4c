"""`growth`: the fleet that is not asleep is what it says, and a result is drawn as it was written."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import psutil

from dev.waiting import wait_for
from loadtest.benchmarks import growth
from loadtest.benchmarks.programs import BUSY_FILES, BUSY_THREADS, busy_fleet

DOCUMENT = {
    "machine": {"cpu": "a CPU", "cores": 2, "kernel": "6.1"},
    "versions": {"python": "3.11"},
    "raw": {
        "median_cpu_seconds": {"bpf": {"100": 0.009, "20000": 0.06}, "psutil": {"100": 0.08, "20000": 4.0}},
        "busy_median_cpu_seconds": {"bpf": 0.02},
        "sizes": {"busy": {"busy": 1000}},
    },
}


def test_busy_fleet_has_its_threads_and_files_and_leaves_nothing() -> None:
    me = psutil.Process()
    with busy_fleet(5):
        (parent,) = [each for each in me.children() if "churners" in " ".join(each.cmdline())]
        wait_for(lambda: len(workers_of(parent)) == 5, "all workers are named")
        workers = workers_of(parent)
        wait_for(lambda: all(each.num_threads() == BUSY_THREADS for each in workers), "all threads run")
        assert all(each.num_fds() >= BUSY_FILES for each in workers)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


def workers_of(parent: psutil.Process) -> list[psutil.Process]:
    """Return the fleet's processes that have their names."""
    return [each for each in parent.children() if each.name().startswith("worker-")]


def test_result_is_drawn_alike_each_time(tmp_path: Path) -> None:
    results = tmp_path / "growth.json"
    results.write_text(json.dumps(DOCUMENT))
    drawn = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        result = growth.run(argparse.Namespace(drawn_from=results, plot=folder))
        drawn.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert drawn[0] == drawn[1]
    assert drawn[0].keys() == {"scrape-growth.svg", "scrape-growth.png"}
    assert result.raw == DOCUMENT["raw"]
    shown = growth.drawn(DOCUMENT)
    assert (shown.medians["psutil"][20000], shown.busy_processes) == (4.0, 1000)
