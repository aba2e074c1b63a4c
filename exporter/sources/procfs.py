"""The source that works everywhere: /proc, read file by file (proc(5)).

Four files a process: stat, status, io, cgroup. They are read one after another, so a process may use a tick of CPU
between them; each value is true at its own moment. Threads that ended are in stat's and io's sums.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from exporter.model import (
    PROCESS_DTYPE,
    UNKNOWN,
    CpuSample,
    ProcessTable,
    RamSample,
    Records,
    SourceError,
)
from exporter.sources import procfs_parse as parse
from latido import logs

log = logs.get(__name__)

T = TypeVar("T")
_Row = tuple[int | bytes, ...]

_BUFFER: Final = 8192
"""Holds every file of a process in one read; status grows past it only with thousands of supplementary groups."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_CLOEXEC
_MAY_BE_UNKNOWN: Final = frozenset(
    {"swap_bytes", "read_bytes", "written_bytes", "voluntary_switches", "involuntary_switches", "cgroup"}
)
_ROWS_AT_ONCE: Final = 512
"""A row of Python objects takes ten times what it does in a table: few are held at a time."""
_NEVER_NEGATIVE: Final = tuple(
    name for name in PROCESS_DTYPE.names or () if PROCESS_DTYPE[name].kind == "i" and name not in _MAY_BE_UNKNOWN
)


class ProcfsSource:
    """Reads the /proc that is mounted at `root`.

    Raises SourceError where `root` cannot be opened. Calls from several threads are served in turn.
    """

    name = "procfs"

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        try:
            self._directory = os.open(root, _DIRECTORY)
        except OSError as error:
            raise SourceError(f"{root}: expected a mounted /proc: {error.strerror}") from None
        self._lock = threading.Lock()
        self._cgroups = _Cgroups()
        self._refused = 0

    def ram(self) -> RamSample:
        """Read /proc/meminfo. Raises SourceError."""
        return parse.meminfo(self._read("meminfo"), f"{self._root}/meminfo")

    def cpu(self) -> CpuSample:
        """Read /proc/stat and /proc/loadavg. Raises SourceError."""
        return parse.cpu_sample(
            self._read("stat"), f"{self._root}/stat", self._read("loadavg"), f"{self._root}/loadavg"
        )

    def processes(self) -> ProcessTable:
        """Read every process that this user may see; one that ends meanwhile is left out. Raises SourceError."""
        with self._lock:
            try:
                names = os.listdir(self._directory)  # noqa: PTH208 - of a descriptor; pathlib knows only paths
            except OSError as error:
                raise SourceError(f"{self._root}: cannot be listed: {error.strerror}") from None
            pids = sorted(int(name) for name in names if name.isdecimal())
            parts: list[Records] = []
            rows: list[_Row] = []
            refused = 0
            for pid in pids:
                if len(rows) == _ROWS_AT_ONCE:
                    parts.append(self._records(rows))
                    rows.clear()
                try:
                    row = self._process(pid)
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it ended since the listing
                except PermissionError:
                    refused += 1
                    continue
                except OSError as error:
                    raise SourceError(f"{self._root}/{pid}: {error.strerror}") from None
                if row is not None:
                    rows.append(row)
            parts.append(self._records(rows))
            self._report(refused)
            paths = self._cgroups.turn()
        return ProcessTable(records=np.concatenate(parts), cgroups=paths)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._directory)

    def _process(self, pid: int) -> _Row | None:
        """Return a row of PROCESS_DTYPE, or None where the process ended. Raises OSError, SourceError."""
        where = f"{self._root}/{pid}"
        directory = self._directory
        data = _read(f"{pid}/stat", directory)
        if not data:
            return None
        stat = parse.process_stat(data, f"{where}/stat")
        data = _read(f"{pid}/status", directory)
        if not data:
            return None
        status = parse.process_status(data, f"{where}/status")
        io = self._optional(pid, "io", parse.process_io)
        read_bytes, written_bytes = (UNKNOWN, UNKNOWN) if io is None else io
        cgroup = self._optional(pid, "cgroup", self._cgroups.key)
        return (  # in the order of PROCESS_DTYPE
            stat.start_ticks,
            stat.user_ns,
            stat.system_ns,
            status.rss_bytes,
            stat.virtual_bytes,
            status.swap_bytes,
            stat.minor_faults,
            stat.major_faults,
            read_bytes,
            written_bytes,
            status.voluntary_switches,
            status.involuntary_switches,
            UNKNOWN if cgroup is None else cgroup,
            pid,
            stat.ppid,
            status.uid,
            stat.threads,
            stat.command,
            stat.state,
        )

    def _optional(self, pid: int, name: str, parser: Callable[[bytes, str], T]) -> T | None:
        """Parse a file that this user may be refused, or this kernel may be built without: then None.

        Raises FileNotFoundError or ProcessLookupError where the whole process is gone.
        """
        path = f"{pid}/{name}"
        try:
            data = _read(path, self._directory)
        except PermissionError:
            return None
        except FileNotFoundError:
            os.stat(f"{pid}/stat", dir_fd=self._directory)
            return None
        return parser(data, f"{self._root}/{path}") if data else None

    def _records(self, rows: list[_Row]) -> Records:
        try:
            records = np.array(rows, dtype=PROCESS_DTYPE)
        except OverflowError:
            raise self._out_of_range() from None
        for name in _NEVER_NEGATIVE:
            if records.size and records[name].min() < 0:
                raise self._out_of_range(name, int(records["pid"][records[name].argmin()]))
        return records

    def _out_of_range(self, name: str = "a value", pid: int | None = None) -> SourceError:
        where = self._root if pid is None else self._root / str(pid)
        return SourceError(f"{where}: expected {name} from 0 to 2**63 - 1, found one outside")

    def _report(self, refused: int) -> None:
        if refused and not self._refused:
            log.warning(
                "some processes are hidden from this user",
                processes=refused,
                root=str(self._root),
                hint="/proc is mounted with hidepid; run as root or in the group of its gid= option",
            )
        self._refused = refused

    def _read(self, name: str) -> bytes:
        try:
            return _read(name, self._directory)
        except OSError as error:
            raise SourceError(f"{self._root}/{name}: cannot be read: {error.strerror}") from None


class _Cgroups:
    """Gives each cgroup path a number that it keeps while any process is in it, and that no other path gets later."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._kept: dict[str, int] = {}
        self._paths: dict[str, int] = {}
        self._files: dict[bytes, int] = {}

    def key(self, data: bytes, path: str) -> int:
        """Return the number for the content of a /proc/PID/cgroup. Most processes share theirs: it is parsed once."""
        number = self._files.get(data)
        if number is None:
            where = parse.process_cgroup(data, path)
            number = self._paths.get(where)
            if number is None:
                number = self._kept.get(where)
                if number is None:
                    number = next(self._numbers)
                self._paths[where] = number
            self._files[data] = number
        return number

    def turn(self) -> dict[int, str]:
        """End a table: return its paths by number, and forget those that no process is in any more."""
        self._kept, self._paths, self._files = self._paths, {}, {}
        return {number: where for where, number in self._kept.items()}


def _read(path: str, directory: int) -> bytes:
    """Return the whole of a file below `directory`. Raises OSError."""
    descriptor = os.open(path, _FILE, dir_fd=directory)
    try:
        data = os.read(descriptor, _BUFFER)
        if len(data) < _BUFFER:
            return data  # /proc fills a buffer that has room: this was all
        chunks = [data]
        while data := os.read(descriptor, _BUFFER):
            chunks.append(data)
        return b"".join(chunks)
    finally:
        os.close(descriptor)
