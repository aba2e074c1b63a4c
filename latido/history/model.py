"""What the tables say, as values: times are aware UTC datetimes, CPU is in nanoseconds, memory and I/O in bytes.

None means that the source could not know, as in the wire contract, or that the row of names has been dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

Key = tuple[int, int]
"""(pid, start_ticks): a process within a boot."""


class NoDataError(Exception):
    """The database has nothing to answer with; the message says what it has instead."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A row of `hosts`: one spool's life on a host. Boot and kernel are the newest that it reported."""

    id: int
    host: str
    stream: str
    boot_id: str
    kernel: str


@dataclass(frozen=True, slots=True, order=True)
class Tick:
    """When a sample of the stream was taken, without what it carries."""

    seq: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Counts:
    """Processes and threads of the whole table; `states` in the order of the columns, `total` being their sum."""

    total: int
    threads: int
    states: dict[str, int]


@dataclass(frozen=True, slots=True)
class Names:
    """What a process was called, by whom run and where."""

    command: str | None
    uid: int | None
    cgroup: str | None
    ppid: int | None
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class Totals:
    """A process's I/O since its start, as of a moment."""

    read_bytes: int | None
    written_bytes: int | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """What one row stands for where the database summed several samples: `first` to the row's own.

    `totals` is the process's I/O by the first.
    """

    first: Tick
    samples: int
    smallest_rss_bytes: int
    largest_rss_bytes: int
    totals: Totals


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One process in one sample, or in the last one of a stretch, over which `cpu_delta_ns` is summed."""

    tick: Tick
    exited: bool
    pid: int
    start_ticks: int
    state: str
    threads: int
    cpu_ns: int
    cpu_delta_ns: int
    user_ns: int
    rss_bytes: int
    virtual_bytes: int
    minor_faults: int
    major_faults: int
    swap_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    voluntary_switches: int | None
    involuntary_switches: int | None
    names: Names
    summed: Stretch | None = None

    @property
    def stretch(self) -> Stretch:
        """What it stands for: mostly its one sample."""
        return self.summed or Stretch(
            self.tick, 1, self.rss_bytes, self.rss_bytes, Totals(self.read_bytes, self.written_bytes)
        )

    @property
    def key(self) -> Key:
        """Who it is, within its boot."""
        return self.pid, self.start_ticks


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU time that a process spent in the window under one name, and the first of its samples there.

    `first` is its I/O by then; counters only grow, so the smallest is the first.
    """

    key: Key
    cpu_ns: int
    first_seq: int
    first: Totals
    names: Names


@dataclass(frozen=True, slots=True)
class CpuTick:
    """CPU time of the whole machine since its boot by mode, as `/proc/stat` counts it: `user` holds the guests'."""

    tick: Tick
    modes: dict[str, int]


@dataclass(frozen=True, slots=True)
class Load:
    """Load averages, and how many CPUs there were."""

    load1: float
    load5: float
    load15: float
    cpus: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of the machine at `tick`."""

    tick: Tick
    total_bytes: int
    free_bytes: int
    available_bytes: int
    cached_bytes: int
    buffers_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int


@dataclass(frozen=True, slots=True)
class StreamReading:
    """All that was read of one stream for a moment and a window.

    `ticks` are those of the window in the order of `seq`; `before` is the last one ahead of it. `base` is every
    process's I/O at the window's start, None where the stream is not known that far back. `elsewhere` are `seq`s
    between the ticks that the window does not hold because the host's clock was set.
    """

    stream: Stream
    newest: Tick
    counts: Counts
    keyframe: Tick | None
    table: dict[Key, ProcessRow]
    base: dict[Key, Totals] | None
    spent: list[Spent]
    ended: list[ProcessRow]
    before: Tick | None
    ticks: list[Tick]
    elsewhere: frozenset[int]
    cpu: list[CpuTick]
    load: Load | None
    memory: Memory | None
