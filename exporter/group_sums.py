"""Sums of a process table by label: exact, since everything stays an integer; numpy goes over each column once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.grouping import Grouped
from exporter.model import STATES, UNKNOWN, ProcessTable

Column = NDArray[np.int64]
Matrix = NDArray[np.int64]

COUNTERS: Final = (
    "user_ns",
    "system_ns",
    "read_bytes",
    "written_bytes",
    "minor_faults",
    "major_faults",
    "voluntary_switches",
    "involuntary_switches",
)
"""Columns of PROCESS_DTYPE that only grow."""

CPU: Final = [COUNTERS.index("user_ns"), COUNTERS.index("system_ns")]
"""Where CPU time is in COUNTERS."""

STATE_NAMES: Final = (*STATES.values(), "other")

GAUGES: Final = ("threads", "rss_bytes", "virtual_bytes", "swap_bytes")
"""Columns of PROCESS_DTYPE that are summed as they are."""

_SWAP: Final = "swap_bytes"
_NARROW: Final = 1 << 16
_STATE_OF_LETTER: Final = np.full(256, len(STATE_NAMES) - 1, dtype=np.intp)
_STATE_OF_LETTER[[letter[0] for letter in STATES]] = np.arange(len(STATES))


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the rows of each label of a table. The first axis, or the only one, is the label's position.

    Counters are summed over all rows; gauges, processes, start and states over those that live.
    """

    increases: Matrix
    """By COUNTERS: what they grew by."""
    known: NDArray[np.bool_]
    """By COUNTERS: whether any member's value was ever read."""
    gauges: Matrix
    """By GAUGES; values that are UNKNOWN are left out."""
    swap_known: NDArray[np.bool_]
    processes: Matrix
    oldest: Matrix
    """The smallest start_ticks of a member, where there is one."""
    states: Matrix
    """By STATE_NAMES."""


class ByLabel:
    """Adds columns up by label: goes over one at a time, so that what it needs meanwhile is small and stays at hand."""

    def __init__(self, grouped: Grouped) -> None:
        self.count = len(grouped.labels)
        positions = grouped.positions
        # Of 16 bits numpy sorts by radix, in a seventh of the time.
        narrow = positions.astype(np.uint16) if self.count <= _NARROW else positions
        self._order = np.argsort(narrow, kind="stable")
        # Every label has a row: reduceat has no empty slice to get wrong.
        sizes = np.bincount(positions, minlength=self.count)
        self._starts = np.cumsum(sizes) - sizes

    def add(self, column: Column) -> Column:
        """Return the sum of each label's values."""
        sums: Column = np.add.reduceat(column[self._order], self._starts)
        return sums

    def smallest(self, column: Column) -> Column:
        """Return the smallest of each label's values."""
        least: Column = np.minimum.reduceat(column[self._order], self._starts)
        return least

    def any(self, column: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether any of each label's values is true."""
        if column.all():
            return np.ones(self.count, dtype=np.bool_)
        found: NDArray[np.bool_] = np.logical_or.reduceat(column[self._order], self._starts)
        return found


def sum_by_label(table: ProcessTable, grouped: Grouped, counters: Iterable[tuple[Column, Column]], living: int) -> Sums:
    """Sum `table` by label; `counters` gives, by COUNTERS, what each row's grew by and is now, which may be UNKNOWN.

    The first `living` rows of the table live. The others' gauges must be 0.
    """
    records, count = table.records, len(grouped.labels)
    by_label = ByLabel(grouped)
    increases = np.zeros((count, len(COUNTERS)), dtype=np.int64)
    known = np.zeros((count, len(COUNTERS)), dtype=np.bool_)
    for index, (increase, used) in enumerate(counters):
        increases[:, index] = by_label.add(increase)
        known[:, index] = by_label.any(used != UNKNOWN)
    gauges = np.zeros((count, len(GAUGES)), dtype=np.int64)
    swap_known = np.zeros(count, dtype=np.bool_)
    for index, name in enumerate(GAUGES):
        column = records[name].astype(np.int64)
        if name == _SWAP:
            is_known = column != UNKNOWN
            swap_known = by_label.any(is_known)
            column[~is_known] = 0
        gauges[:, index] = by_label.add(column)
    positions = grouped.positions[:living]
    started = records["start_ticks"].copy()
    started[living:] = np.iinfo(np.int64).max
    letters = _STATE_OF_LETTER[np.ascontiguousarray(records["state"][:living]).view(np.uint8)]
    width = len(STATE_NAMES)
    return Sums(
        increases=increases,
        known=known,
        gauges=gauges,
        swap_known=swap_known,
        processes=np.bincount(positions, minlength=count),
        oldest=by_label.smallest(started),
        states=np.bincount(positions * width + letters, minlength=count * width).reshape(count, width),
    )
