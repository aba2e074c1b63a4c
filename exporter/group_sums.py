"""Sums of a process table by label: exact, since everything stays an integer; numpy goes over each column once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.grouping import Grouped
from exporter.model import STATES, UNKNOWN, ProcessTable

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


def sum_by_label(table: ProcessTable, grouped: Grouped, increases: Matrix, used: Matrix, living: int) -> Sums:
    """Sum `table`, and `increases` and `used` (both COUNTERS by row; `used` may be UNKNOWN), by label.

    The first `living` rows of the table live. The others' gauges must be 0.
    """
    records, count = table.records, len(grouped.labels)
    order = np.argsort(grouped.positions, kind="stable")
    # Every label has a row: reduceat has no empty slice to get wrong.
    starts = np.searchsorted(grouped.positions[order], np.arange(count))

    def add(matrix: Matrix) -> Matrix:
        sums: Matrix = np.add.reduceat(matrix[:, order], starts, axis=1)
        return sums.T

    gauges = np.stack([records[name].astype(np.int64) for name in GAUGES])
    swap_known = gauges[-1] != UNKNOWN
    gauges[-1][~swap_known] = 0
    positions = grouped.positions[:living]
    started = records["start_ticks"].copy()
    started[living:] = np.iinfo(np.int64).max
    letters = _STATE_OF_LETTER[np.ascontiguousarray(records["state"][:living]).view(np.uint8)]
    width = len(STATE_NAMES)
    return Sums(
        increases=add(increases),
        known=np.logical_or.reduceat((used != UNKNOWN)[:, order], starts, axis=1).T,
        gauges=add(gauges),
        swap_known=np.logical_or.reduceat(swap_known[order], starts),
        processes=np.bincount(positions, minlength=count),
        oldest=np.minimum.reduceat(started[order], starts),
        states=np.bincount(positions * width + letters, minlength=count * width).reshape(count, width),
    )
