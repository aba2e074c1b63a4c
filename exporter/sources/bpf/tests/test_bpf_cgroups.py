"""Cgroups of processes and of exits where version 2 is the only hierarchy: paths are found by inode, not by /proc.

Skipped on a machine that has hierarchies of version 1 as well; `make -C exporter/sources/bpf test-guests` boots
kernels with version 2 alone, and counts a skip there as a failure.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from dev.program import Program
from dev.waiting import wait_for
from exporter.model import UNKNOWN, ProcessTable
from exporter.sources.bpf.cgroups import find_mounts
from exporter.sources.bpf.loader import Options
from exporter.sources.bpf.tests.conftest import Opener, every_end_is_told
from exporter.sources.bpf.tests.test_bpf_exits import forks
from exporter.sources.procfs import ProcfsSource
from exporter.tests.processes import child

NAMES = ("plain", "with blank", 'quo"te\\', "ünïcode", "tab\there", "a/b/c/d", "a/b")
MODULE = Path("/proc/latido_procesos.bin")


@pytest.fixture
def top() -> Iterator[Path]:
    """Make a cgroup; at the end it and all below it are gone."""
    mount, hybrid = find_mounts(Path("/proc/self/mounts").read_bytes())
    if mount is None or hybrid:
        pytest.skip("this machine has cgroups of version 1; test-guests runs this")
    folder = mount / f"latido-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    for path in sorted([folder, *(path for path in folder.rglob("*") if path.is_dir())], reverse=True):
        remove(path)


def remove(path: Path) -> None:
    """End what runs in a cgroup, and remove it."""
    for pid in (path / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)
    wait_for(lambda: "populated 0" in (path / "cgroup.events").read_text(), f"{path} is empty")
    path.rmdir()


def move(pid: int, folder: Path) -> None:
    """Put a process into a cgroup."""
    (folder / "cgroup.procs").write_text(str(pid))


def path_of(table: ProcessTable, pid: int) -> str | None:
    """Return the cgroup of a process in a table."""
    (number,) = table.records["cgroup"][table.records["pid"] == pid].tolist()
    return table.cgroups.get(number)


def in_proc(pid: int) -> str:
    """Return what the kernel itself says, of version 2."""
    return Path(f"/proc/{pid}/cgroup").read_bytes().decode().removeprefix("0::").removesuffix("\n")


@pytest.mark.parametrize("thread_iterator", [True, False], ids=["iterator", "list"])
def test_stopped_processes_in_cgroups_equal_procfs(open_bpf: Opener, top: Path, *, thread_iterator: bool) -> None:
    """Every field, the path included; some of each process's threads have ended."""
    source = open_bpf(Options(thread_iterator=thread_iterator))
    with ExitStack() as stack:
        procfs = stack.enter_context(closing(ProcfsSource()))
        where = {}
        for name in NAMES:
            folder = top / name
            folder.mkdir(parents=True, exist_ok=True)
            process = stack.enter_context(child(b"in a group)", threads=5))
            move(process.pid, folder)
            process.stop()
            where[process.pid] = f"/{folder.relative_to(top.parent)}"
        ours, theirs = source.processes(), procfs.processes()
        for pid, path in where.items():
            assert path_of(ours, pid) == path_of(theirs, pid) == in_proc(pid) == path
            (found,) = ours.records[ours.records["pid"] == pid]
            (expected,) = theirs.records[theirs.records["pid"] == pid]
            for field in set(ours.records.dtype.names or ()) - {"cgroup", "user_ns", "system_ns"}:
                assert found[field] == expected[field], (field, found, expected)
            for field in ("user_ns", "system_ns"):  # /proc cuts to ticks
                assert found[field] // 10_000_000 == expected[field] // 10_000_000, (field, found, expected)


def test_process_that_is_moved_and_group_that_is_renewed_are_followed(open_bpf: Opener, top: Path) -> None:
    """A name that is used again is another cgroup, with another id."""
    source = open_bpf()
    first, second = top / "first", top / "second"
    first.mkdir()
    with child() as process:
        for folder in (first, second, top, first):
            folder.mkdir(exist_ok=True)
            move(process.pid, folder)
            assert path_of(source.processes(), process.pid) == f"/{folder.relative_to(top.parent)}"
            if folder == second:
                remove(first)


