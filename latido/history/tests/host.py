"""A host as its exporter sees it: every process at every sample, and the wire samples that tell of it.

What `latido history` must answer is read from here, where the whole table of every sample is kept, never from MySQL.
"""

from __future__ import annotations

import random
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import msgspec

from ingest.contract import wire
from ingest.contract.wire import Process

Key = tuple[int, int]
BOOT = "b0070000-0000-4000-8000-000000000001"
MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
GIB = 1 << 30
_YESTERDAY = datetime.now(UTC) - timedelta(days=1)  # once: midnight may pass while the tests run
MS = 1_000_000


def ms(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def yesterday(hour: int, minute: int = 0, second: int = 0) -> datetime:
    """Return a moment of yesterday, which the partitions hold."""
    return _YESTERDAY.replace(hour=hour, minute=minute, second=second, microsecond=0)


@dataclass(frozen=True)
class Seen:
    """One sample: the whole table, and what was spent since the sample before, exited processes included."""

    at: datetime
    table: dict[Key, Process]
    deltas: dict[Key, int]
    exited: dict[Key, Process]


@dataclass
class Host:
    """`tick` takes a sample; between two, `spawn`, `work` and `end` say what happens."""

    name: str
    now: datetime
    stream: str = "57e00000-0000-4000-8000-000000000001"
    interval: float = 5.0
    keyframe_seconds: float = 300.0
    seq: int = 1000
    table: dict[Key, Process] = field(default_factory=dict)
    seen: dict[int, Seen] = field(default_factory=dict)
    procesos: list[wire.ProcesosSample] = field(default_factory=list)
    cpu: list[wire.CpuSample] = field(default_factory=list)
    ram: list[wire.RamSample] = field(default_factory=list)
    _ticks: int = 100
    _before: dict[Key, Process] = field(default_factory=dict)
    _exited: list[Process] = field(default_factory=list)
    _keyframe: datetime | None = None
    _counters: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MODES, 0))

    def spawn(self, pid: int, command: str, *, uid: int = 1000, cgroup: str | None = None, rss: int = 1 << 20) -> Key:
        """Start a process; `start_ticks` counts up, so that a pid may be used again."""
        self._ticks += 1
        process = Process(
            pid=pid,
            start_ticks=self._ticks,
            started_at=ms(self.now),
            ppid=1,
            uid=uid,
            command=command,
            state="S",
            threads=1,
            cpu_ns=0,
            cpu_delta_ns=0,
            user_ns=0,
            rss_bytes=rss,
            virtual_bytes=4 * rss,
            minor_faults=10,
            major_faults=0,
            swap_bytes=0,
            read_bytes=0,
            written_bytes=0,
            cgroup=cgroup,
        )
        self.table[pid, self._ticks] = process
        return pid, self._ticks

    def work(self, key: Key, cpu_ms: int, *, read: int = 0, written: int = 0, rss: int | None = None) -> None:
        """Let a process spend CPU time, half of it in user mode, and do I/O."""
        old = self.table[key]
        self.change(
            key,
            cpu_ns=old.cpu_ns + cpu_ms * MS,
            user_ns=old.user_ns + cpu_ms * MS // 2,
            read_bytes=None if old.read_bytes is None else old.read_bytes + read,
            written_bytes=None if old.written_bytes is None else old.written_bytes + written,
            rss_bytes=old.rss_bytes if rss is None else rss,
        )

    def change(self, key: Key, **fields: object) -> None:
        """Change fields of a process."""
        self.table[key] = msgspec.structs.replace(self.table[key], **fields)

    def end(self, key: Key) -> None:
        """Let a process exit; its final totals are those that it has now."""
        self._exited.append(self.table.pop(key))

    def boot(self) -> None:
        """Start the kernel anew: every process is gone, and no record says that it exited."""
        self.table.clear()
        self._before.clear()
        self._exited.clear()
        self._ticks = 100
        self._keyframe = None
        self._counters = dict.fromkeys(MODES, 0)

    def step(self, back: timedelta) -> None:
        """Set the clock back; the sampler takes a keyframe then."""
        self.now -= back
        self._keyframe = None

    def tick(self, seconds: float | None = None) -> int:
        """Let time pass and take a sample of every feed; return its `seq`."""
        elapsed = self.interval if seconds is None else seconds
        earlier = self.now
        self.now += timedelta(seconds=elapsed)
        self.seq += 1
        deltas = {key: self._delta(process) for key, process in self.table.items()}
        exited = {(process.pid, process.start_ticks): process for process in self._exited}
        deltas |= {key: self._delta(process) for key, process in exited.items()}
        keyframe = (
            self._keyframe is None
            or (self.now - self._keyframe).total_seconds() >= self.keyframe_seconds
            or self.now.date() != earlier.date()
        )
        if keyframe:
            self._keyframe = self.now
        if not self.seen:  # what was before the stream's first sample is no delta
            deltas = dict.fromkeys(deltas, 0)
        carried = [
            msgspec.structs.replace(process, cpu_delta_ns=deltas[key])
            for key, process in self.table.items()
            if keyframe or self._before.get(key) != process
        ]
        ended = [msgspec.structs.replace(process, cpu_delta_ns=deltas[key]) for key, process in exited.items()]
        self.procesos.append(self._sample(carried, ended, keyframe=keyframe))
        self._machine(elapsed, sum(deltas.values()))
        self.seen[self.seq] = Seen(self.now, dict(self.table), deltas, exited)
        self._before = dict(self.table)
        self._exited = []
        return self.seq

    def _delta(self, process: Process) -> int:
        before = self._before.get((process.pid, process.start_ticks))
        return process.cpu_ns - (before.cpu_ns if before else 0)

    def _sample(self, carried: list[Process], ended: list[Process], *, keyframe: bool) -> wire.ProcesosSample:
        states = [process.state for process in self.table.values()]
        return wire.ProcesosSample(
            seq=self.seq,
            sampled_at=ms(self.now),
            keyframe=keyframe,
            total=len(states),
            threads=sum(process.threads for process in self.table.values()),
            running=states.count("R"),
            sleeping=states.count("S"),
            disk_sleep=states.count("D"),
            stopped=0,
            traced=0,
            zombie=0,
            dead=0,
            idle=0,
            parked=0,
            other=0,
            processes=carried,
            exited=ended,
        )

    def _machine(self, elapsed: float, spent: int) -> None:
        self._counters["user"] += spent // 2
        self._counters["system"] += spent - spent // 2
        self._counters["idle"] += round(elapsed * 2e9) - spent
        times = {f"{mode}_ns": value for mode, value in self._counters.items()} | {"guest_ns": 0, "guest_nice_ns": 0}
        self.cpu.append(
            wire.CpuSample(
                seq=self.seq,
                sampled_at=ms(self.now),
                **times,
                load1_milli=1250,
                load5_milli=800,
                load15_milli=400,
                context_switches=self.seq,
                forks=self.seq,
                cores=[wire.CoreTimes(cpu=number, **times) for number in (0, 1)],
            )
        )
        self.ram.append(
            wire.RamSample(
                seq=self.seq,
                sampled_at=ms(self.now),
                total_bytes=16 * GIB,
                free_bytes=4 * GIB,
                available_bytes=9 * GIB + self.seq,
                cached_bytes=3 * GIB,
                buffers_bytes=GIB // 2,
                swap_total_bytes=2 * GIB,
                swap_free_bytes=GIB,
            )
        )

    def push(self, url: str, *, without: Iterable[int] = ()) -> None:
        """Post every sample to an ingest API, but for some `seq`s that are lost on the way."""
        lost = frozenset(without)
        envelope = {"host": self.name, "stream": self.stream, "boot_id": BOOT, "kernel": "6.1.0-test"}
        for start in range(0, len(self.procesos), 500):
            part = slice(start, start + 500)
            _post(f"{url}/api/ram", wire.RamPush(**envelope, samples=self.ram[part]))
            _post(f"{url}/api/cpu", wire.CpuPush(**envelope, samples=self.cpu[part]))
            kept = [sample for sample in self.procesos[part] if sample.seq not in lost]
            _post(f"{url}/api/procesos", wire.ProcesosPush(**envelope, samples=kept))


