"""Parsers of /proc: bytes in, values out (proc(5); fs/proc/array.c, fs/proc/stat.c, fs/proc/meminfo.c).

Each raises SourceError that names the file, what was found and what was expected, and nothing else, whatever the
bytes. Those that run once a process avoid decoding, regular expressions and intermediate objects: at 10,000
processes every microsecond here is a hundredth of a second of a scrape.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from exporter.model import UNKNOWN, USER_HZ, CpuSample, CpuTimes, RamSample, SourceError

TICK_NS: Final = 1_000_000_000 // USER_HZ
COMMAND_BYTES: Final = 15
"""TASK_COMM_LEN (include/linux/sched.h) without its NUL. stat shows workers of the kernel with up to 63."""

_MODES: Final = 10
"""Numbers of a cpu line since Linux 2.6.33: user to guest_nice."""
_DIGITS: Final = 20
"""Of 2**64 - 1."""
_SHOWN: Final = 120
"""How many bytes of what was found an error repeats."""

_V1_CONTROLLERS: Final = ("name=systemd", "memory", "pids", "cpu", "cpuacct")
"""Which hierarchy of cgroup v1 says best what a process belongs to: the service manager's, then those that
container runtimes always set."""


class ProcessStat(NamedTuple):
    """What /proc/PID/stat says."""

    command: bytes
    state: bytes
    ppid: int
    minor_faults: int
    major_faults: int
    user_ns: int
    system_ns: int
    threads: int
    start_ticks: int
    virtual_bytes: int


class ProcessStatus(NamedTuple):
    """What /proc/PID/status says. Switches are those of the main thread: the kernel shows no others there."""

    uid: int
    rss_bytes: int
    swap_bytes: int
    voluntary_switches: int
    involuntary_switches: int


def process_stat(data: bytes, path: str) -> ProcessStat:
    """Parse /proc/PID/stat. The command may hold any byte, so the last `)` ends it (field 2 of proc(5))."""
    try:
        start, end = data.index(b"("), data.rindex(b")")
        fields = data[end + 2 :].split(b" ", 21)
        return ProcessStat(
            command=data[start + 1 : min(end, start + 1 + COMMAND_BYTES)],
            state=fields[0],
            ppid=int(fields[1]),
            minor_faults=int(fields[7]),
            major_faults=int(fields[9]),
            user_ns=int(fields[11]) * TICK_NS,
            system_ns=int(fields[12]) * TICK_NS,
            threads=int(fields[17]),
            start_ticks=int(fields[19]),
            virtual_bytes=int(fields[20]),
        )
    except (ValueError, IndexError):
        raise _unexpected(path, data, "`PID (COMMAND) STATE` and 49 numbers") from None


def process_status(data: bytes, path: str) -> ProcessStatus:
    """Parse /proc/PID/status.

    Lines are looked for in the kernel's order; a name cannot fake one, since its newline is escaped here. A process
    without memory of its own (a kernel thread, a zombie) has no Vm lines, and uses none: 0. VmRSS rather than field
    24 of stat, since newer kernels sum the per-CPU counters for the one and not for the other.
    """
    try:
        uid = data.index(b"\nUid:\t") + 6
        effective = int(data[uid : data.index(b"\n", uid)].split(b"\t")[1])
        rss = _kibibytes(data, b"\nVmRSS:", uid)
        swap = _kibibytes(data, b"\nVmSwap:", uid)
        # From the end: only few lines follow these two.
        switches = data.rfind(b"\nvoluntary_ctxt_switches:\t")
        if switches < 0:
            return ProcessStatus(effective, rss, swap, UNKNOWN, UNKNOWN)
        voluntary = data.index(b"\n", switches + 1)
        involuntary = data.index(b"\nnonvoluntary_ctxt_switches:\t", voluntary) + 29
        return ProcessStatus(
            effective,
            rss,
            swap,
            int(data[switches + 26 : voluntary]),
            int(data[involuntary : data.index(b"\n", involuntary)]),
        )
    except (ValueError, IndexError):
        raise _unexpected(path, data, "lines `Uid:`, `VmRSS:`, `VmSwap:` and `voluntary_ctxt_switches:`") from None


def _kibibytes(data: bytes, line: bytes, start: int) -> int:
    found = data.find(line, start)
    if found < 0:
        return 0
    found += len(line)
    return int(data[found : data.index(b" kB", found)]) * 1024


def process_io(data: bytes, path: str) -> tuple[int, int]:
    """Parse /proc/PID/io: bytes read from and written to block devices, by the thread group, dead threads included."""
    try:
        read = data.index(b"\nread_bytes: ") + 13
        written = data.index(b"\nwrite_bytes: ", read) + 14
        return int(data[read : data.index(b"\n", read)]), int(data[written : data.index(b"\n", written)])
    except ValueError:
        raise _unexpected(path, data, "lines `read_bytes:` and `write_bytes:`") from None


def process_cgroup(data: bytes, path: str) -> str:
    """Parse /proc/PID/cgroup: the path that says what the process belongs to ("/" is the root).

    That is the path of cgroup v2 (line `0::`), unless it is the root and there are hierarchies of v1 beside it, as on
    a hybrid host, where v2 holds no controllers. Then it is the first that is not the root, of the service manager's
    hierarchy, memory, pids, cpu, cpuacct and any other.
    """
    unified: str | None = None
    hierarchies: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").removesuffix("\n").split("\n"):  # a name may hold other line ends
        number, _, rest = line.partition(":")
        controllers, colon, where = rest.partition(":")
        if not (number.isdecimal() and colon and where.startswith("/")):
            raise _unexpected(path, data, "lines `NUMBER:CONTROLLERS:/PATH`")
        if controllers:
            hierarchies.update(dict.fromkeys(controllers.split(","), where))
        else:
            unified = where
    if unified is not None and (unified != "/" or not hierarchies):
        return unified
    preferred: Iterable[str] = (hierarchies[name] for name in _V1_CONTROLLERS if name in hierarchies)
    return next((where for where in [*preferred, *hierarchies.values()] if where != "/"), "/")


def meminfo(data: bytes, path: str) -> RamSample:
    """Parse /proc/meminfo. Every kernel since 3.14 has all the lines that are asked for."""
    lines: dict[bytes, bytes] = {}
    for line in data.splitlines():
        name, _, value = line.partition(b":")
        lines[name] = value

    def bytes_of(name: bytes) -> int:
        number, _, unit = lines.get(name, b"").strip().partition(b" ")
        if not (_is_number(number) and unit == b"kB"):
            raise _unexpected(path, lines.get(name, b"no such line"), f"`{name.decode()}: NUMBER kB`")
        return int(number) * 1024

    return RamSample(
        total_bytes=bytes_of(b"MemTotal"),
        free_bytes=bytes_of(b"MemFree"),
        available_bytes=bytes_of(b"MemAvailable"),
        cached_bytes=bytes_of(b"Cached"),
        buffers_bytes=bytes_of(b"Buffers"),
        swap_total_bytes=bytes_of(b"SwapTotal"),
        swap_free_bytes=bytes_of(b"SwapFree"),
        shared_bytes=bytes_of(b"Shmem") if b"Shmem" in lines else None,
        slab_bytes=bytes_of(b"Slab") if b"Slab" in lines else None,
    )


def cpu_sample(stat: bytes, stat_path: str, loadavg: bytes, loadavg_path: str) -> CpuSample:
    """Parse /proc/stat and /proc/loadavg."""
    total: CpuTimes | None = None
    cores: dict[int, CpuTimes] = {}
    counts: dict[bytes, int] = {}
    for number, line in enumerate(stat.splitlines(), 1):
        name, _, values = line.partition(b" ")
        if name == b"cpu":
            total = _cpu_times(values, line, f"{stat_path}, line {number}")
        elif name.startswith(b"cpu"):
            if not _is_number(name[3:]):
                raise _unexpected(f"{stat_path}, line {number}", line, "`cpuNUMBER`")
            cores[int(name[3:])] = _cpu_times(values, line, f"{stat_path}, line {number}")
        elif name in {b"ctxt", b"btime", b"processes"}:
            counts[name] = _count(values, line, f"{stat_path}, line {number}")
    missing = [name.decode() for name in (b"ctxt", b"btime", b"processes") if name not in counts]
    if total is None or not cores or missing:
        raise _unexpected(stat_path, stat, f"lines `cpu`, `cpu0` and so on, {', '.join(missing) or 'ctxt'}")
    load1, load5, load15 = _loads(loadavg, loadavg_path)
    return CpuSample(
        total=total,
        cores=cores,
        load1=load1,
        load5=load5,
        load15=load15,
        context_switches=counts[b"ctxt"],
        forks=counts[b"processes"],
        boot_time_seconds=counts[b"btime"],
    )


def _cpu_times(values: bytes, line: bytes, where: str) -> CpuTimes:
    parts = values.split()
    if len(parts) < _MODES or not all(map(_is_number, parts[:_MODES])):
        raise _unexpected(where, line, f"{_MODES} numbers, as since Linux 2.6.33")
    return CpuTimes(*(int(part) * TICK_NS for part in parts[:_MODES]))


def _count(value: bytes, line: bytes, where: str) -> int:
    if not _is_number(value):
        raise _unexpected(where, line, "a number")
    return int(value)


def _loads(data: bytes, path: str) -> tuple[float, float, float]:
    parts = data.split()
    if len(parts) < 3 or not all(_is_number(part.replace(b".", b"", 1)) for part in parts[:3]):  # noqa: PLR2004 - three
        raise _unexpected(path, data, "three load averages")
    return float(parts[0]), float(parts[1]), float(parts[2])


def _is_number(text: bytes) -> bool:
    return len(text) <= _DIGITS and text.isdigit()


def _unexpected(where: str, found: bytes, expected: str) -> SourceError:
    shown = repr(found[:_SHOWN])[1:] + ("…" if len(found) > _SHOWN else "")
    return SourceError(f"{where}: expected {expected}, found {shown}")
