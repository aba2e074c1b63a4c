"""What every source yields: `RamSample`, `CpuSample` and `ProcessTable`.

Units are bytes and nanoseconds, as integers; times are those of the kernel. What a source cannot know is None, or
`UNKNOWN` in a column, never 0: a metric of it is absent and a wire field null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

UNKNOWN: Final = -1
"""In a column of `PROCESS_DTYPE`: this source could not read the value."""

USER_HZ: Final = 100
"""Ticks a second of /proc's times on every Linux architecture that Debian builds (include/asm-generic/param.h)."""

STATES: Final[Mapping[bytes, str]] = {
    b"R": "running",
    b"S": "sleeping",
    b"D": "disk_sleep",
    b"T": "stopped",
    b"t": "traced",
    b"Z": "zombie",
    b"X": "dead",
    b"I": "idle",
    b"P": "parked",
}
"""State letters of proc(5), field 3 of /proc/PID/stat, to the names used in metrics, rows and frames."""

PROCESS_DTYPE: Final[np.dtype[np.void]] = np.dtype(
    [
        ("start_ticks", "<i8"),  # since boot in USER_HZ, rounded down: field 22 of /proc/PID/stat
        ("user_ns", "<i8"),  # CPU time of the thread group, dead threads included
        ("system_ns", "<i8"),
        ("rss_bytes", "<i8"),
        ("virtual_bytes", "<i8"),
        ("swap_bytes", "<i8"),  # may be UNKNOWN
        ("minor_faults", "<i8"),
        ("major_faults", "<i8"),
        ("read_bytes", "<i8"),  # from block devices; may be UNKNOWN
        ("written_bytes", "<i8"),  # to block devices; may be UNKNOWN
        ("voluntary_switches", "<i8"),  # may be UNKNOWN
        ("involuntary_switches", "<i8"),  # may be UNKNOWN
        ("cgroup", "<i8"),  # key of ProcessTable.cgroups; may be UNKNOWN
        ("pid", "<i4"),  # thread group id
        ("ppid", "<i4"),  # 0: none
        ("uid", "<u4"),  # effective
        ("threads", "<i4"),
        ("command", "S16"),  # comm: up to 15 arbitrary bytes but NUL
        ("state", "S1"),  # a key of STATES, or a letter that a newer kernel invented
    ],
    align=True,  # a column is read in half the time where no value lies across two words
)
"""One process. (`pid`, `start_ticks`) is its identity within a boot."""

Records = NDArray[np.void]
"""A structured array with the fields of `PROCESS_DTYPE`; a source may have more room between them."""


@dataclass(frozen=True, slots=True)
class RamSample:
    """Memory of the machine in bytes, from /proc/meminfo (proc(5)) or the same kernel counters."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    cached_bytes: int
    buffers_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    shared_bytes: int | None = None
    slab_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Nanoseconds since boot by mode, of one CPU or all (proc(5), /proc/stat). `user` holds `guest`, as there."""

    user_ns: int
    nice_ns: int
    system_ns: int
    idle_ns: int
    iowait_ns: int
    irq_ns: int
    softirq_ns: int
    steal_ns: int
    guest_ns: int
    guest_nice_ns: int


@dataclass(frozen=True, slots=True)
class CpuSample:
    """CPU time of the machine. `cores` maps the kernel's CPU numbers to their times; offline CPUs are absent."""

    total: CpuTimes
    cores: Mapping[int, CpuTimes]
    load1: float
    load5: float
    load15: float
    context_switches: int
    forks: int
    boot_time_seconds: int
    """Unix time of boot, as `btime` of /proc/stat. The kernel derives it from the clock, so it can move by a second."""


@dataclass(frozen=True, slots=True)
class ExitRecords:
    """Processes that ended between two tables of one source, for the later table.

    `records` has a row each with its final totals, in the order of their ends; a process in it is in no later table.
    It may have been in no earlier one either. `missed` are those whose own records were overwritten before they
    could be read: a row (pid 0) for each command, user and cgroup with the sums of `missed_counts` processes. Both
    have dtype `PROCESS_DTYPE`; sizes and threads are 0, the state is X.
    """

    records: Records
    missed: Records
    missed_counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """Every process (thread group leader) at one moment, pids ascending, none twice.

    `records` has the fields of `PROCESS_DTYPE`; `cgroups` maps its `cgroup` column, and that of `exits`, to paths
    ("/" is the root). `exits` says what ended since the table that this source gave before; None where it cannot know.
    A process that just ended may be in neither for a moment: then it is in the exits of a later table.
    """

    records: Records
    cgroups: Mapping[int, str]
    exits: ExitRecords | None = None
    rows: Records | None = None
    """`records`, then `exits.records`, then `exits.missed`, where the source has them in one piece anyway."""

    def __len__(self) -> int:
        """Return how many processes there are."""
        return len(self.records)

    def threads(self) -> int:
        """Return how many threads all processes have together."""
        return int(self.records["threads"].sum())

    def states(self) -> dict[str, int]:
        """Return how many processes are in each state; every name of `STATES` is there, and `other` for new letters."""
        counts = np.bincount(np.ascontiguousarray(self.records["state"]).view(np.uint8), minlength=256)
        result = dict.fromkeys([*STATES.values(), "other"], 0)
        for letter in np.flatnonzero(counts).tolist():
            result[STATES.get(bytes([letter]), "other")] += int(counts[letter])
        return result


class SourceError(Exception):
    """A source cannot read what it must. The message names the file, what was found and what was expected."""


class Source(Protocol):
    """A way into the kernel. Each call reads anew, blocks for the read alone, and raises SourceError."""

    @property
    def name(self) -> str:
        """Return which it is; one that falls back to another changes its name."""

    def ram(self) -> RamSample:
        """Read memory."""

    def cpu(self) -> CpuSample:
        """Read CPU time and load."""

    def processes(self) -> ProcessTable:
        """Read every process."""

    def close(self) -> None:
        """Release descriptors; no read may follow."""


def command_text(command: bytes) -> str:
    """Return a command name as text: UTF-8, bytes that are not become U+FFFD (as the wire and every label show it)."""
    return command.decode("utf-8", "replace")