def _post(url: str, body: wire.Push) -> None:
    request = urllib.request.Request(url, msgspec.json.encode(body), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 201


def busy(host: Host, samples: int, seed: int, commands: Sequence[str] = ("nginx", "postgres", "cron")) -> None:
    """Let a host live for so many samples: processes work, sleep, come, go, and some fit between two samples."""
    chance = random.Random(seed)  # noqa: S311 - a replayable life, no secret
    pids = iter(range(300, 100_000))
    alive = list(host.table) or [host.spawn(next(pids), commands[number % len(commands)]) for number in range(30)]
    for _ in range(samples):
        for key in chance.sample(alive, 8):
            host.work(
                key,
                chance.randrange(400),
                read=chance.randrange(3) * 4096,
                written=chance.randrange(2) * 8192,
                rss=chance.randrange(1 << 20, 1 << 30),
            )
        if chance.random() < 0.3:
            alive.append(host.spawn(next(pids), chance.choice(commands)))
        if chance.random() < 0.3:
            gone = alive.pop(chance.randrange(len(alive)))
            host.work(gone, chance.randrange(50))
            host.end(gone)
        if chance.random() < 0.3:
            short = host.spawn(next(pids), "short")
            host.work(short, chance.randrange(1, 20), written=512)
            host.end(short)
        host.tick()
