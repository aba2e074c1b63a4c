"""The BPF source: one walk of the kernel's own iterator for every process, a shared ring for those that ended.

Memory and CPU of the machine are read from /proc: two files, whatever the number of processes.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.model import CpuSample, ExitRecords, ProcessTable, RamSample, SourceError
from exporter.sources.bpf.cgroups import Cgroups
from exporter.sources.bpf.exits import ExitRing, ExitSums
from exporter.sources.bpf.loader import Loaded, Options, load
from exporter.sources.bpf.previous import Floors
from exporter.sources.procfs import ProcfsSource
from exporter.sources.record import RECORD_DTYPE, TAIL, TRAILER_DTYPE, become_processes, sums_as_records

_FIRST_BYTES: Final = 1 << 18
_ROOM: Final = 1 << 15
"""The iterator gives at most this many bytes a read (kernel/bpf/bpf_iter.c: eight pages of 4 KiB)."""
_BOOT_ID: Final = "sys/kernel/random/boot_id"
_NAME: Final = "bpf iterator"


class BpfSource:
    """Reads processes through programs of its own in the kernel.

    Raises SourceError where they cannot be loaded; the message says what is missing. Each instance follows exits on its
    own, from its first table on. Calls from several threads are served in turn. pids are those of the machine,
    whatever pid namespace this runs in.
    """

    name = "bpf"

    def __init__(self, procfs: Path = Path("/proc"), options: Options = Options()) -> None:  # noqa: B008 - frozen
        _check_same_kernel(procfs)
        self._procfs = ProcfsSource(procfs)
        self._lock = threading.Lock()
        self._expected = _FIRST_BYTES
        self._floors = Floors()
        self._first = True
        loaded: Loaded | None = None
        ring: ExitRing | None = None
        try:
            self._cgroups = Cgroups(procfs)
            loaded = load(options)
            ring = ExitRing(loaded.maps["ring"], options.ring_bytes)
            self._sums = ExitSums(loaded.maps["sums"], loaded.maps["bss"])
        except (OSError, SourceError) as error:
            for part in (ring, loaded, self._procfs):
                if part is not None:
                    part.close()
            raise error if isinstance(error, SourceError) else SourceError(f"bpf: {error}") from None
        self._loaded, self._ring = loaded, ring

    def ram(self) -> RamSample:
        """Read /proc/meminfo. Raises SourceError."""
        return self._procfs.ram()

    def cpu(self) -> CpuSample:
        """Read /proc/stat and /proc/loadavg. Raises SourceError."""
        return self._procfs.cpu()

    def processes(self) -> ProcessTable:
        """Read every process, and those that ended since the last call. Raises SourceError."""
        with self._lock:
            try:
                # Exits first: who has ended by now is not met in the walk.
                ended, sums = self._ring.take(), self._sums.grown()
                if self._first:  # what ended before the first table was never in one
                    ended, sums = ended[:0], sums[:0]
                    self._first = False
                self._floors.hold_ended(ended)
                rows = self._walk(np.concatenate([ended, sums_as_records(sums)]))
            except OSError as error:
                raise SourceError(f"{_NAME}: cannot be read: {error.strerror or error}") from None
            living = len(rows) - len(ended) - len(sums)
            walked = rows[:living]
            records = ascending(walked)
            if records is not walked:
                rows = np.concatenate([records, rows[living:]])
                living = len(records)
            records, ended = rows[:living], rows[living : living + len(ended)]
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            common = self._floors.hold(records, now)
            paths = self._cgroups.name(records, ended, common, now)
            rows = become_processes(rows, paths)
            exits = ExitRecords(
                records=rows[living : living + len(ended)],
                missed=rows[living + len(ended) :],
                missed_counts=sums["exits"].astype(np.int64),
            )
            return ProcessTable(rows[:living], paths, exits, rows)

    def close(self) -> None:
        """Detach the programs and free what they used."""
        self._ring.close()
        self._sums.close()
        self._loaded.close()
        self._procfs.close()

    def _walk(self, behind: NDArray[np.void]) -> NDArray[np.void]:
        """Read one walk; return its records (of RECORD_DTYPE) and those `behind` it in one piece, writable.

        Raises OSError, SourceError.
        """
        # Of this walk alone: the table's rows stay where the kernel wrote them.
        buffer = bytearray(self._expected + behind.nbytes)
        size = 0
        iterator = self._loaded.open_walk()
        try:
            # A read after the trailer would start again, and give those that began meanwhile.
            while size % RECORD_DTYPE.itemsize != TRAILER_DTYPE.itemsize:
                if len(buffer) - size < _ROOM:
                    buffer.extend(bytes(len(buffer) // 2 + _ROOM))
                with memoryview(buffer) as view, contextlib.suppress(BlockingIOError):
                    # Raised after a million threads without a leader among them: to be called again.
                    read = os.readv(iterator, [view[size:]])
                    if not read:
                        break
                    size += read
        finally:
            os.close(iterator)
        self._expected = size + size // 16 + 2 * _ROOM
        end = check_walk(buffer, size)
        buffer[end : end + behind.nbytes] = behind.tobytes()  # over the trailer, and longer where there is no room
        return np.frombuffer(buffer, RECORD_DTYPE, count=end // RECORD_DTYPE.itemsize + len(behind))


def _check_same_kernel(procfs: Path) -> None:
    """Refuse a /proc that is not of the kernel this runs on: a program reads no other's processes."""
    try:
        here, there = (root.joinpath(_BOOT_ID).read_bytes() for root in (Path("/proc"), procfs))
    except OSError as error:
        raise SourceError(
            f"bpf: {procfs} cannot be told to be of this kernel: {error.filename}: {error.strerror}"
        ) from None
    if here != there:
        raise SourceError(f"bpf: {procfs} is of another boot or machine than the kernel that programs would read")


def check_walk(data: bytearray, size: int) -> int:
    """Return how many bytes of records (of RECORD_DTYPE) the first `size` bytes begin with. Raises SourceError."""
    end = size - TRAILER_DTYPE.itemsize
    if end < 0 or end % RECORD_DTYPE.itemsize:
        raise SourceError(
            f"{_NAME}: expected records of {RECORD_DTYPE.itemsize} bytes and a trailer, found {size} bytes"
        )
    trailer = np.frombuffer(data, TRAILER_DTYPE, count=1, offset=end)[0]
    records = end // RECORD_DTYPE.itemsize
    if trailer["magic"].tobytes() != TAIL or trailer["records"] != records:
        raise SourceError(f"{_NAME}: expected a trailer after {records} records: the walk was cut off")
    return end


def ascending(records: NDArray[np.void]) -> NDArray[np.void]:
    """Return the records by pid ascending, each once, the later of two with one pid.

    In a pid namespace of its own the walk goes by the numbers there, and the records hold the machine's.
    """
    pids = records["pid"]
    if np.all(pids[1:] > pids[:-1]):
        return records
    order = np.argsort(pids, kind="stable")
    pids = pids[order]
    chosen: NDArray[np.void] = records[order[np.append(pids[1:] != pids[:-1], True)]]
    return chosen
