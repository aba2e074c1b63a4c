"""The source that reads the kernel modules' files: the whole process table in one read (kmod/ABI.md).

What a module cannot reach is completed from /proc: the total of swap, context switches and forks.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from exporter.model import CpuSample, CpuTimes, ExitRecords, ProcessTable, RamSample, SourceError
from exporter.sources import procfs_parse, record

T = TypeVar("T")

MAX_TABLE_BYTES: Final = 1 << 30
"""No table of PID_MAX_LIMIT (4 Mi) processes is larger; a file that is, is not ours."""

_FIRST_BUFFER: Final = 1 << 20
_EXITS_AT_ONCE: Final = 8192
_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC


class _Ram(msgspec.Struct, frozen=True):
    version: int
    total_bytes: int
    free_bytes: int
    available_bytes: int
    cached_bytes: int
    buffers_bytes: int
    shared_bytes: int
    slab_bytes: int
    swap_free_bytes: int | None = None


class _Cpu(msgspec.Struct, frozen=True):
    version: int
    modes: tuple[str, ...]
    cores: dict[int, tuple[int, ...]]
    total: tuple[int, ...]
    load: tuple[float, float, float]
    boot_time_seconds: int


class KmodSource:
    """Reads `latido_ram`, `latido_cpu`, `latido_procesos.bin` and `.exits` below `root`.

    Raises SourceError where one of the modules is not loaded, may not be read, or speaks another version. Each
    instance follows exits on its own, from its first table on. Calls from several threads are served in turn.
    """

    name = "kmod"

    def __init__(self, root: Path = Path("/proc")) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._buffer = bytearray(_FIRST_BUFFER)
        self._paths = (b"", dict[int, str]())
        self._follower = _Follower()
        self._descriptors: dict[str, int] = {}
        try:
            for name in ("latido_ram", "latido_cpu", "latido_procesos.bin"):
                self._descriptors[name] = self._open(name)
            self._exits = self._open_exits()
            # A version that this exporter does not know must show now, not at the first scrape.
            self.ram()
            self.cpu()
            self._table()
        except SourceError:
            self.close()
            raise

    def ram(self) -> RamSample:
        """Read /proc/latido_ram, and the total of swap from /proc/meminfo. Raises SourceError."""
        found = self._json("latido_ram", _Ram)
        plain = procfs_parse.meminfo(self._file("meminfo"), f"{self._root}/meminfo")
        return RamSample(
            total_bytes=found.total_bytes,
            free_bytes=found.free_bytes,
            available_bytes=found.available_bytes,
            cached_bytes=found.cached_bytes,
            buffers_bytes=found.buffers_bytes,
            swap_total_bytes=plain.swap_total_bytes,
            swap_free_bytes=plain.swap_free_bytes if found.swap_free_bytes is None else found.swap_free_bytes,
            shared_bytes=found.shared_bytes,
            slab_bytes=found.slab_bytes,
        )

    def cpu(self) -> CpuSample:
        """Read /proc/latido_cpu, and the counts of switches and forks from /proc/stat. Raises SourceError."""
        found = self._json("latido_cpu", _Cpu)
        counts = _counts(self._file("stat"), f"{self._root}/stat")
        where = f"{self._root}/latido_cpu"
        return CpuSample(
            total=_times(found.modes, found.total, where),
            cores={core: _times(found.modes, times, where) for core, times in found.cores.items()},
            load1=found.load[0],
            load5=found.load[1],
            load15=found.load[2],
            context_switches=counts[b"ctxt"],
            forks=counts[b"processes"],
            boot_time_seconds=found.boot_time_seconds,
        )

    def processes(self) -> ProcessTable:
        """Read every process, and those that ended since the last call. Raises SourceError."""
        with self._lock:
            table = self._table()
            cgroups = self._cgroups(table.paths)
            exits = None
            if self._exits is not None:
                seen, lost = self._follower.turn(table, self._read_exits)
                exits = ExitRecords(
                    records=record.as_processes(seen, cgroups),
                    missed=record.sums_as_processes(lost, cgroups),
                    missed_counts=lost["exits"].astype(np.int64),
                )
            # The records look into the buffer of the next read: they are copied into the model's own.
            return ProcessTable(record.as_processes(table.records, cgroups), cgroups, exits)

    def close(self) -> None:
        """Release the descriptors."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def _open(self, name: str) -> int:
        try:
            return os.open(self._root / name, _FLAGS)
        except OSError as error:
            hint = {
                FileNotFoundError: "the module is not loaded",
                PermissionError: "it is for root and the group that the module was loaded with",
            }.get(type(error), error.strerror)
            raise SourceError(f"{self._root / name}: cannot be opened: {hint}") from None

    def _open_exits(self) -> int | None:
        """Open the file of exits. A container's own /proc shows none: then what ended is not known."""
        name = "latido_procesos.exits"
        try:
            self._descriptors[name] = os.open(self._root / name, _FLAGS)
        except PermissionError:
            return None
        except OSError as error:
            raise SourceError(f"{self._root / name}: cannot be opened: {error.strerror}") from None
        return self._descriptors[name]

    def _table(self) -> record.Table:
        where = f"{self._root}/latido_procesos.bin"
        return record.parse_table(self._read_whole("latido_procesos.bin"), where)

    def _read_whole(self, name: str) -> memoryview:
        """Read a file from its start in one call, into the buffer that grows to hold it."""
        while True:
            try:
                size = os.preadv(self._descriptors[name], [self._buffer], 0)
            except OSError as error:
                raise SourceError(f"{self._root / name}: cannot be read: {error.strerror}") from None
            if size < len(self._buffer):
                return memoryview(self._buffer)[:size]
            if size >= MAX_TABLE_BYTES:
                raise SourceError(f"{self._root / name}: expected less than {MAX_TABLE_BYTES} bytes")
            self._buffer = bytearray(2 * len(self._buffer))

    def _read_exits(self, first: int, last: int) -> NDArray[np.void]:
        """Return the exits numbered `first` to `last` that the ring still holds."""
        size = record.RECORD_DTYPE.itemsize
        where = f"{self._root}/latido_procesos.exits"
        parts: list[bytes] = []
        while first <= last:
            try:
                data = os.pread(
                    self._descriptors["latido_procesos.exits"],
                    min(last - first + 1, _EXITS_AT_ONCE) * size,
                    first * size,
                )
            except OSError as error:
                raise SourceError(f"{where}: cannot be read: {error.strerror}") from None
            records = record.parse_records(data, where)
            if not len(records):
                raise SourceError(f"{where}: expected exits up to number {last}, found none from {first}")
            parts.append(data)
            first = int(records["number"][-1]) + 1
        found = record.parse_records(b"".join(parts), where)
        return found[found["number"] <= last]

    def _cgroups(self, paths: bytes) -> dict[int, str]:
        # They seldom change: the same bytes have the same names.
        if self._paths[0] != paths:
            self._paths = (paths, record.parse_paths(paths, f"{self._root}/latido_procesos.bin"))
        return self._paths[1]

    def _json(self, name: str, form: type[T]) -> T:
        with self._lock:
            data = bytes(self._read_whole(name))
        try:
            found = msgspec.json.decode(data, type=form, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SourceError(f"{self._root / name}: {error}") from None
        version = getattr(found, "version", None)
        if version != record.VERSION:
            raise SourceError(f"{self._root / name}: expected version {record.VERSION}, found {version}")
        return found

    def _file(self, name: str) -> bytes:
        try:
            return (self._root / name).read_bytes()
        except OSError as error:
            raise SourceError(f"{self._root / name}: cannot be read: {error.strerror}") from None


class _Follower:
    """Follows exits from table to table: which are new, and what was overwritten before it was read."""

    def __init__(self) -> None:
        self._loaded_ns: int | None = None
        self._newest = 0
        self._sums: NDArray[np.void] = np.zeros(0, dtype=record.SUM_DTYPE)

    def turn(self, table: record.Table, read: _ReadExits) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Return the records of exits up to this table since the last one, and the sums of those that are gone.

        The first table has none: what ended before was never in a table. A module that was loaded anew counts from
        1 again, and all its exits are new.
        """
        none = np.zeros(0, dtype=record.RECORD_DTYPE)
        lost = np.zeros(0, dtype=record.SUM_DTYPE)
        if self._loaded_ns is None:
            self._remember(table)
            return none, lost
        if self._loaded_ns != table.loaded_ns:
            self._newest, self._sums = 0, lost
        seen = read(self._newest + 1, table.newest_exit) if table.newest_exit > self._newest else none
        if len(seen) < table.newest_exit - self._newest:
            lost = record.missed(self._sums, table.sums, seen)
        self._remember(table)
        return seen, lost

    def _remember(self, table: record.Table) -> None:
        self._loaded_ns, self._newest, self._sums = table.loaded_ns, table.newest_exit, table.sums.copy()


class _ReadExits(Protocol):
    def __call__(self, first: int, last: int, /) -> NDArray[np.void]: ...


def _times(modes: tuple[str, ...], values: tuple[int, ...], where: str) -> CpuTimes:
    try:
        return CpuTimes(**dict(zip(modes, values, strict=True)))
    except (TypeError, ValueError):
        raise SourceError(f"{where}: expected a number for each of the ten modes, found {values} of {modes}") from None


def _counts(data: bytes, where: str) -> dict[bytes, int]:
    """Return `ctxt` and `processes` of /proc/stat."""
    found = {}
    for line in data.splitlines():
        name, _, value = line.partition(b" ")
        if name in {b"ctxt", b"processes"} and value.isdigit():
            found[name] = int(value)
    if len(found) < 2:  # noqa: PLR2004 - the two above
        raise SourceError(f"{where}: expected lines `ctxt` and `processes`, found {[*found]}")
    return found
