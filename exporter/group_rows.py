"""The rows that groups count: who lives, who ended since the table before, and the sums of ends that were missed.

Pure. Only who lives has size and state; the ended bring what they used in all, of which a part may be counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.model import PROCESS_DTYPE, ProcessTable, Records

Integers = NDArray[np.int64]

KIND_DTYPE: Final = np.dtype([(name, PROCESS_DTYPE[name]) for name in ("cgroup", "uid", "command")], align=True)
"""What sums of missed ends are told apart by."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A table whose first `living` rows live. `ends` says how many ends each row stands for; None: not known."""

    table: ProcessTable
    living: int
    ends: Integers | None

    @property
    def missed(self) -> slice:
        """Return which rows are sums of processes whose own records were missed."""
        exits = self.table.exits
        return slice(len(self.table.records) - (0 if exits is None else len(exits.missed)), None)


def rows_of(table: ProcessTable) -> Rows:
    """Return all rows of a table, those of its exits behind."""
    exits = table.exits
    if exits is None:
        return Rows(table, len(table), None)
    if not len(exits.records) and not len(exits.missed):
        return Rows(table, len(table), np.zeros(len(table), dtype=np.int64))
    records = table.rows
    if records is None:
        records = np.concatenate([table.records, exits.records, exits.missed])
    ends = np.concatenate(
        [np.zeros(len(table), dtype=np.int64), np.ones(len(exits.records), dtype=np.int64), exits.missed_counts]
    )
    return Rows(ProcessTable(records, table.cgroups, exits), len(table), ends)


def identities(records: Records) -> Integers:
    """Return (`pid`, `start_ticks`) as one number each, that sorts as they do. A boot has fewer than 2**40 ticks."""
    keys: Integers = records["pid"].astype(np.int64) << 40 | records["start_ticks"]
    return keys


def kinds_of(records: Records) -> Records:
    """Return what `match_missed` asks of processes, and no more: it is kept from table to table."""
    kinds = np.empty(len(records), dtype=KIND_DTYPE)
    for name in KIND_DTYPE.names or ():
        kinds[name] = records[name]
    return kinds


def match_missed(missed: Records, counts: Integers, gone: Records) -> list[NDArray[np.intp]]:
    """Return, for each sum of missed ends, which of the `gone` (processes of unknown end) it holds.

    `gone` has the columns of KIND_DTYPE. They are of its command, user and cgroup, and no more of them than it has
    ends. Where more are gone, the record of one may still come: the first are taken.
    """
    return [
        np.flatnonzero(
            (gone["command"] == row["command"]) & (gone["uid"] == row["uid"]) & (gone["cgroup"] == row["cgroup"])
        )[:count]
        for row, count in zip(missed, counts.tolist(), strict=True)
    ]
