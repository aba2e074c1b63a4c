"""Process tables for tests of grouping: what is not said is a user's process that sleeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.grouping import Grouped
from exporter.model import PROCESS_DTYPE, UNKNOWN, ProcessTable


@dataclass(frozen=True)
class Row:
    """One process. `cgroup` "" is one that could not be read."""

    pid: int
    command: bytes = b"cat"
    cgroup: str = "/"
    uid: int = 0
    ppid: int = 1
    virtual_bytes: int = 1 << 20
    start_ticks: int = 100
    state: bytes = b"S"


def kernel_thread(pid: int, command: bytes) -> Row:
    """Return a thread of the kernel."""
    return Row(pid, command, ppid=0 if pid == 2 else 2, virtual_bytes=0, state=b"I")


def table(*rows: Row) -> ProcessTable:
    """Return a table of rows in any order."""
    ordered = sorted(rows, key=lambda row: row.pid)
    paths = list(dict.fromkeys(row.cgroup for row in ordered if row.cgroup))
    records = np.zeros(len(ordered), PROCESS_DTYPE)
    for name in ("pid", "command", "uid", "ppid", "virtual_bytes", "start_ticks", "state"):
        records[name] = [getattr(row, name) for row in ordered]
    records["cgroup"] = [paths.index(row.cgroup) + 7 if row.cgroup else UNKNOWN for row in ordered]
    return ProcessTable(records, {number + 7: path for number, path in enumerate(paths)})


def labels(grouped: Grouped) -> list[str]:
    """Return each row's label, once every promise of `Grouped` is held."""
    assert len(set(grouped.labels)) == len(grouped.labels)
    assert set(grouped.positions.tolist()) == set(range(len(grouped.labels)))
    return [grouped.labels[position] for position in grouped.positions.tolist()]
