"""Load that arrives in the metrics, and load that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dev.program import Program
from dev.waiting import wait_for
from loadtest.stress import arrival, engines
from loadtest.stress.engines import Amount

LATIDO = str(Path(sys.executable).parent / "latido")
SMALL = ("--engine=python", "--duration=2s", "--workers=1", "--memory=32MiB")
AMOUNT = Amount(seconds=10, workers=2, memory_bytes=1 << 20)


def workers_of(pid: int) -> list[int]:
    """Return the load's processes below one."""
    try:
        below = psutil.Process(pid).children(recursive=True)
        return [process.pid for process in below if process.name().startswith("stress-py-")]
    except psutil.NoSuchProcess:
        return []


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def start() -> Iterator[list[subprocess.Popen[str]]]:
    """Hold what a test starts, and see that it ends."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_cpu_memory_and_forks_arrive_in_the_metrics() -> None:
    kinds = ("--kind=cpu", "--kind=memory", "--kind=fork")
    done = subprocess.run(
        [LATIDO, "loadtest", "stress", *SMALL, *kinds], capture_output=True, text=True, timeout=180, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "GREEN: arrived in the metrics: cpu, memory, fork" == done.stdout.splitlines()[-1]
    for series in (
        'latido_group_cpu_seconds_total{group="stress-py-cpu"}',
        'latido_group_resident_memory_bytes{group="stress-py-vm"}',
        "latido_forks_total",
    ):
        assert f"  {series}  " in done.stdout


def test_writes_to_a_disk_arrive_in_the_metrics(repository: Path) -> None:
    folder = repository / ".run"
    folder.mkdir(exist_ok=True)
    if psutil.disk_usage(str(folder)).free < 1 << 30 or _is_in_memory(folder):
        pytest.skip("this checkout does not lie on a disk with room")
    flags = (*SMALL, "--kind=io", f"--io.folder={folder}")
    done = subprocess.run(
        [LATIDO, "loadtest", "stress", *flags], capture_output=True, text=True, timeout=180, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert 'latido_group_written_bytes_total{group="stress-py-hdd"}' in done.stdout
    assert [] == list(folder.glob("latido-stress-*"))


def _is_in_memory(folder: Path) -> bool:
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    # In a chroot none is told of: what it lies on is mounted outside.
    kinds = (mounts[str(place)] for place in (folder.resolve(), *folder.resolve().parents) if str(place) in mounts)
    return next(kinds, "") in {"tmpfs", "ramfs"}


def test_load_that_the_exporter_does_not_show_is_red() -> None:
    exporter = Program(("exporter",), ("--no-collector.processes",)).start()
    try:
        flags = (*SMALL, "--kind=cpu", f"--exporter.url={exporter.url}")
        done = subprocess.run(
            [LATIDO, "loadtest", "stress", *flags], capture_output=True, text=True, timeout=180, check=False
        )
    finally:
        exporter.stop()
        exporter.close()
    assert 1 == done.returncode
    assert "  did not arrive: latido_group_cpu_seconds_total did not rise" in done.stdout
    assert "RED: did not arrive in the metrics: cpu" == done.stdout.splitlines()[-1]


def test_whoever_ends_it_ends_its_children(start: list[subprocess.Popen[str]]) -> None:
    flags = ("--engine=python", "--duration=300s", "--workers=2", "--kind=memory", "--memory=1MiB")
    start.append(subprocess.Popen([LATIDO, "loadtest", "stress", *flags], stdout=subprocess.PIPE, text=True))
    wait_for(lambda: len(workers_of(start[0].pid)) == 2, "two workers run", 60)
    every = psutil.Process(start[0].pid).children(recursive=True)
    start[0].send_signal(signal.SIGTERM)
    start[0].communicate(timeout=60)
    wait_for(lambda: not any(alive(process.pid) for process in every), "all of them have ended", 60)


def test_workers_end_with_the_process_that_made_them(start: list[subprocess.Popen[str]], tmp_path: Path) -> None:
    amount = Amount(seconds=300, workers=2, memory_bytes=1 << 20)
    command = engines.command("python", "memory", amount, tmp_path)
    start.append(subprocess.Popen(command, text=True, env=dict(os.environ)))
    wait_for(lambda: len(workers_of(start[0].pid)) == 2, "two workers run", 60)
    workers = workers_of(start[0].pid)
    start[0].kill()
    start[0].wait(30)
    wait_for(lambda: not any(alive(pid) for pid in workers), "they ended too", 60)


def test_sums_are_by_group_and_leave_out_idle_time() -> None:
    text = (
        'latido_cpu_seconds_total{cpu="0",mode="idle"} 900\n'
        'latido_cpu_seconds_total{cpu="0",mode="user"} 5\n'
        'latido_group_cpu_seconds_total{group="stress-ng-cpu",mode="user"} 2\n'
        'latido_group_cpu_seconds_total{group="stress-ng-cpu",mode="system"} 1\n'
        "latido_forks_total 7\n"
    )
    expected = {
        ("latido_cpu_seconds_total", ""): 5.0,
        ("latido_group_cpu_seconds_total", "stress-ng-cpu"): 3.0,
        ("latido_forks_total", ""): 7.0,
    }
    assert expected == arrival.sums(text)


def test_a_gauge_that_fell_again_has_arrived_all_the_same() -> None:
    key = ("latido_group_resident_memory_bytes", "stress-py-vm")
    during = arrival.highest([{key: 0.0}, {key: 3e6}, {key: 0.0}])
    found = arrival.rises("memory", {}, during)
    assert [3e6] == [rise.by for rise in found]
    assert arrival.arrived("memory", found, AMOUNT) is None


def test_less_than_was_made_has_not_arrived() -> None:
    key = ("latido_group_resident_memory_bytes", "stress-py-vm")
    why = arrival.arrived("memory", arrival.rises("memory", {}, {key: 1000.0}), AMOUNT)
    assert why == "latido_group_resident_memory_bytes rose by 1,000, and at least 524,288 were expected"
    assert arrival.arrived("cpu", [], AMOUNT) == "latido_group_cpu_seconds_total did not rise"


@pytest.mark.parametrize("kind", engines.KINDS)
def test_every_load_of_stress_ng_is_bounded_in_time(kind: str, tmp_path: Path) -> None:
    command = engines.command("stress-ng", kind, AMOUNT, tmp_path)
    assert "stress-ng" == command[0]
    assert "10s" == command[command.index("--timeout") + 1]
