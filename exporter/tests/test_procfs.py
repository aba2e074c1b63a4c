"""The procfs source on this machine's own /proc, held against psutil, an independent reader; and on changed copies.

What moves while it is read is compared where it holds still: on stopped processes exactly, on counters between two
readings by the other side.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import StringIO
from pathlib import Path

import numpy as np
import psutil
import pytest

from exporter.model import STATES, UNKNOWN, ProcessTable, SourceError
from exporter.sources.procfs import ProcfsSource
from exporter.tests.processes import child
from latido import logs

FIXTURE = Path(__file__).parent / "fixtures" / "proc"
TICK_NS = 10_000_000
ATTEMPTS = 500


@pytest.fixture
def source() -> Iterator[ProcfsSource]:
    source = ProcfsSource()
    yield source
    source.close()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the captured /proc, to be changed."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "proc"))


def processes_of(root: Path) -> ProcessTable:
    """Read a /proc once."""
    with closing(ProcfsSource(root)) as source:
        return source.processes()


def row(table: ProcessTable, pid: int) -> dict[str, int | bytes]:
    """Return the one row of a process, by column."""
    (found,) = table.records[table.records["pid"] == pid].tolist()
    return dict(zip(table.records.dtype.names or (), found, strict=True))


def test_memory_equals_meminfo(source: ProcfsSource) -> None:
    """Each field is compared at a moment when it was the same before and after our read."""
    unproven = {
        "total_bytes": "total",
        "free_bytes": "free",
        "available_bytes": "available",
        "buffers_bytes": "buffers",
        "shared_bytes": "shared",
        "slab_bytes": "slab",
        "swap_total_bytes": "swap total",
        "swap_free_bytes": "swap free",
    }

    def other_reader() -> dict[str, int]:
        memory, swap = psutil.virtual_memory(), psutil.swap_memory()
        values = {name: getattr(memory, name) for name in ("total", "free", "available", "buffers", "shared", "slab")}
        return {**values, "swap total": swap.total, "swap free": swap.free}

    for _ in range(ATTEMPTS):
        before, ours, after = other_reader(), source.ram(), other_reader()
        for field, name in list(unproven.items()):
            if before[name] == after[name]:
                assert getattr(ours, field) == before[name], field
                del unproven[field]
        if not unproven:
            return
    pytest.fail(f"never held still: {sorted(unproven)}")


def test_cached_memory_is_the_line_of_meminfo(source: ProcfsSource) -> None:
    """Apart from the others, since psutil adds reclaimable slab to its own."""

    def cached() -> int:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("Cached:"))
        return int(line.split()[1]) * 1024

    for _ in range(ATTEMPTS):
        before, ours, after = cached(), source.ram().cached_bytes, cached()
        if before == after:
            assert ours == before
            return
    pytest.fail("page cache never held still")


def test_cpu_seconds_equal_stat_within_a_tick(source: ProcfsSource) -> None:
    before, ours, after = psutil.cpu_times(percpu=True), source.cpu(), psutil.cpu_times(percpu=True)
    assert len(ours.cores) == len(before)
    for number, times in ours.cores.items():
        for mode in ("user", "nice", "system", "irq", "softirq", "steal", "guest", "guest_nice"):
            nanoseconds = getattr(times, f"{mode}_ns")
            low, high = (round(getattr(side[number], mode) * 1e9) for side in (before, after))
            assert low - TICK_NS <= nanoseconds <= high + TICK_NS, (number, mode)
        # These two may step back (proc(5)), by a tick at a time.
        for mode in ("idle", "iowait"):
            sides = [round(getattr(side[number], mode) * 1e9) for side in (before, after)]
            assert min(sides) - TICK_NS <= getattr(times, f"{mode}_ns") <= max(sides) + TICK_NS, (number, mode)


def test_counts_of_stat(source: ProcfsSource) -> None:
    before, ours, after = psutil.cpu_stats().ctx_switches, source.cpu(), psutil.cpu_stats().ctx_switches
    assert before <= ours.context_switches <= after
    assert ours.boot_time_seconds == int(psutil.boot_time())
    assert ours.forks > 0
    assert (ours.load1, ours.load5, ours.load15) == pytest.approx(os.getloadavg(), abs=0.5)


def test_every_process_is_there_once_in_ascending_order(source: ProcfsSource) -> None:
    before, table, after = set(psutil.pids()), source.processes(), set(psutil.pids())
    pids = table.records["pid"].tolist()
    assert pids == sorted(set(pids))
    assert before & after <= set(pids) <= before | after


def test_states_equal_those_of_another_reader(source: ProcfsSource) -> None:
    """Only between running, sleeping, waiting for disk and idle may a process have gone in the meantime."""
    names = {"disk-sleep": "disk_sleep", "tracing-stop": "traced"}
    moving = {"running", "sleeping", "disk_sleep", "idle"}
    with child() as sleeping, child() as stopped, child() as zombie:
        stopped.stop()
        zombie.become_zombie()
        theirs = {process.pid: process.info["status"] for process in psutil.process_iter(["status"])}
        table = source.processes()
        ours = {record["pid"]: STATES[record["state"]] for record in table.records}
        assert [ours[process.pid] for process in (sleeping, stopped, zombie)] == ["sleeping", "stopped", "zombie"]
    both = ours.keys() & theirs.keys()
    assert len(both) > 3
    differing = {
        pid: (ours[pid], theirs[pid])
        for pid in both
        if ours[pid] != names.get(theirs[pid], theirs[pid])
        and not {ours[pid], names.get(theirs[pid], theirs[pid])} <= moving
    }
    assert differing == {}
    assert sum(table.states().values()) == len(table)


def test_stopped_process_equals_another_reader_exactly(source: ProcfsSource) -> None:
    with child(threads=4) as process:
        process.stop()
        found = row(source.processes(), process.pid)
        other = psutil.Process(process.pid)
        times, memory, switches = other.cpu_times(), other.memory_info(), other.num_ctx_switches()
        assert (
            found
            == {
                "start_ticks": round((other.create_time() - psutil.boot_time()) * 100),
                "user_ns": round(times.user * 100) * TICK_NS,
                "system_ns": round(times.system * 100) * TICK_NS,
                "rss_bytes": memory.rss,
                "virtual_bytes": memory.vms,
                "swap_bytes": other.memory_full_info().swap,
                "minor_faults": found["minor_faults"],  # psutil does not read these
                "major_faults": found["major_faults"],
                "read_bytes": other.io_counters().read_bytes,
                "written_bytes": other.io_counters().write_bytes,
                "voluntary_switches": switches.voluntary,
                "involuntary_switches": switches.involuntary,
                "cgroup": found["cgroup"],
                "pid": process.pid,
                "ppid": os.getpid(),
                "uid": other.uids().effective,
                "threads": other.num_threads(),
                "command": other.name().encode()[:15],
                "state": b"T",
            }
        )
        assert found["threads"] == 3  # the main one, and the two of four that stay
        assert isinstance(found["minor_faults"], int)
        assert found["minor_faults"] > 100  # an interpreter touches more pages than that at its start


def test_cgroup_path_is_one_of_those_that_the_kernel_names(source: ProcfsSource) -> None:
    table = source.processes()
    number = row(table, os.getpid())["cgroup"]
    assert isinstance(number, int)
    paths = {line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}
    assert table.cgroups[number] in paths
    if paths != {"/"}:
        assert table.cgroups[number] != "/"
    assert set(table.cgroups) == set(table.records["cgroup"].tolist()) - {UNKNOWN}


def test_cgroup_keeps_its_number_and_gives_it_to_no_other(copy: Path) -> None:
    source = ProcfsSource(copy)
    first = source.processes()
    (copy / "402" / "cgroup").write_text("0::/moved\n")
    second = source.processes()
    (copy / "402" / "cgroup").write_bytes((FIXTURE / "402" / "cgroup").read_bytes())
    third = source.processes()
    source.close()
    assert row(first, 611)["cgroup"] == row(second, 611)["cgroup"] == row(third, 611)["cgroup"]
    moved = row(second, 402)["cgroup"]
    assert isinstance(moved, int)
    assert second.cgroups[moved] == "/moved"
    assert moved not in first.cgroups
    assert moved not in third.cgroups


@pytest.mark.parametrize(
    "name",
    [b'quo"te\\', b"new\nline", b"a) R 1 (b", b")", b"\xff\xfe\x80", b"tab\there", b"\x1b[31mred", "ñandú".encode()],
)
def test_hostile_name_is_read_as_it_is(source: ProcfsSource, name: bytes) -> None:
    with child(name) as process:
        found = row(source.processes(), process.pid)
    assert found["command"] == name
    assert found["ppid"] == os.getpid()


def test_cpu_time_counts_threads_that_ended(source: ProcfsSource) -> None:
    """A hundred of two hundred threads work 10 ms each and end; by thread, only the leader's own time would be left."""
    with child(threads=200) as process:
        process.stop()
        found = row(source.processes(), process.pid)
        other = psutil.Process(process.pid).cpu_times()
    assert found["threads"] == 101
    assert isinstance(found["user_ns"], int)
    assert isinstance(found["system_ns"], int)
    assert process.report >= 1.0
    # Threads that stay worked 10 ms each too.
    assert (found["user_ns"] + found["system_ns"]) / 1e9 >= process.report + 0.98
    assert (found["user_ns"], found["system_ns"]) == (
        round(other.user * 100) * TICK_NS,
        round(other.system * 100) * TICK_NS,
    )


