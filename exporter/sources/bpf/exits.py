"""What ended: taken from the BPF ring that the kernel shares by mmap, and from the sums of what found no room there.

Each exit is either a record in the ring or part of a sum, never both and never neither, so nothing has to be
reconciled. The layout of a ring's memory is that of kernel/bpf/ringbuf.c: a page with the reader's position, a page
with the writer's, then the data, mapped twice so that a record that wraps is still in one piece.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.model import UNKNOWN
from exporter.sources.bpf import syscall
from exporter.sources.record import RECORD_DTYPE, REST, SUM_DTYPE, TOTALS

SUMS: Final = 1024
"""Entries of the map `sums`."""
KEY_BYTES: Final = 32
"""struct sum_key."""

_BUSY: Final = 1 << 31
"""BPF_RINGBUF_BUSY_BIT: reserved, not written yet."""
_SLOT_DTYPE: Final = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", RECORD_DTYPE)])
_SHARED_DTYPE: Final = np.dtype(
    [("newest", "<i8"), ("overflowed", "<i8"), ("rest", SUM_DTYPE), ("records", "<u4"), ("reserved", "<u4")]
)
"""`shared` of latido.bpf.c."""

_REST_USER: Final = 2**32 - 1


class ExitRing:
    """Takes records out of the ring. There is one reader: this. Raises OSError where it cannot be mapped.

    The two positions stay mapped; of the data only what was written since, and only while it is read: a ring in memory
    for good would count, twice, as the exporter's own.
    """

    def __init__(self, descriptor: int, ring_bytes: int) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        self._descriptor = descriptor
        self._bytes = ring_bytes
        self._page = page
        self._reader = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        try:
            self._writer = mmap.mmap(descriptor, page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        except OSError:
            self._reader.close()
            raise

    def take(self) -> NDArray[np.void]:
        """Return what ended since the last call, in the order of the ends; their room is free again. Raises OSError."""
        position = np.frombuffer(self._reader, "<u8", count=1)
        start = int(position[0])
        # The writer publishes its position after the slot's header: what is below it is there, or says that it is busy.
        written = int(np.frombuffer(self._writer, "<u8", count=1)[0])
        count = (written - start) // _SLOT_DTYPE.itemsize
        if not count:
            return np.zeros(0, dtype=RECORD_DTYPE)
        before, first = divmod(start % self._bytes, self._page)
        with mmap.mmap(
            self._descriptor,
            first + written - start,
            mmap.MAP_SHARED,
            mmap.PROT_READ,
            offset=(2 + before) * self._page,
        ) as data:
            records = _finished(data, first, count)
        position[0] = start + len(records) * _SLOT_DTYPE.itemsize
        return records

    def close(self) -> None:
        """Give the memory back."""
        self._reader.close()
        self._writer.close()


def _finished(data: mmap.mmap, first: int, count: int) -> NDArray[np.void]:
    """Return a copy of the records of `count` slots from byte `first` on, up to one that is still being written."""
    slots = np.frombuffer(data, _SLOT_DTYPE, count=count, offset=first)
    busy = np.flatnonzero(slots["length"] & _BUSY)
    return slots["record"][: busy[0] if len(busy) else count].copy()


class ExitSums:
    """Follows the sums of exits that found no room in the ring. They only grow; each call returns their growth."""

    def __init__(self, sums: int, shared: int) -> None:
        self._sums = sums
        self._shared = mmap.mmap(shared, os.sysconf("SC_PAGE_SIZE"), mmap.MAP_SHARED, mmap.PROT_READ)
        self._overflowed = 0
        self._before: dict[bytes, np.void] = {}

    def grown(self) -> NDArray[np.void]:
        """Return the growth since the last call (of SUM_DTYPE), by command, user and cgroup. Raises OSError."""
        shared = np.frombuffer(self._shared, _SHARED_DTYPE, count=1)[0].copy()
        # Counted after the sum was: one that is under way now makes this differ again at the next call.
        if shared["overflowed"] == self._overflowed:
            return np.zeros(0, dtype=SUM_DTYPE)
        self._overflowed = int(shared["overflowed"])
        values = syscall.lookup_all(self._sums, KEY_BYTES, SUM_DTYPE.itemsize, SUMS)
        rest = shared["rest"].copy()
        rest["uid"], rest["cgroup"], rest["flags"] = _REST_USER, UNKNOWN, REST
        after = np.append(np.frombuffer(values, SUM_DTYPE), rest)
        grown = after.copy()
        for row in grown:
            before = self._before.get(_key(row))
            if before is not None:
                row["exits"] -= before["exits"]
                for name in TOTALS:
                    if row[name] != UNKNOWN:
                        row[name] -= before[name]
        self._before = {_key(row): row for row in after}
        changed: NDArray[np.void] = grown[(grown["exits"] > 0) | (grown["user_ns"] + grown["system_ns"] > 0)]
        return changed

    def close(self) -> None:
        """Give the memory back."""
        self._shared.close()


def _key(row: np.void) -> bytes:
    return bytes(row[["cgroup", "uid", "flags", "command"]].tobytes())
