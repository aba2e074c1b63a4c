"""`growth`: the fleet that is not asleep is what it says."""

from __future__ import annotations

import psutil

from dev.waiting import wait_for
from loadtest.benchmarks.programs import BUSY_FILES, BUSY_THREADS, busy_fleet


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
