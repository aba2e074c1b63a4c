"""The BPF source on this machine's kernel, held against /proc field by field.

PID 1 is left out of comparisons: some virtual machines hide it from the kernel's iterator.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from exporter.model import ProcessTable, SourceError
from exporter.sources.bpf.loader import Options
from exporter.sources.bpf.skeleton import ARTEFACT
from exporter.sources.bpf.source import BpfSource
from exporter.sources.bpf.tests.conftest import Opener
from exporter.sources.choose import open_source
from exporter.sources.procfs import ProcfsSource
from exporter.tests.processes import child

TICK_NS = 10_000_000
BOTH_WALKS = pytest.mark.parametrize("thread_iterator", [True, False], ids=["iterator", "list"])
"""The two ways over a process's threads: since 6.7, and before."""

_BUSY = """
import sys, threading
stop = threading.Event()
def burn():
    while not stop.is_set():
        open("/proc/self/stat").read()
threads = [threading.Thread(target=burn, daemon=True) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def procfs() -> Iterator[ProcfsSource]:
    with closing(ProcfsSource()) as source:
        yield source


def row(table: ProcessTable, pid: int) -> dict[str, int | bytes]:
    """Return the one row of a process, by column."""
    (found,) = table.records[table.records["pid"] == pid].tolist()
    return dict(zip(table.records.dtype.names or (), found, strict=True))


def rows(table: ProcessTable) -> dict[tuple[int, int], dict[str, int | bytes | str | None]]:
    """Return every process but PID 1 by identity, its cgroup as a path."""
    names = table.records.dtype.names or ()
    found = {}
    for record in table.records.tolist():
        values = dict(zip(names, record, strict=True))
        values["cgroup"] = table.cgroups.get(values["cgroup"])
        if values["pid"] != 1:
            found[values["pid"], values["start_ticks"]] = values
    return found


def in_ticks(values: dict[str, int | bytes]) -> dict[str, int | bytes]:
    """Return a row with its CPU times rounded down to what /proc shows."""
    rounded = {name: value // TICK_NS * TICK_NS for name, value in values.items() if isinstance(value, int)}
    return {**values, "user_ns": rounded["user_ns"], "system_ns": rounded["system_ns"]}


def cpu_times(values: Mapping[str, int | bytes | str | None]) -> tuple[int, int]:
    """Return a row's user and system time, ns."""
    user, system = values["user_ns"], values["system_ns"]
    assert isinstance(user, int)
    assert isinstance(system, int)
    return user, system


@contextmanager
def busy(threads: int) -> Iterator[int]:
    """Run a process whose threads use CPU in both modes; give its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", _BUSY, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@contextmanager
def churn() -> Iterator[None]:
    """Start and end processes until the block does."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            for pid in [os.posix_spawn("/bin/true", ["true"], {}) for _ in range(10)]:
                os.waitpid(pid, 0)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@BOTH_WALKS
@pytest.mark.parametrize("threads", [0, 9])
def test_stopped_process_equals_procfs_exactly(
    open_bpf: Opener, procfs: ProcfsSource, threads: int, *, thread_iterator: bool
) -> None:
    source = open_bpf(Options(thread_iterator=thread_iterator))
    with child(b"stands", threads=threads) as process:
        process.stop()
        ours, theirs = source.processes(), procfs.processes()
        found, expected = row(ours, process.pid), row(theirs, process.pid)
    place, expected_place = found.pop("cgroup"), expected.pop("cgroup")
    assert isinstance(place, int)
    assert isinstance(expected_place, int)
    assert ours.cgroups[place] == theirs.cgroups[expected_place]
    assert in_ticks(found) == expected
    assert isinstance(found["threads"], int)
    assert threads // 2 < found["threads"] <= 1 + threads


@BOTH_WALKS
def test_every_process_equals_procfs_on_a_busy_machine(
    open_bpf: Opener, procfs: ProcfsSource, *, thread_iterator: bool
) -> None:
    """Each value lies between two readings of /proc, before and after; CPU time within a tick of them."""
    source = open_bpf(Options(thread_iterator=thread_iterator))
    counters = ("minor_faults", "major_faults", "read_bytes", "written_bytes", "voluntary_switches")
    compared = 0
    with ExitStack() as stack:
        for threads in (1, 8, 30):
            stack.enter_context(busy(threads))
        stack.enter_context(child(b"sleeps", threads=50))
        stack.enter_context(churn())
        for _ in range(5):
            before, ours, after = rows(procfs.processes()), rows(source.processes()), rows(procfs.processes())
            assert before.keys() & after.keys() <= ours.keys()
            for key in before.keys() & after.keys() & ours.keys():
                low, found, high = before[key], ours[key], after[key]
                compared += 1
                for name in (*counters, "involuntary_switches"):
                    assert low[name] <= found[name] <= high[name], (name, low, found, high)  # type: ignore[operator] # numbers
                sides = [cpu_times(side) for side in (low, found, high)]
                least, value, most = (user + system for user, system in sides)
                assert least - 2 * TICK_NS <= value <= most + 2 * TICK_NS, (low, found, high)
                # Neither part falls below what /proc said last, but ticks that come later may move to the other part
                # what was used since (cputime_adjust() in kernel/sched/cputime.c): at most all of it.
                for part in zip(*sides, strict=True):
                    assert part[0] - TICK_NS <= part[1] <= part[2] + most - least + TICK_NS, (low, found, high)
                # What runs may come back to where it was; what used nothing stood still.
                still = all(low[counter] == high[counter] for counter in (*counters, "user_ns", "system_ns"))
                for name in found.keys() - {*counters, "involuntary_switches", "user_ns", "system_ns"}:
                    # A worker of the kernel shows what it works on in /proc; its name is what stands before.
                    kernel_worker = name == "command" and str(found[name]).startswith("b'kworker/")
                    # On a hybrid host /proc moves a zombie to the root; here it stays where it ran.
                    left = name == "cgroup" and found["state"] == b"Z"
                    if still and low[name] == high[name] and not kernel_worker and not left and name != "state":
                        assert found[name] == low[name], (name, low, found, high)
    assert compared > 50