def test_processes_that_come_and_go_do_not_disturb(source: ProcfsSource) -> None:
    """Every walk meets processes that end while it reads them; those that stay are there each time."""
    with child(b"stays") as stays:
        for _ in range(20):
            churn = [os.posix_spawn("/bin/true", ["true"], {}) for _ in range(10)]
            found = row(source.processes(), stays.pid)
            assert found["command"] == b"stays"
            for pid in churn:
                os.waitpid(pid, 0)


def test_io_that_this_user_may_not_read_is_unknown() -> None:
    """As another user than its own, a process's io is refused; the rest is not."""
    with child() as process:
        process.stop()
        source = ProcfsSource()
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            table = source.processes()
        finally:
            os.seteuid(user)
        source.close()
    found = row(table, process.pid if user == 0 else 1)
    assert (found["read_bytes"], found["written_bytes"]) == (UNKNOWN, UNKNOWN)
    assert found["virtual_bytes"] != UNKNOWN


def test_processes_that_this_user_may_not_see_are_said_once(copy: Path) -> None:
    """As under hidepid=1: the folder is there, its files are refused."""
    (copy / "611" / "stat").chmod(0)
    (copy / "612" / "stat").chmod(0)
    stream = StringIO()
    logs.setup("info", "json", stream)
    user = os.geteuid()
    with closing(ProcfsSource(copy)) as source:
        if user == 0:
            os.seteuid(65534)
        try:
            tables = [source.processes() for _ in range(3)]
        finally:
            os.seteuid(user)
            logs.setup("info", "console")
    assert [len(table) for table in tables] == [13, 13, 13]
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert (line["event"], line["processes"]) == ("some processes are hidden from this user", 2)


