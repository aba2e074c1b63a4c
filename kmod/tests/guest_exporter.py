"""Runs in the guest, by the Python of the machine outside: the exporter over the modules, and without them.

Prints lines as kmod/tests/check does: PASS or FAIL and what was checked, NOTE for figures, and FIGURES with JSON for
`python -m loadtest.benchmarks kmod`. Exit status 1: one failed.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np

from exporter.groups import Group, GroupTracker
from exporter.model import ProcessTable
from exporter.sources.kmod import KmodSource
from exporter.sources.procfs import ProcfsSource

ROUNDS = 9
ADDRESS = "127.0.0.1:10110"
GROWING = (
    "user_ns",
    "system_ns",
    "minor_faults",
    "major_faults",
    "read_bytes",
    "written_bytes",
    "voluntary_switches",
    "involuntary_switches",
)
STILL = ("start_ticks", "rss_bytes", "virtual_bytes", "swap_bytes", "ppid", "uid", "threads", "state")
TICK_NS = 10_000_000

failed = 0


def say(line: str) -> None:
    """Print a line at once: the guest may end at any time."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def verdict(name: str, faults: list[str]) -> None:
    """Print what became of a check."""
    global failed  # noqa: PLW0603 - the program's exit status
    for fault in faults[:20]:
        say(f"  {fault}")
    say(f"{'FAIL' if faults else 'PASS'} {name}")
    failed += bool(faults)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the CPU seconds that `work` took, the kernel's share included."""
    start = time.process_time()
    work()
    return time.process_time() - start


def benchmark(kmod: KmodSource, procfs: ProcfsSource) -> None:
    """Read the same processes by both, in turn; the bar is ten times."""
    size = Path("/proc/latido_procesos.bin").read_bytes()
    text = Path("/proc/latido_procesos").read_bytes()
    room = bytearray(2 * max(len(size), len(text)))

    def in_one_read(path: str) -> memoryview:
        """Read with room for all, as a source does: a buffer that grows from nothing costs as much as the reading."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return memoryview(room)[: os.readv(descriptor, [room])]
        finally:
            os.close(descriptor)

    def by_kernel() -> object:
        return in_one_read("/proc/latido_procesos.bin")

    def by_json() -> object:
        return json.loads(bytes(in_one_read("/proc/latido_procesos")))

    works: dict[str, Callable[[], object]] = {
        "kmod": kmod.processes,
        "kernel": by_kernel,
        "json": by_json,
        "procfs": procfs.processes,
    }
    for work in works.values():  # so that no round pays for first buffers and descriptors
        work()
    took: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            took[name].append(seconds_of(work))
    median = {name: statistics.median(values) for name, values in took.items()}
    processes = len(kmod.processes())
    ratio = median["procfs"] / median["kmod"]
    figures = {"cpu_seconds": took, "processes": processes, "binary_bytes": len(size), "json_bytes": len(text)}
    say(f"FIGURES {json.dumps(figures)}")
    say(
        f"NOTE {processes} processes, median of {ROUNDS}, CPU ms: kmod {median['kmod'] * 1e3:.1f} "
        f"(read alone {median['kernel'] * 1e3:.1f}), JSON {median['json'] * 1e3:.1f}, "
        f"procfs {median['procfs'] * 1e3:.1f}; procfs over kmod {ratio:.1f}, "
        f"over JSON {median['procfs'] / median['json']:.1f}"
    )
    say(f"NOTE bytes a process: {len(size) / processes:.0f} binary, {len(text) / processes:.0f} JSON")
    verdict("kmod reads at least ten times as fast as procfs", [] if ratio >= 10 else [f"{ratio:.1f} times"])


def by_pid(table: ProcessTable) -> dict[tuple[int, int], np.void]:
    """Return rows by identity."""
    return {(int(row["pid"]), int(row["start_ticks"])): row for row in table.records}


def agreement(kmod: KmodSource, procfs: ProcfsSource) -> None:
    """Hold the module's table to those that /proc gave before and after."""
    before, middle, after = procfs.processes(), kmod.processes(), procfs.processes()
    first, ours, last = by_pid(before), by_pid(middle), by_pid(after)
    faults: list[str] = []
    stayed = first.keys() & last.keys()
    faults += [f"{pid} lived throughout and is missing" for pid, _ in stayed - ours.keys()]
    for key in stayed & ours.keys():
        low, row, high = first[key], ours[key], last[key]
        # It may have run in between, and be back: then its switches tell.
        idle = all(low[name] == high[name] for name in ("voluntary_switches", "involuntary_switches"))
        for name in STILL:
            if (idle or name != "state") and low[name] == high[name] and row[name] != low[name]:
                faults.append(f"pid {key[0]} ({row['command']!r}): {name} {row[name]}, /proc {low[name]}")
        for name in GROWING:
            # /proc cuts CPU time to ticks, and both cut it below the same tick.
            unit = TICK_NS if name in {"user_ns", "system_ns"} else 1
            if not low[name] // unit <= row[name] // unit <= high[name] // unit:
                faults.append(f"pid {key[0]}: {name} {row[name]}, /proc {low[name]} to {high[name]}")
        if middle.cgroups[int(row["cgroup"])] not in {
            before.cgroups[int(low["cgroup"])],
            after.cgroups[int(high["cgroup"])],
        }:
            faults.append(f"pid {key[0]}: cgroup")
    say(f"NOTE {len(stayed)} processes compared")
    verdict("kmod and procfs give the same model", faults)
    ram, plain = kmod.ram(), procfs.ram()
    same = ("total_bytes", "buffers_bytes", "swap_total_bytes")
    verdict(
        "kmod and procfs give the same memory",
        [name for name in same if getattr(ram, name) != getattr(plain, name)]
        + [name for name in ("free_bytes", "cached_bytes") if abs(getattr(ram, name) - getattr(plain, name)) > 1 << 24],
    )
    low_cpu, cpu, high_cpu = procfs.cpu(), kmod.cpu(), procfs.cpu()
    verdict(
        "kmod and procfs give the same CPU time",
        [
            f"core {core}: {mode}"
            for core in low_cpu.cores
            for mode in ("user_ns", "system_ns", "softirq_ns", "steal_ns")
            if not getattr(low_cpu.cores[core], mode)
            <= getattr(cpu.cores[core], mode) // TICK_NS * TICK_NS
            <= getattr(high_cpu.cores[core], mode)
        ]
        + ([] if low_cpu.forks <= cpu.forks <= high_cpu.forks else ["forks"]),
    )