def test_pids_ascend_and_none_is_twice_while_processes_come_and_go(open_bpf: Opener) -> None:
    source = open_bpf()
    with churn():
        for _ in range(50):
            pids = source.processes().records["pid"]
            assert bool(np.all(pids[1:] > pids[:-1]))
            assert os.getpid() in pids


@pytest.mark.parametrize(
    "name",
    [b'quo"te\\', b"new\nline", b"a) R 1 (b", b")", b"\xff\xfe\x80", b"tab\there", b"\x1b[31mred", b"x" * 15],
)
def test_hostile_name_is_read_as_it_is(open_bpf: Opener, name: bytes) -> None:
    source = open_bpf()
    with child(name) as process:
        assert row(source.processes(), process.pid)["command"] == name


@BOTH_WALKS
def test_cpu_time_counts_threads_that_ended(open_bpf: Opener, *, thread_iterator: bool) -> None:
    """A hundred of two hundred threads work 10 ms each and end."""
    source = open_bpf(Options(thread_iterator=thread_iterator))
    with child(threads=200) as process:
        process.stop()
        found = row(source.processes(), process.pid)
    assert isinstance(found["threads"], int)
    assert 101 <= found["threads"] < 110
    assert isinstance(found["user_ns"], int)
    assert isinstance(found["system_ns"], int)
    assert (found["user_ns"] + found["system_ns"]) / 1e9 >= process.report + 0.98


def test_cpu_times_never_fall(open_bpf: Opener) -> None:
    source = open_bpf()
    with busy(4) as pid:
        last = (0, 0)
        for _ in range(300):
            found = row(source.processes(), pid)
            now = (found["user_ns"], found["system_ns"])
            assert now[0] >= last[0]  # type: ignore[operator] # numbers
            assert now[1] >= last[1]  # type: ignore[operator] # numbers
            last = now  # type: ignore[assignment] # numbers


def test_states(open_bpf: Opener) -> None:
    source = open_bpf()
    with child() as sleeping, child() as stopped, child() as zombie, busy(1) as running:
        stopped.stop()
        zombie.become_zombie()
        table = source.processes()
        assert [row(table, process.pid)["state"] for process in (sleeping, stopped, zombie)] == [b"S", b"T", b"Z"]
        assert row(table, zombie.pid)["rss_bytes"] == row(table, zombie.pid)["virtual_bytes"] == 0
        assert row(table, running)["state"] in {b"R", b"S"}


def test_user_is_the_effective_one(open_bpf: Opener) -> None:
    source = open_bpf()
    with subprocess.Popen(["/bin/sleep", "60"], user=65534) as process:
        assert row(source.processes(), process.pid)["uid"] == 65534
        process.kill()


def test_machine_is_read_as_by_procfs(open_bpf: Opener, procfs: ProcfsSource) -> None:
    source = open_bpf()
    assert source.ram().total_bytes == procfs.ram().total_bytes
    before, ours, after = procfs.cpu().forks, source.cpu().forks, procfs.cpu().forks
    assert before <= ours <= after


def test_table_larger_than_the_buffer_is_read_whole(open_bpf: Opener) -> None:
    source = open_bpf()
    source._expected = 4096
    with child(b"last") as process:
        assert row(source.processes(), process.pid)["command"] == b"last"
    assert source._expected > 4096


def test_two_sources_read_at_once(open_bpf: Opener) -> None:
    """Scrape and push have one each; both are whole while the other reads."""
    sources = [open_bpf(), open_bpf()]
    failures: list[BaseException] = []

    def read(source: BpfSource) -> None:
        try:
            for _ in range(100):
                assert os.getpid() in source.processes().records["pid"]
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=read, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_auto_takes_it_where_no_module_is_loaded(open_bpf: Opener) -> None:
    open_bpf()
    with closing(open_source("auto", Path("/proc"), "scrape")) as source:
        assert source.name == ("kmod" if Path("/proc/latido_procesos.bin").exists() else "bpf")
        assert os.getpid() in source.processes().records["pid"]


def test_proc_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"^bpf: {tmp_path} cannot be told to be of this kernel: "):
        BpfSource(tmp_path)
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("00000000-0000-0000-0000-000000000000\n")
    with pytest.raises(SourceError, match=f"^bpf: {tmp_path} is of another boot or machine"):
        BpfSource(tmp_path)


def test_user_without_capabilities_is_told_which_are_needed() -> None:
    """In a process of its own, which gives up being root before it loads: it may not see this checkout then."""
    script = """
import os, sys
from pathlib import Path
from exporter.model import SourceError
from exporter.sources.bpf.loader import load
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
try:
    load(artefact=Path(sys.argv[1]))
except SourceError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        artefact = shutil.copy(ARTEFACT, folder)
        command = [sys.executable, "-c", script, artefact]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if Path("/sys/kernel/btf/vmlinux").exists():
        assert shown == "bpf: cannot be loaded: CAP_BPF and CAP_PERFMON needed (or run as root)\n"
    else:
        assert "CONFIG_DEBUG_INFO_BTF" in shown


def test_closing_leaves_nothing_open(open_bpf: Opener) -> None:
    open_bpf()
    before = sorted(Path("/proc/self/fd").iterdir())
    source = BpfSource()
    source.processes()
    source.close()
    assert sorted(Path("/proc/self/fd").iterdir()) == before
