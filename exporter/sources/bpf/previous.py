"""What the table before said of the processes in this one: by (pid, start), in arrays."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.sources.record import RECORD_DTYPE

KEPT_NS: Final = 10_000_000_000
"""So long what was known of a process outlives its row: the kernel tells its end some time after it left the table."""

_FLOORS: Final = ("pid", "start_ns", "user_ns", "system_ns")
_FLOOR_DTYPE: Final = np.dtype([(name, RECORD_DTYPE[name]) for name in _FLOORS] + [("left_ns", np.dtype("<i8"))])


def match(before: NDArray[np.void], now: NDArray[np.void]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return for each row of `now` where the same process is in `before`, and whether it is there at all.

    Both have `pid` and `start_ns`; `before` ascends by pid, and none is twice in it.
    """
    if not len(before):
        return np.zeros(len(now), dtype=np.intp), np.zeros(len(now), dtype=np.bool_)
    place = np.searchsorted(before["pid"], now["pid"])
    place[place == len(before)] = 0
    return place, (before["pid"][place] == now["pid"]) & (before["start_ns"][place] == now["start_ns"])


def keep_departed(
    departed: NDArray[np.void], before: NDArray[np.void], now: NDArray[np.void], now_ns: int
) -> NDArray[np.void]:
    """Return those of `before` that are not in `now`, and those of `departed` that left less than KEPT_NS ago.

    `before` and `departed` have one dtype, with `left_ns`; all three ascend by pid, and so does the result.
    """
    _, there = match(now, before)
    left = before[~there].copy()
    left["left_ns"] = now_ns
    kept = np.concatenate([departed[departed["left_ns"] > now_ns - KEPT_NS], left])
    kept = kept[np.argsort(kept["pid"], kind="stable")]
    pids = kept["pid"]
    latest: NDArray[np.void] = kept[np.append(pids[1:] != pids[:-1], True)] if len(kept) else kept
    return latest


class Floors:
    """Keeps user and system time of a process from falling.

    Ticks say in which proportion its runtime was spent in the two modes. As the proportion moves, one of them can come
    out below what it was; the kernel keeps what /proc said last (cputime_adjust(), kernel/sched/cputime.c), and a BPF
    program can read that but not renew it. So this does the same for what this source said last: the sum stays the
    runtime, and both times only grow.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.void] = np.zeros(0, dtype=_FLOOR_DTYPE)
        self._departed: NDArray[np.void] = np.zeros(0, dtype=_FLOOR_DTYPE)

    def hold(self, records: NDArray[np.void]) -> None:
        """Raise user and system time of `records` (of RECORD_DTYPE), in place, where they are below the last ones."""
        _raise(records, self._last)

    def hold_ended(self, records: NDArray[np.void]) -> None:
        """Do the same with records of processes that ended: they may have left the table some reads ago."""
        _raise(records, self._last)
        _raise(records, self._departed)

    def remember(self, records: NDArray[np.void], now_ns: int) -> None:
        """Take what is said now. `records` ascend by pid; `now_ns` is of a clock that never steps back."""
        self._departed = keep_departed(self._departed, self._last, records, now_ns)
        self._last = np.zeros(len(records), dtype=_FLOOR_DTYPE)
        for name in _FLOORS:
            self._last[name] = records[name]


def _raise(records: NDArray[np.void], floors: NDArray[np.void]) -> None:
    if not len(floors) or not len(records):
        return
    place, same = match(floors, records)
    user_floor = np.where(same, floors["user_ns"][place], 0)
    system_floor = np.where(same, floors["system_ns"][place], 0)
    total = np.maximum(records["user_ns"] + records["system_ns"], user_floor + system_floor)
    system = np.maximum(records["system_ns"], system_floor)
    user = np.maximum(total - system, user_floor)
    records["user_ns"] = user
    records["system_ns"] = total - user