def group(groups: list[Group], name: str) -> Group:
    """Return a group by its name."""
    return next(one for one in groups if one.name == name)


def storm(kmod: KmodSource) -> None:
    """Hold the groups' counters to a storm of processes that no scrape sees, and to one that overflows the ring."""
    tracker = GroupTracker()
    tracker.update(kmod.processes(), 0.0)
    said = subprocess.run(["/tmp/check", "storm", "600", "3000000"], check=False, capture_output=True, text=True)  # noqa: S108 - the guest's own
    say(said.stdout.strip())
    groups = tracker.update(kmod.processes(), 1.0)
    time.sleep(1)
    groups = tracker.update(kmod.processes(), 2.0)
    own = next(float(line.split()[4]) for line in said.stdout.splitlines() if line.startswith("NOTE storm: 600"))
    one = group(groups, "storm")
    counted = (one.counters["user_ns"] + one.counters["system_ns"]) / 1e9
    say(f"NOTE group storm: {counted:.3f} s counted, {own:.3f} s by their own clocks, {one.exits} exits")
    verdict(
        "groups account for a storm that no scrape saw",
        [] if counted >= 0.99 * own and one.exits == 600 else [f"{counted:.3f} s of {own:.3f}, {one.exits} exits"],
    )
    subprocess.run(["/tmp/check", "burst", "5000"], check=False, capture_output=True)  # noqa: S108 - the guest's own
    table = kmod.processes()
    groups = tracker.update(table, 3.0)
    one = group(groups, "burst")
    missed = 0 if table.exits is None else int(table.exits.missed_counts.sum())
    say(f"NOTE group burst: {one.exits} exits, {missed} of them missed by the ring")
    verdict(
        "groups account for a burst that overflows the ring",
        [] if one.exits >= 5000 and missed > 3000 else [f"{one.exits} exits, {missed} missed"],
    )


def scrape() -> str:
    """Return /metrics."""
    with urllib.request.urlopen(f"http://{ADDRESS}/metrics", timeout=120) as answer:
        return str(answer.read(), "utf-8")


def await_exporter(exporter: subprocess.Popen[bytes]) -> str:
    """Return the first scrape that is answered."""
    while exporter.poll() is None:
        try:
            return scrape()
        except OSError:
            time.sleep(0.2)
    return ""


def fallback() -> None:
    """Run the exporter, take the modules away under it, and go on scraping."""
    exporter = subprocess.Popen([sys.executable, "-m", "latido", "exporter", f"--web.listen-address={ADDRESS}"])
    try:
        first = await_exporter(exporter)
        verdict(
            "--source=auto chooses kmod",
            [] if 'latido_source_info{source="kmod"} 1' in first else ["no latido_source_info of kmod"],
        )
        for module in ("latido_procesos", "latido_cpu", "latido_ram"):
            subprocess.run(["/bin/busybox", "rmmod", module], check=True)
        second = scrape()
        third = scrape()
        # Which one is next depends on the kernel: `bpf` where it has BTF, else `procfs`.
        others = [f'latido_source_info{{source="{name}"}} 1' for name in ("bpf", "procfs")]
        faults = [] if any(other in third for other in others) else ["no latido_source_info of another source"]
        for text in (second, third):
            works = [line for line in text.splitlines() if line.startswith("latido_collector_success{")]
            faults += [line for line in works if float(line.split()[1]) != 1] + ([] if len(works) == 3 else works)
            faults += [] if 'latido_group_processes{group="crowd"}' in text else ["no processes"]
        verdict("the exporter goes on by the next source when the modules are removed", faults)
    finally:
        exporter.terminate()
        verdict("the exporter ends with 0", [] if exporter.wait(30) == 0 else [f"status {exporter.returncode}"])


def main() -> int:
    """Run all."""
    kmod, procfs = KmodSource(), ProcfsSource()
    agreement(kmod, procfs)
    benchmark(kmod, procfs)
    storm(kmod)
    kmod.close()
    procfs.close()
    fallback()
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
