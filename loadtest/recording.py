"""A recording: what one machine pushed for some minutes, anonymised, as a JSON file that load tests replay.

Rows of processes are kept as differences to the row before of the same process, and what a process is called once for
all its rows: a minute of a hundred processes takes some tens of kilobytes. Times are milliseconds after the first
sample. Pure: pushes in, a recording out, and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct, structs

from ingest.contract import wire
from loadtest.anonymous import Pseudonyms

FORMAT: Final = 1
NUMBERS: Final = (
    "threads",
    "cpu_ns",
    "user_ns",
    "rss_bytes",
    "virtual_bytes",
    "minor_faults",
    "major_faults",
    "swap_bytes",
    "read_bytes",
    "written_bytes",
    "voluntary_switches",
    "involuntary_switches",
)
"""The columns of a row after its name and state, in this order."""
COUNTS: Final = (
    "total",
    "threads",
    "running",
    "sleeping",
    "disk_sleep",
    "stopped",
    "traced",
    "zombie",
    "dead",
    "idle",
    "parked",
    "other",
)

Identity = tuple[int, int]
"""(`pid`, `start_ticks`): a process within a boot."""


class RecordingError(ValueError):
    """What was pushed or read makes no recording; the message says what is missing."""


class Name(Struct, frozen=True, array_like=True):
    """What does not change in most rows of a process. `started_at` is in milliseconds after the first sample."""

    pid: int
    start_ticks: int
    started_at: int
    ppid: int
    uid: int
    command: str
    cgroup: str | None


class Row(Struct, frozen=True, array_like=True):
    """A process in a sample: its name's number, its state, and `NUMBERS` as differences (None: not known)."""

    name: int
    state: str
    changes: list[int | None]


class Moment(Struct, frozen=True):
    """One sample of `procesos`: the counts in the order of `COUNTS`, what was carried, what ended."""

    at: int
    counts: list[int]
    processes: list[Row]
    exited: list[Row]


class Recording(Struct, frozen=True):
    """What the file holds. Samples of `ram` and `cpu` are wire samples whose `seq` is their place."""

    format: int
    interval_ms: int
    names: list[Name]
    ram: list[wire.RamSample]
    cpu: list[wire.CpuSample]
    procesos: list[Moment]


class Step(Struct, frozen=True):
    """One moment of a machine as a replay takes it: all three feeds, processes in full figures.

    Deltas are since the step before; `sampled_at` and `started_at` are in milliseconds after the first sample.
    """

    ram: wire.RamSample
    cpu: wire.CpuSample
    procesos: wire.ProcesosSample


def record(pushes: Iterable[wire.Push], interval_ms: int) -> Recording:
    """Return the recording of one stream's pushes, from its first keyframe on. Raises RecordingError.

    A feed may have come in several pushes, in any order. Sums over ends that the kernel's ring had lost (`pid` 0) are
    left out: they name no process.
    """
    ram: dict[int, wire.RamSample] = {}
    cpu: dict[int, wire.CpuSample] = {}
    procesos: dict[int, wire.ProcesosSample] = {}
    for push in pushes:
        for sample in push.samples:
            if isinstance(sample, wire.RamSample):
                ram[sample.seq] = sample
            elif isinstance(sample, wire.CpuSample):
                cpu[sample.seq] = sample
            else:
                procesos[sample.seq] = sample
    tables = _from_keyframe(procesos)
    count = min(len(tables), len(ram), len(cpu))
    if not count:
        raise RecordingError("no moment has come with ram, cpu and a whole process table")
    tables = tables[:count]
    origin = tables[0].sampled_at
    names, moments = _moments(tables, origin)
    return Recording(
        format=FORMAT,
        interval_ms=interval_ms,
        names=names,
        ram=[structs.replace(ram[seq], seq=i, sampled_at=_after(ram[seq], origin)) for i, seq in _first(ram, count)],
        cpu=[structs.replace(cpu[seq], seq=i, sampled_at=_after(cpu[seq], origin)) for i, seq in _first(cpu, count)],
        procesos=moments,
    )


def _from_keyframe(found: dict[int, wire.ProcesosSample]) -> list[wire.ProcesosSample]:
    samples = [found[seq] for seq in sorted(found)]
    first = next((i for i, sample in enumerate(samples) if sample.keyframe), len(samples))
    return samples[first:]


