"""The newest of every host, and the rates between a sample and the one before. Pure: clocks are passed in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ingest.contract.wire import CoreTimes, CpuSample, Feed, ProcesosSample, Process, RamSample
from latido.top.frames import Reading

MODES: Final = ("user", "nice", "system", "iowait", "irq", "softirq", "steal", "idle")
"""Of /proc/stat; `user` and `nice` hold what guests used."""
SHADOW_SECONDS: Final = 60.0
"""Another stream of the same host that was live so recently is told of: two machines may share a name."""

Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Clock:
    """One moment: Unix time in milliseconds, and a clock that is never set, in seconds."""

    wall_ms: int
    steady: float


@dataclass(slots=True)
class Line:
    """A process as it was last told of; its rates are those of the table `as_of`, and nothing in a later one."""

    process: Process
    as_of: int
    cpu: float | None
    """CPUs that it kept busy: 2.0 is two of them, all the time."""
    read: float | None
    written: float | None
    """Bytes a second, None where the source cannot know."""


@dataclass(frozen=True, slots=True)
class Row:
    """A process with the rates of the newest table."""

    process: Process
    cpu: float | None
    read: float | None
    written: float | None

    @property
    def io(self) -> float:
        """Bytes a second, both ways, of what is known."""
        return (self.read or 0.0) + (self.written or 0.0)


@dataclass(frozen=True, slots=True)
class Usage:
    """Shares of CPU time by mode between two samples, all CPUs together, and how busy each was."""

    modes: Mapping[str, float]
    cores: tuple[float, ...]

    @property
    def busy(self) -> float:
        """The share that was neither idle nor waiting for a disk."""
        return max(0.0, 1.0 - self.modes["idle"] - self.modes["iowait"])


@dataclass
class Machine:
    """One stream of a host."""

    name: str
    stream: str
    ram: RamSample | None = None
    cpu: CpuSample | None = None
    usage: Usage | None = None
    procesos: ProcesosSample | None = None
    ended: int = 0
    ended_cpu: float | None = None
    """CPUs that processes kept busy which ended since the sample before."""
    rated: bool = False
    """Whether processes have rates: there were two tables."""
    _table: dict[Identity, Line] = field(default_factory=dict)
    _arrived: float = 0.0
    _age: float = 0.0

    def apply(self, reading: Reading, clock: Clock) -> bool:
        """Take a snapshot or sample in; return whether it says anything new."""
        sample = reading.sample
        before = self._newest(reading.feed)
        if before is not None and (sample.seq < before.seq or (sample.seq == before.seq and not reading.snapshot)):
            return False
        if isinstance(sample, RamSample):
            self.ram = sample
        elif isinstance(sample, CpuSample):
            self.usage = _usage(self.cpu, sample) or self.usage
            self.cpu = sample
        else:
            self._apply_table(sample, whole=reading.snapshot or sample.keyframe)
        # A live sample is as old as its way; a snapshot may be of a host that is long gone.
        self._age = max(0.0, (clock.wall_ms - sample.sampled_at) / 1000) if reading.snapshot else 0.0
        self._arrived = clock.steady
        return True

    def _newest(self, feed: Feed) -> RamSample | CpuSample | ProcesosSample | None:
        return {Feed.RAM: self.ram, Feed.CPU: self.cpu, Feed.PROCESOS: self.procesos}[feed]

    def _apply_table(self, sample: ProcesosSample, *, whole: bool) -> None:
        before, old = self.procesos, self._table
        seconds = (sample.sampled_at - before.sampled_at) / 1000 if before is not None else 0.0
        again = before is not None and sample.seq == before.seq  # rebuilt by the bridge: the rates stay
        table = {} if whole else old
        for process in sample.processes:
            key = (process.pid, process.start_ticks)
            line = old.get(key)
            if again and line is not None:
                table[key] = Line(process, line.as_of, line.cpu, line.read, line.written)
            else:
                table[key] = _line(line, process, sample.seq, seconds)
        for process in sample.exited:
            table.pop((process.pid, process.start_ticks), None)
        if not again:
            self.ended = len(sample.exited)
            used = sum(process.cpu_delta_ns for process in sample.exited) / 1e9
            self.ended_cpu = used / seconds if seconds > 0 else None
            self.rated = seconds > 0
        self._table = table
        self.procesos = sample

    def forget_table(self) -> None:
        """Let go of the processes: nobody looks at them any more."""
        self._table, self.procesos, self.rated = {}, None, False

    def rows(self) -> list[Row]:
        """Return every process with its rates: none of one that the newest table did not carry."""
        newest = self.procesos.seq if self.procesos is not None else 0
        return [
            Row(line.process, line.cpu, line.read, line.written)
            if line.as_of == newest or line.cpu is None
            else Row(line.process, 0.0, _still(line.read), _still(line.written))
            for line in self._table.values()
        ]

    def age(self, clock: Clock) -> float:
        """Return the seconds since the newest sample."""
        return self._age + max(0.0, clock.steady - self._arrived)

    @property
    def sampled_at(self) -> int:
        """When the newest sample was taken, by the host's clock, in Unix milliseconds."""
        return max(
            (sample.sampled_at for sample in (self.ram, self.cpu, self.procesos) if sample is not None), default=0
        )

    @property
    def memory_used(self) -> float | None:
        """The share of memory that new work cannot have."""
        if self.ram is None or not self.ram.total_bytes:
            return None
        return 1 - self.ram.available_bytes / self.ram.total_bytes


