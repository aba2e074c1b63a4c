"""Readings as a bridge would give them, made from a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.contract.wire import CoreTimes, CpuSample, Feed, ProcesosSample, Process, RamSample
from latido.top.fleet import Clock
from latido.top.frames import AnySample, Reading

GIB = 1 << 30
START = 1_790_000_000_000
STREAM = "6f1c0000-0000-4000-8000-000000000001"
OTHER_STREAM = "6f1c0000-0000-4000-8000-000000000002"
FEEDS = {RamSample: Feed.RAM, CpuSample: Feed.CPU, ProcesosSample: Feed.PROCESOS}


def clock(seconds: float = 0.0) -> Clock:
    return Clock(START + round(seconds * 1000), 1000.0 + seconds)


def reading(
    sample: AnySample, *, host: str = "web-1", stream: str = STREAM, snapshot: bool = False, late: bool = False
) -> Reading:
    return Reading(feed=FEEDS[type(sample)], host=host, stream=stream, late=late, snapshot=snapshot, sample=sample)


def ram(seq: int, *, available: int = 4 * GIB) -> RamSample:
    return RamSample(
        seq=seq,
        sampled_at=START + 5000 * seq,
        total_bytes=16 * GIB,
        free_bytes=GIB,
        available_bytes=available,
        cached_bytes=3 * GIB,
        buffers_bytes=GIB,
        swap_total_bytes=2 * GIB,
        swap_free_bytes=GIB,
    )


def cpu(seq: int, *, user: int = 0, idle: int = 0, iowait: int = 0) -> CpuSample:
    times = {f"{mode}_ns": 0 for mode in ("nice", "system", "irq", "softirq", "steal", "guest", "guest_nice")}
    times |= {"user_ns": user, "idle_ns": idle, "iowait_ns": iowait}
    return CpuSample(
        seq=seq,
        sampled_at=START + 5000 * seq,
        load1_milli=1250,
        load5_milli=800,
        load15_milli=400,
        context_switches=1,
        forks=1,
        cores=[CoreTimes(cpu=number, **times) for number in (0, 1)],
        **times,
    )


def process(
    pid: int,
    cpu_ns: int = 0,
    *,
    delta: int = 0,
    command: str = "worker",
    read: int | None = 0,
    rss: int = 1 << 20,
    cgroup: str | None = "/system.slice/worker.service",
) -> Process:
    return Process(
        pid=pid,
        start_ticks=pid * 10,
        started_at=START,
        ppid=1,
        uid=1000,
        command=command,
        state="S",
        threads=2,
        cpu_ns=cpu_ns,
        cpu_delta_ns=delta,
        user_ns=cpu_ns,
        rss_bytes=rss,
        virtual_bytes=rss,
        minor_faults=0,
        major_faults=0,
        read_bytes=read,
        written_bytes=read,
        cgroup=cgroup,
    )


def procesos(
    seq: int,
    processes: Sequence[Process],
    exited: Sequence[Process] = (),
    *,
    keyframe: bool = False,
    at: int | None = None,
) -> ProcesosSample:
    return ProcesosSample(
        seq=seq,
        sampled_at=START + 5000 * seq if at is None else at,
        keyframe=keyframe,
        total=len(processes),
        threads=2 * len(processes),
        running=0,
        sleeping=len(processes),
        disk_sleep=0,
        stopped=0,
        traced=0,
        zombie=0,
        dead=0,
        idle=0,
        parked=0,
        other=0,
        processes=list(processes),
        exited=list(exited),
    )