def test_reads_from_two_threads_take_turns(source: ProcfsSource) -> None:
    """Whoever shares a source, tables are whole and their cgroup numbers hold."""
    with ThreadPoolExecutor(4) as threads, child(b"stays") as stays:
        tables = list(threads.map(lambda _: source.processes(), range(40)))
    for table in tables:
        assert row(table, stays.pid)["command"] == b"stays"
        assert set(table.records["cgroup"].tolist()) - {UNKNOWN} == set(table.cgroups)


def test_captured_processes(copy: Path) -> None:
    table = processes_of(copy)
    assert table.records["pid"].tolist() == [1, 2, 17, 402, 611, 612, 700, 701, 702, 703, 704, 705, 706, 707, 708]
    commands = [b"close) S 1 (", b"\xff\xfebad", b"\xfd\xfcbad", b"other", b"defunct", b"paused", b"workers"]
    assert table.records["command"][-7:].tolist() == commands
    assert row(table, 17)["command"] == b"kworker/0:0H-ev"
    assert row(table, 1)["read_bytes"] == UNKNOWN  # the capture could not read it
    assert row(table, 402)["swap_bytes"] == 128 * 1024
    assert row(table, 708)["threads"] == 8
    assert row(table, 706)["state"] == b"Z"


def test_kernel_without_io_accounting_leaves_it_unknown(copy: Path) -> None:
    (copy / "611" / "io").unlink()
    found = row(processes_of(copy), 611)
    assert (found["read_bytes"], found["written_bytes"], found["uid"]) == (UNKNOWN, UNKNOWN, 33)