class Fleet:
    """Every machine that the bridge has told of, by host name and stream."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        """Hosts that the bridge knew when it was asked, sorted."""
        self._machines: dict[str, dict[str, Machine]] = {}

    def apply(self, reading: Reading, clock: Clock) -> bool:
        """Take a snapshot or sample in; return whether it says anything new."""
        streams = self._machines.setdefault(reading.host, {})
        machine = streams.get(reading.stream)
        if machine is None:
            machine = streams[reading.stream] = Machine(reading.host, reading.stream)
        return machine.apply(reading, clock)

    def machine(self, host: str, clock: Clock) -> Machine | None:
        """Return the machine of a name that was heard of last."""
        streams = self._machines.get(host)
        return min(streams.values(), key=lambda machine: machine.age(clock)) if streams else None

    def machines(self, clock: Clock) -> list[Machine]:
        """Return one machine for each name, by name."""
        found = (self.machine(host, clock) for host in sorted(self._machines))
        return [machine for machine in found if machine is not None]

    def shared(self, host: str, clock: Clock) -> int:
        """Return how many streams of a name are live: more than one is two machines, or an exporter begun anew."""
        streams: Iterable[Machine] = self._machines.get(host, {}).values()
        return sum(machine.age(clock) < SHADOW_SECONDS for machine in streams)

    def forget_tables(self, host: str) -> None:
        """Let go of a host's processes."""
        for machine in self._machines.get(host, {}).values():
            machine.forget_table()


def _line(before: Line | None, process: Process, seq: int, seconds: float) -> Line:
    if seconds <= 0:  # the first table, or a clock that was set back
        return Line(process, seq, None, None, None)
    if before is None:
        # New since the table before: all that it did is of this interval.
        return Line(
            process,
            seq,
            process.cpu_delta_ns / 1e9 / seconds,
            _rate(0, process.read_bytes, seconds),
            _rate(0, process.written_bytes, seconds),
        )
    old = before.process
    return Line(
        process,
        seq,
        max(0, process.cpu_ns - old.cpu_ns) / 1e9 / seconds,
        _rate(old.read_bytes, process.read_bytes, seconds),
        _rate(old.written_bytes, process.written_bytes, seconds),
    )


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    return None if before is None or after is None else max(0, after - before) / seconds


def _still(rate: float | None) -> float | None:
    return None if rate is None else 0.0


def _usage(before: CpuSample | None, after: CpuSample) -> Usage | None:
    if before is None:
        return None
    modes = _shares(before, after)
    if modes is None:
        return None
    old = {core.cpu: core for core in before.cores}
    shares = [_shares(old[core.cpu], core) for core in after.cores if core.cpu in old]
    return Usage(modes, tuple(max(0.0, 1 - share["idle"] - share["iowait"]) for share in shares if share is not None))


def _shares(before: CpuSample | CoreTimes, after: CpuSample | CoreTimes) -> dict[str, float] | None:
    spent = {mode: max(0, getattr(after, f"{mode}_ns") - getattr(before, f"{mode}_ns")) for mode in MODES}
    whole = sum(spent.values())
    return {mode: time / whole for mode, time in spent.items()} if whole else None
