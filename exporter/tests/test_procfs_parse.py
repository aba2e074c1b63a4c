"""The parsers of /proc on text as kernels write it, and on anything else: only SourceError escapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.model import UNKNOWN, SourceError
from exporter.sources import procfs_parse as parse

FIXTURE = Path(__file__).parent / "fixtures" / "proc"


def stat_line(comm: bytes) -> bytes:
    """Return a stat line whose fields from the fourth are 1, 2, 3 and so on."""
    return b"7 (" + comm + b") S " + b" ".join(str(number).encode() for number in range(1, 50)) + b"\n"


@pytest.mark.parametrize(
    ("comm", "expected"),
    [
        (b"bash", b"bash"),
        (b"a b) R 1 (c", b"a b) R 1 (c"),
        (b"new\nline", b"new\nline"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"", b""),
        (b")", b")"),
        (b"kworker/0:0H-events_highpri", b"kworker/0:0H-ev"),
    ],
)
def test_command_of_stat_is_found_whatever_it_holds(comm: bytes, expected: bytes) -> None:
    found = parse.process_stat(stat_line(comm), "stat")
    assert found.command == expected
    assert (found.state, found.ppid) == (b"S", 1)


def test_fields_of_stat() -> None:
    """Field n of proc(5) holds n - 3 here."""
    assert parse.process_stat(stat_line(b"x"), "stat") == parse.ProcessStat(
        command=b"x",
        state=b"S",
        ppid=1,
        minor_faults=7,
        major_faults=9,
        user_ns=110_000_000,
        system_ns=120_000_000,
        threads=17,
        start_ticks=19,
        virtual_bytes=20,
    )


def test_status() -> None:
    assert parse.process_status((FIXTURE / "402" / "status").read_bytes(), "status") == parse.ProcessStatus(
        uid=0, rss_bytes=9284 * 1024, swap_bytes=128 * 1024, voluntary_switches=1, involuntary_switches=0
    )


def test_status_tells_the_effective_user() -> None:
    assert parse.process_status((FIXTURE / "611" / "status").read_bytes(), "status").uid == 33


def test_kernel_thread_uses_no_memory() -> None:
    status = parse.process_status((FIXTURE / "2" / "status").read_bytes(), "status")
    assert (status.rss_bytes, status.swap_bytes) == (0, 0)


def test_switches_that_the_kernel_does_not_show_are_unknown() -> None:
    status = parse.process_status(b"Name:\tx\nUid:\t1\t2\t3\t4\n", "status")
    assert (status.uid, status.voluntary_switches, status.involuntary_switches) == (2, UNKNOWN, UNKNOWN)


def test_io_counts_block_devices() -> None:
    content = b"rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\ncancelled_write_bytes: 7\n"
    assert parse.process_io(content, "io") == (5, 6)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"0::/\n", "/"),
        (b"0::/system.slice/ssh.service\n", "/system.slice/ssh.service"),
        (b"9:name=systemd:/a\n4:memory:/b\n0::/c\n", "/c"),
        (b"9:name=systemd:/a\n4:memory:/b\n0::/\n", "/a"),
        (b"9:name=systemd:/\n8:pids:/p\n4:memory:/b\n0::/\n", "/b"),
        (b"3:cpu,cpuacct:/docker/1\n2:blkio:/x\n", "/docker/1"),
        (b"3:cpuset:/only\n1:cpu:/\n0::/\n", "/only"),
        (b"2:cpu:/\n0::/\n", "/"),
        (b"0::/odd\x0bname:with:colons\n", "/odd\x0bname:with:colons"),
        (b"0::/\xff\n", "/\ufffd"),
    ],
)
def test_cgroup_on_unified_hybrid_and_legacy_hosts(content: bytes, expected: str) -> None:
    assert parse.process_cgroup(content, "cgroup") == expected


def test_meminfo_without_optional_lines_leaves_them_unknown() -> None:
    lines = (b"MemTotal", b"MemFree", b"MemAvailable", b"Buffers", b"Cached", b"SwapTotal", b"SwapFree")
    sample = parse.meminfo(b"".join(name + b":   %d kB\n" % number for number, name in enumerate(lines)), "meminfo")
    assert (sample.free_bytes, sample.cached_bytes) == (1024, 4096)
    assert (sample.shared_bytes, sample.slab_bytes) == (None, None)


def test_cpu_numbers_have_holes_where_cpus_are_offline() -> None:
    numbers = b"1 2 3 4 5 6 7 8 9 10"
    stat = b"cpu  " + numbers + b"\ncpu0 " + numbers + b"\ncpu3 " + numbers + b"\nctxt 5\nbtime 6\nprocesses 7\n"
    sample = parse.cpu_sample(stat, "stat", b"0.10 1.00 12.34 1/99 1234\n", "loadavg")
    assert sorted(sample.cores) == [0, 3]
    assert sample.cores[3].guest_nice_ns == 100_000_000
    assert (sample.load1, sample.load5, sample.load15) == (0.1, 1.0, 12.34)
    assert (sample.context_switches, sample.boot_time_seconds, sample.forks) == (5, 6, 7)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda: parse.process_stat(b"7 bash S 1\n", "/proc/7/stat"),
            r"^/proc/7/stat: expected `PID \(COMMAND\) STATE` and 49 numbers, found '7 bash S 1\\n'$",
        ),
        (lambda: parse.process_status(b"Name:\tx\n", "/proc/7/status"), r"^/proc/7/status: expected lines `Uid:`, "),
        (lambda: parse.process_io(b"rchar: 1\n", "/proc/7/io"), r"^/proc/7/io: expected lines `read_bytes:`"),
        (lambda: parse.process_cgroup(b"0:\n", "/proc/7/cgroup"), r"^/proc/7/cgroup: expected lines "),
        (
            lambda: parse.meminfo(b"MemTotal: 5 pages\n", "/proc/meminfo"),
            r"^/proc/meminfo: expected `MemTotal: NUMBER kB`, found ' 5 pages'$",
        ),
        (
            lambda: parse.cpu_sample(b"cpu 1 2 3\n", "/proc/stat", b"", "/proc/loadavg"),
            r"^/proc/stat, line 1: expected 10 numbers, as since Linux 2.6.33, found 'cpu 1 2 3'$",
        ),
    ],
)
def test_error_names_file_and_line_and_what_was_found_and_expected(call: Callable[[], object], expected: str) -> None:
    with pytest.raises(SourceError, match=expected):
        call()


PARSERS: dict[str, Callable[[bytes], object]] = {
    "stat": lambda data: parse.process_stat(data, "x"),
    "status": lambda data: parse.process_status(data, "x"),
    "io": lambda data: parse.process_io(data, "x"),
    "cgroup": lambda data: parse.process_cgroup(data, "x"),
    "meminfo": lambda data: parse.meminfo(data, "x"),
    "cpu": lambda data: parse.cpu_sample(data, "x", b"0 0 0", "y"),
    "loadavg": lambda data: parse.cpu_sample((FIXTURE / "stat").read_bytes(), "x", data, "y"),
}
REAL = {
    "stat": "402/stat",
    "status": "402/status",
    "io": "402/io",
    "cgroup": "402/cgroup",
    "meminfo": "meminfo",
    "cpu": "stat",
    "loadavg": "loadavg",
}


@pytest.mark.parametrize("name", PARSERS)
@settings(deadline=None)  # a busy machine is no fault of a parser
@given(data=st.data())
def test_only_source_error_escapes(name: str, data: st.DataObject) -> None:
    """Real content with a piece cut out and another put in: closer to the parsers' edges than noise is."""
    real = (FIXTURE / REAL[name]).read_bytes()
    start = data.draw(st.integers(0, len(real)))
    end = data.draw(st.integers(start, len(real)))
    piece = data.draw(
        st.one_of(st.binary(max_size=40), st.sampled_from([b"9" * 5000, b"-1", b" ", b"\n", b"1_0", b"e9"]))
    )
    try:
        PARSERS[name](real[:start] + piece + real[end:])
    except SourceError as error:
        assert str(error).startswith(("x", "y"))  # noqa: PT017 - most inputs are fine, and then there is no error


@pytest.mark.parametrize("name", PARSERS)
@settings(deadline=None)  # a busy machine is no fault of a parser
@given(content=st.binary(max_size=400))
def test_only_source_error_escapes_from_noise(name: str, content: bytes) -> None:
    try:
        PARSERS[name](content)
    except SourceError as error:
        assert "expected" in str(error)  # noqa: PT017 - noise may be a valid file, and then there is no error
