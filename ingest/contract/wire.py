"""The wire types of `POST /api/{ram,cpu,procesos}`, as msgspec structs: the exporter encodes them, raw decodes them.

Numbers are integers with their unit in the name; times are UTC milliseconds since the epoch. null (or absence) means
that the source could not know. A field may be added, with a default; none is renamed or changes meaning.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta, MsgspecError, Struct, json

from ingest.contract import limits


class Feed(StrEnum):
    """The three feeds: one word each in the kernel module, endpoint, table, channel and code."""

    RAM = "ram"
    CPU = "cpu"
    PROCESOS = "procesos"


# \Z and not $: Python's $ also matches before a final newline. The OpenAPI document shows $, which means \Z there.
HOST_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"
UUID_PATTERN: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
STATE_PATTERN: Final = r"^[A-Za-z]\Z"

Host = Annotated[str, Meta(min_length=1, max_length=limits.MAX_HOST_LENGTH, pattern=HOST_PATTERN)]
Uuid = Annotated[str, Meta(min_length=36, max_length=36, pattern=UUID_PATTERN)]
Kernel = Annotated[str, Meta(max_length=limits.MAX_KERNEL_LENGTH)]
Command = Annotated[str, Meta(max_length=limits.MAX_COMMAND_LENGTH)]
Cgroup = Annotated[str, Meta(max_length=limits.MAX_CGROUP_LENGTH)]
State = Annotated[str, Meta(min_length=1, max_length=1, pattern=STATE_PATTERN)]
Count = Annotated[int, Meta(ge=0, le=limits.INT64_MAX)]
Pid = Annotated[int, Meta(ge=0, le=limits.INT32_MAX)]
ParentPid = Annotated[int, Meta(ge=0, le=limits.INT32_MAX)]
Uid = Annotated[int, Meta(ge=0, le=limits.UINT32_MAX)]
Small = Annotated[int, Meta(ge=0, le=limits.INT32_MAX)]
Milliseconds = Annotated[int, Meta(ge=0, le=limits.MAX_SAMPLED_AT)]


class RamSample(Struct, frozen=True, kw_only=True):
    """Memory of one host at one moment, in bytes."""

    seq: Count
    sampled_at: Milliseconds
    total_bytes: Count
    free_bytes: Count
    available_bytes: Count
    cached_bytes: Count
    buffers_bytes: Count
    swap_total_bytes: Count
    swap_free_bytes: Count
    shared_bytes: Count | None = None
    slab_bytes: Count | None = None


class CoreTimes(Struct, frozen=True, kw_only=True):
    """Nanoseconds since boot by mode, of one CPU. `user_ns` holds `guest_ns`, as in /proc/stat."""

    cpu: Small
    user_ns: Count
    nice_ns: Count
    system_ns: Count
    idle_ns: Count
    iowait_ns: Count
    irq_ns: Count
    softirq_ns: Count
    steal_ns: Count
    guest_ns: Count
    guest_nice_ns: Count


class CpuSample(Struct, frozen=True, kw_only=True):
    """CPU time of one host, all CPUs together and each by itself, with load averages in thousandths."""

    seq: Count
    sampled_at: Milliseconds
    user_ns: Count
    nice_ns: Count
    system_ns: Count
    idle_ns: Count
    iowait_ns: Count
    irq_ns: Count
    softirq_ns: Count
    steal_ns: Count
    guest_ns: Count
    guest_nice_ns: Count
    load1_milli: Count
    load5_milli: Count
    load15_milli: Count
    context_switches: Count
    forks: Count
    cores: Annotated[list[CoreTimes], Meta(max_length=limits.MAX_CORES)]


class Process(Struct, frozen=True, kw_only=True):
    """One process: (`pid`, `start_ticks`) is its identity within a boot.

    `cpu_ns` is its CPU time since its start, `user_ns` the part of it in user mode, `cpu_delta_ns` the part since the
    stream's previous sample: over any range of samples the deltas add up to the CPU time spent in it.

    `pid` 0 stands in `exited` alone: a sum over processes of one command, user and cgroup whose own records the
    kernel's ring no longer had; `start_ticks` then only numbers them within the sample.
    """

    pid: Pid
    start_ticks: Count
    started_at: Milliseconds
    ppid: ParentPid
    uid: Uid
    command: Command
    state: State
    threads: Small
    cpu_ns: Count
    cpu_delta_ns: Count
    user_ns: Count
    rss_bytes: Count
    virtual_bytes: Count
    minor_faults: Count
    major_faults: Count
    swap_bytes: Count | None = None
    read_bytes: Count | None = None
    written_bytes: Count | None = None
    voluntary_switches: Count | None = None
    involuntary_switches: Count | None = None
    cgroup: Cgroup | None = None


class ProcesosSample(Struct, frozen=True, kw_only=True):
    """The process table of one host: whole in a keyframe, otherwise what changed since the previous sample.

    `total` and the counts by state are those of the whole table. `processes` holds those that did something,
    `exited` those that ended, with their final totals.
    """

    seq: Count
    sampled_at: Milliseconds
    keyframe: bool
    total: Small
    threads: Small
    running: Small
    sleeping: Small
    disk_sleep: Small
    stopped: Small
    traced: Small
    zombie: Small
    dead: Small
    idle: Small
    parked: Small
    other: Small
    processes: Annotated[list[Process], Meta(max_length=limits.MAX_PROCESSES)]
    exited: Annotated[list[Process], Meta(max_length=limits.MAX_PROCESSES)]


class _Envelope(Struct, frozen=True, kw_only=True):
    host: Host
    stream: Uuid
    """Made with the exporter's spool; `seq` counts up in it and never returns."""
    boot_id: Uuid
    """/proc/sys/kernel/random/boot_id."""
    kernel: Kernel = ""
    """`uname -r`."""


class RamPush(_Envelope, frozen=True, kw_only=True):
    """The body of `POST /api/ram`."""

    samples: Annotated[list[RamSample], Meta(min_length=1, max_length=limits.MAX_SAMPLES)]


class CpuPush(_Envelope, frozen=True, kw_only=True):
    """The body of `POST /api/cpu`."""

    samples: Annotated[list[CpuSample], Meta(min_length=1, max_length=limits.MAX_SAMPLES)]


class ProcesosPush(_Envelope, frozen=True, kw_only=True):
    """The body of `POST /api/procesos`."""

    samples: Annotated[list[ProcesosSample], Meta(min_length=1, max_length=limits.MAX_SAMPLES)]


Push = RamPush | CpuPush | ProcesosPush

PUSH_TYPES: Final[dict[Feed, type[RamPush | CpuPush | ProcesosPush]]] = {
    Feed.RAM: RamPush,
    Feed.CPU: CpuPush,
    Feed.PROCESOS: ProcesosPush,
}


class Accepted(Struct, frozen=True):
    """The body of a 201: sent after the commit. Samples that were stored already are `duplicates`."""

    accepted: int
    duplicates: int


def parse_accepted(answer: bytes | str) -> Accepted | None:
    """Return what a 201 says; None where no ingest API gave it, but something in between."""
    try:
        return json.decode(answer, type=Accepted)
    except (MsgspecError, UnicodeError, RecursionError):
        return None
