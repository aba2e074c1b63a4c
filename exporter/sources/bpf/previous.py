"""What the table before said of the processes in this one: by (pid, start), in arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.sources.record import RECORD_DTYPE

KEPT_NS: Final = 10_000_000_000
"""So long what was known of a process outlives its row: the kernel tells its end some time after it left the table."""

_FLOORS: Final = ("pid", "start_ns", "user_ns", "system_ns")
_FLOOR_DTYPE: Final = np.dtype(
    [(name, RECORD_DTYPE[name]) for name in _FLOORS] + [("left_ns", np.dtype("<i8"))], align=True
)


@dataclass(frozen=True, slots=True)
class Match:
    """Which rows of two tables are one process, by `pid` and `start_ns`."""

    place: NDArray[np.intp]
    """For each row of the later table, where in the earlier it is."""
    same: NDArray[np.bool_]
    """And whether it is there at all."""
    earlier: int
    """Rows of the earlier table."""

    def values(self, column: NDArray[np.int64], default: int) -> NDArray[np.int64]:
        """Return for each row of the later table its value in a column of the earlier; `default` where it is new."""
        if not self.earlier:
            return np.full(len(self.same), default, dtype=np.int64)
        found: NDArray[np.int64] = np.where(self.same, column[self.place], default)
        return found

    def left(self) -> NDArray[np.intp]:
        """Return which rows of the earlier table are not in the later."""
        is_left = np.ones(self.earlier, dtype=np.bool_)
        is_left[self.place[self.same]] = False
        return np.flatnonzero(is_left)


def match(before: NDArray[np.void], now: NDArray[np.void]) -> Match:
    """Compare two tables, which both have `pid` and `start_ns`; `before` ascends by pid, and none is twice in it."""
    if not len(before):
        return Match(np.zeros(len(now), dtype=np.intp), np.zeros(len(now), dtype=np.bool_), 0)
    pids = np.ascontiguousarray(before["pid"])
    wanted = np.ascontiguousarray(now["pid"])
    place = np.searchsorted(pids, wanted)
    place[place == len(pids)] = 0
    return Match(place, (pids[place] == wanted) & (before["start_ns"][place] == now["start_ns"]), len(before))


def keep_departed(
    departed: NDArray[np.void], before: NDArray[np.void], left: NDArray[np.intp], now_ns: int
) -> NDArray[np.void]:
    """Return the rows of `before` that `left` names, and those of `departed` that left less than KEPT_NS ago.

    `before` and `departed` have one dtype, with `left_ns`; both ascend by pid, and so does the result.
    """
    if not len(left) and not len(departed):
        return departed
    gone = before[left]
    gone["left_ns"] = now_ns
    kept = np.concatenate([departed[departed["left_ns"] > now_ns - KEPT_NS], gone])
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

    def hold_ended(self, records: NDArray[np.void]) -> None:
        """Raise user and system time of processes that ended (of RECORD_DTYPE), in place, where below the last ones.

        They may have left the table some reads ago.
        """
        for floors in (self._last, self._departed):
            if len(records) and len(floors):
                _raise(records, floors, match(floors, records))

    def hold(self, records: NDArray[np.void], now_ns: int) -> Match:
        """Do the same with a table, and keep what is said now. Return what it has in common with the one before.

        `records` ascend by pid; `now_ns` is of a clock that never steps back.
        """
        common = match(self._last, records)
        _raise(records, self._last, common)
        self._departed = keep_departed(self._departed, self._last, common.left(), now_ns)
        self._last = np.zeros(len(records), dtype=_FLOOR_DTYPE)
        for name in _FLOORS:
            self._last[name] = records[name]
        return common


def _raise(records: NDArray[np.void], floors: NDArray[np.void], common: Match) -> None:
    user_floor = common.values(floors["user_ns"], 0)
    system_floor = common.values(floors["system_ns"], 0)
    user, system = records["user_ns"], records["system_ns"]
    total = np.maximum(user + system, user_floor + system_floor)
    system = np.maximum(system, system_floor)
    user = np.maximum(total - system, user_floor)
    records["user_ns"] = user
    records["system_ns"] = total - user