def test_exit_names_the_group_that_was_removed_since(open_bpf: Opener, top: Path) -> None:
    """And none where the cgroup came and went between two reads: its name is nowhere any more."""
    source = open_bpf()
    known, brief = top / "known", top / "brief"
    known.mkdir()
    with child(b"inknown") as process:
        move(process.pid, known)
        assert path_of(source.processes(), process.pid) == f"/{top.name}/known"
        process.process.kill()
        process.process.wait()
        remove(known)
    brief.mkdir()
    with child(b"inbrief") as process:
        move(process.pid, brief)
        process.process.kill()
        process.process.wait()
        remove(brief)
    ended: dict[bytes, str | None] = {}

    def both_ended() -> bool:
        table = source.processes()
        assert table.exits is not None
        for record in table.exits.records:
            assert record["cgroup"] == UNKNOWN or int(record["cgroup"]) in table.cgroups
            ended[record["command"]] = table.cgroups.get(int(record["cgroup"]))
        return {b"inknown", b"inbrief"} <= ended.keys()

    wait_for(both_ended, "both exits are told")
    assert (ended[b"inknown"], ended[b"inbrief"]) == (f"/{top.name}/known", None)


def test_storm_is_attributed_to_its_group_by_99_percent(open_bpf: Opener, top: Path) -> None:
    """By path, with a third of it in a group below, against the CPU time that the cgroups themselves account."""
    source = open_bpf()
    source.processes()
    script = """
import os, sys, time
for number in range(300):
    pid = os.fork()
    if not pid:
        if number % 3 == 0:
            open(sys.argv[1] + "/below/cgroup.procs", "w").write("0")
        while time.process_time() < 0.003:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
"""
    (top / "below").mkdir()
    # What the shell used before it went there is no part of the cgroup's time, but of the process's (schedstat: ns).
    shell = 'read used rest < /proc/$$/schedstat; echo "$used"; echo $$ > "$0"/cgroup.procs && exec "$@"'
    command = ["/bin/sh", "-c", shell, str(top), sys.executable, "-c", script, str(top)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        used = int(process.communicate(timeout=120)[0])
        assert process.returncode == 0
    (line,) = (line for line in (top / "cpu.stat").read_text().splitlines() if line.startswith("usage_usec "))
    expected = int(line.split()[1]) * 1000 + used
    found = {f"/{top.name}": 0, f"/{top.name}/below": 0}
    leader_ended = False

    def all_there() -> bool:
        nonlocal leader_ended
        table = source.processes()
        assert table.exits is not None
        for record in table.exits.records:
            leader_ended |= record["pid"] == process.pid
            path = table.cgroups.get(int(record["cgroup"]), "")
            if path in found:
                found[path] += int(record["user_ns"] + record["system_ns"])
        return leader_ended and sum(found.values()) >= 0.99 * expected

    wait_for(all_there, f"99 % of {expected} ns")
    assert sum(found.values()) <= 1.01 * expected
    assert found[f"/{top.name}/below"] >= 100 * 0.0025e9


@pytest.mark.parametrize("source", ["bpf", "auto"])
def test_exporter_serves_what_the_program_reads(open_bpf: Opener, source: str) -> None:
    """Over HTTP, chosen by name and, where no module is loaded, by itself; exits of the unseen are in the counters."""
    bursts = 1 if every_end_is_told(open_bpf()) else 3
    expected = "kmod" if source == "auto" and MODULE.exists() else "bpf"
    program = Program(("exporter",), (f"--source={source}",))
    try:
        program.start(ready="")
        program.wait_ready(seconds=90)
        assert program.metric(f'latido_source_info{{source="{expected}"}}') == 1, program.log()
        with child(b"scraped", threads=3) as process:
            process.stop()
            text = program.get("/metrics")[1]
        assert 'latido_group_processes{group="scraped"} 1' in text
        works = [line for line in text.splitlines() if line.startswith("latido_collector_success{")]
        assert [line.split()[-1] for line in works] == ["1.0"] * 3, works
        # The first burst has to be whole; one of three where the kernel keeps some ends from programs.
        assert any(counted_whole(program, f"unseen{burst}x") for burst in range(bursts)), "no burst was whole"
        assert program.stop() == 0
    finally:
        program.kill()
        program.close()


def counted_whole(program: Program, name: str) -> bool:
    """Let 20 processes of 5 ms live unseen; return whether the exporter's counters soon hold what they used."""
    forks(name, 20, seconds=0.005)
    modes = [f'latido_group_cpu_seconds_total{{group="{name}0",mode="{mode}"}}' for mode in ("user", "system")]
    try:
        wait_for(lambda: sum(map(program.metric, modes)) >= 0.97 * 20 * 0.005, "the unseen are counted", 5)
    except TimeoutError:
        return False
    return True