def test_process_that_ends_while_it_is_read_is_left_out(copy: Path) -> None:
    """A pipe for status holds the reader there until the rest of the process is gone."""
    status = (copy / "611" / "status").read_bytes()
    (copy / "611" / "status").unlink()
    os.mkfifo(copy / "611" / "status")
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(processes_of, copy)
        with (copy / "611" / "status").open("wb") as pipe:  # opens once the reader has
            for name in ("stat", "io", "cgroup"):
                (copy / "611" / name).unlink()
            pipe.write(status)
        pids = reading.result(30).records["pid"].tolist()
    assert 611 not in pids
    assert {402, 612} <= set(pids)


@pytest.mark.parametrize("missing", ["stat", "status"])
def test_process_that_is_half_gone_is_left_out(copy: Path, missing: str) -> None:
    (copy / "611" / missing).unlink()
    assert 611 not in processes_of(copy).records["pid"]


@pytest.mark.parametrize("missing", ["stat", "status"])
def test_process_whose_file_is_empty_is_left_out(copy: Path, missing: str) -> None:
    (copy / "611" / missing).write_bytes(b"")
    assert 611 not in processes_of(copy).records["pid"]


def test_status_longer_than_the_buffer_is_read_whole(copy: Path) -> None:
    status = (copy / "611" / "status").read_bytes()
    groups = b"Groups:\t" + b" ".join(b"%d" % number for number in range(10_000, 14_000)) + b" \n"
    (copy / "611" / "status").write_bytes(status.replace(b"Groups:\t \n", groups))
    assert row(processes_of(copy), 611) == row(processes_of(FIXTURE), 611)


def test_no_process_at_all_is_an_empty_table(tmp_path: Path) -> None:
    table = processes_of(tmp_path)
    assert (len(table), table.threads(), table.cgroups) == (0, 0, {})


@pytest.mark.parametrize("number", [b"-1", b"9" * 19])
def test_number_out_of_range_is_an_error_not_a_wrong_value(copy: Path, number: bytes) -> None:
    stat = (copy / "611" / "stat").read_bytes()
    fields = stat.split(b" ")
    fields[22] = number  # virtual size
    (copy / "611" / "stat").write_bytes(b" ".join(fields))
    with pytest.raises(SourceError, match=r"expected .+ from 0 to 2\*\*63 - 1, found one outside$"):
        processes_of(copy)


def test_root_that_is_no_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"^{tmp_path}/none: expected a mounted /proc: No such file or directory$"):
        ProcfsSource(tmp_path / "none")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with (
        closing(ProcfsSource(tmp_path)) as source,
        pytest.raises(SourceError, match=f"^{tmp_path}/meminfo: cannot be read: No such file or directory$"),
    ):
        source.ram()


def test_commands_are_bytes_that_numpy_does_not_pad(source: ProcfsSource) -> None:
    """S16 ends at the first NUL: no comm may reach its sixteenth byte."""
    assert np.char.str_len(source.processes().records["command"]).max() <= 15