def _first(found: dict[int, wire.RamSample] | dict[int, wire.CpuSample], count: int) -> list[tuple[int, int]]:
    return list(enumerate(sorted(found)[-count:]))


def _after(sample: wire.RamSample | wire.CpuSample, origin: int) -> int:
    return max(0, sample.sampled_at - origin)


def _moments(tables: Sequence[wire.ProcesosSample], origin: int) -> tuple[list[Name], list[Moment]]:
    pseudonyms = Pseudonyms()
    everyone = [process for table in tables for process in (*table.processes, *table.exited) if process.pid]
    # Ticks count from the oldest process: what a boot took until then is the machine's own.
    boot_ticks = min((process.start_ticks for process in everyone), default=0)
    names: dict[Name, int] = {}
    before: dict[Identity, list[int | None]] = {}

    def row(process: wire.Process) -> Row:
        shown = pseudonyms.process(process)
        ticks, started = process.start_ticks - boot_ticks + 1, process.started_at - origin
        name = Name(shown.pid, ticks, started, shown.ppid, shown.uid, shown.command, shown.cgroup)
        values: list[int | None] = [getattr(process, column) for column in NUMBERS]
        last = before.get((process.pid, process.start_ticks), [0] * len(NUMBERS))
        before[process.pid, process.start_ticks] = values
        changes = [None if new is None else new - (old or 0) for new, old in zip(values, last, strict=True)]
        return Row(names.setdefault(name, len(names)), process.state, changes)

    moments = [
        Moment(
            at=table.sampled_at - origin,
            counts=[getattr(table, column) for column in COUNTS],
            processes=[row(process) for process in table.processes],
            exited=[row(process) for process in table.exited if process.pid],
        )
        for table in tables
    ]
    return list(names), moments


def steps(recording: Recording) -> list[Step]:
    """Return the moments of a recording in full: the inverse of `record`, but for what it made anonymous."""
    values: dict[Identity, list[int | None]] = {}

    def process(row: Row, *, first: bool) -> wire.Process:
        name = recording.names[row.name]
        last = values.get((name.pid, name.start_ticks), [0] * len(NUMBERS))
        numbers = [
            None if change is None else change + (old or 0) for change, old in zip(row.changes, last, strict=True)
        ]
        values[name.pid, name.start_ticks] = numbers
        known = dict(zip(NUMBERS, numbers, strict=True))
        spent = (known["cpu_ns"] or 0) - (last[NUMBERS.index("cpu_ns")] or 0)
        document: dict[str, Any] = {**structs.asdict(name), **known, "state": row.state}
        document["cpu_delta_ns"] = 0 if first else max(0, spent)
        # Relative times can lie before the first sample, where the contract's types have no number.
        return wire.Process(**document)

    return [
        Step(
            recording.ram[number],
            recording.cpu[number],
            wire.ProcesosSample(
                seq=number,
                sampled_at=moment.at,
                keyframe=not number,
                processes=[process(row, first=not number) for row in moment.processes],
                exited=[process(row, first=not number) for row in moment.exited],
                **dict(zip(COUNTS, moment.counts, strict=True)),
            ),
        )
        for number, moment in enumerate(recording.procesos)
    ]


def encode(recording: Recording) -> bytes:
    """Return the file's bytes: one line a moment, so that a difference between two files can be read."""
    document = msgspec.to_builtins(recording)
    lines = []
    for key, value in document.items():
        if isinstance(value, list):
            rows = ",\n".join(msgspec.json.encode(row).decode() for row in value)
            lines.append(f'"{key}":[\n{rows}\n]')
        else:
            lines.append(f'"{key}":{msgspec.json.encode(value).decode()}')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def decode(text: bytes) -> Recording:
    """Return the recording of a file. Raises RecordingError."""
    try:
        recording = msgspec.json.decode(text, type=Recording)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RecordingError(f"not a recording: {error}") from None
    if recording.format != FORMAT:
        raise RecordingError(f"format {recording.format}, and this version reads {FORMAT}")
    if not recording.procesos or not len(recording.procesos) == len(recording.ram) == len(recording.cpu):
        raise RecordingError("a recording has at least one moment, with ram, cpu and processes each")
    return recording
