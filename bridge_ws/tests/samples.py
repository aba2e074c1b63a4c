"""Wire samples as a host would send them, made from a few numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ingest.contract.wire import CoreTimes, CpuSample, ProcesosSample, Process, RamSample

GIB = 1 << 30
STARTED_AT = 1_790_000_000_123


def ram(seq: int, sampled_at: int) -> RamSample:
    return RamSample(
        seq=seq,
        sampled_at=sampled_at,
        total_bytes=16 * GIB,
        free_bytes=4 * GIB + seq,
        available_bytes=9 * GIB,
        cached_bytes=3 * GIB,
        buffers_bytes=GIB,
        swap_total_bytes=2 * GIB,
        swap_free_bytes=GIB,
        slab_bytes=7,
    )


def cpu(seq: int, sampled_at: int) -> CpuSample:
    times = {
        "user_ns": 10**9 * seq,
        "nice_ns": 1,
        "system_ns": 5 * 10**8 * seq,
        "idle_ns": 2 * 10**9 * seq,
        "iowait_ns": 2,
        "irq_ns": 3,
        "softirq_ns": 4,
        "steal_ns": 5,
        "guest_ns": 6,
        "guest_nice_ns": 7,
    }
    return CpuSample(
        seq=seq,
        sampled_at=sampled_at,
        **times,
        load1_milli=1250,
        load5_milli=800,
        load15_milli=400,
        context_switches=1000 + seq,
        forks=seq,
        cores=[CoreTimes(cpu=number, **times) for number in (0, 1)],
    )


def process(pid: int, cpu_ns: int = 0, *, delta: int = 0, command: str = "worker") -> Process:
    return Process(
        pid=pid,
        start_ticks=pid * 10,
        started_at=STARTED_AT + pid,
        ppid=1,
        uid=1000,
        command=command,
        state="S",
        threads=2,
        cpu_ns=cpu_ns,
        cpu_delta_ns=delta,
        user_ns=cpu_ns // 2,
        rss_bytes=pid << 20,
        virtual_bytes=pid << 22,
        minor_faults=pid,
        major_faults=0,
        read_bytes=4096,
        cgroup="/system.slice/worker.service",
    )


def procesos(
    seq: int,
    sampled_at: int,
    processes: Sequence[Process],
    exited: Sequence[Process] = (),
    *,
    keyframe: bool = False,
    total: int | None = None,
) -> ProcesosSample:
    count = len(processes) if total is None else total
    return ProcesosSample(
        seq=seq,
        sampled_at=sampled_at,
        keyframe=keyframe,
        total=count,
        threads=2 * count,
        running=0,
        sleeping=count,
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
