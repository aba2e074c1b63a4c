"""A recording as hosts without end: what each of them pushes at its n-th moment. Pure but for a cache of encoded rows.

The recording is gone through again and again. A process that lived throughout lives on, and its counters go on from
where they were; one that came or went meanwhile comes again as another process, with a later start. So no counter goes
back and no process returns from the dead, however long a run is. Hosts begin at different moments of the recording, a
host's first sample, each `KEYFRAME_SECONDS`, and the first of a UTC day being keyframes, as an exporter's are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from msgspec import structs

from ingest.contract.wire import Feed, Process
from loadtest.recording import COUNTS, Identity, Step

KEYFRAME_SECONDS: Final = 300
"""The default of the exporter's --push.keyframe-interval."""
DAY_MS: Final = 86_400_000
TICK_MS: Final = 10
"""Of USER_HZ, in which starts are counted."""
CACHED_ROWS: Final = 256
"""Encoded process lists that are kept: hosts that are at the same moment of the recording share them."""
GROWING: Final = (
    "cpu_ns",
    "user_ns",
    "minor_faults",
    "major_faults",
    "read_bytes",
    "written_bytes",
    "voluntary_switches",
    "involuntary_switches",
)
_KERNEL: Final = "0.0.0-loadtest"


@dataclass(frozen=True)
class Sample:
    """One sample of one feed, encoded. `at` is in milliseconds since the epoch, `rows` how many rows of processes."""

    seq: int
    at: int
    body: bytes
    rows: int


@dataclass(frozen=True)
class _Rows:
    processes: bytes
    exited: bytes
    count: int


class Replay:
    """What hosts push that live as the recording did.

    `origin_ms` is when the recording's first moment is said to have been (milliseconds since the epoch), the same for
    all hosts. With `copies`, a host runs the recorded processes so many times over.
    """

    def __init__(self, steps: list[Step], interval_ms: int, origin_ms: int, *, copies: int = 1) -> None:
        self._steps = steps
        self._origin = origin_ms
        self._copies = copies
        self._span_ms = interval_ms * len(steps)
        self._tables = _tables(steps)
        everyone = [p for step in steps for p in (*step.procesos.processes, *step.procesos.exited)]
        self._pids = max((p.pid for p in everyone), default=0) + 1
        first, last = self._tables[0], self._tables[-1]
        self._growth = {
            key: {name: _difference(last[key], process, name) for name in GROWING}
            for key, process in first.items()
            if key in last
        }
        """How much the counters of processes that live throughout grow in one turn."""
        self._rows = functools.lru_cache(maxsize=CACHED_ROWS)(self._encode_rows)

    def __len__(self) -> int:
        """Return after how many moments a new turn begins."""
        return len(self._steps)

    @property
    def processes(self) -> float:
        """How many processes a host has, on average."""
        return self._copies * sum(map(len, self._tables)) / len(self._tables)

    def ram(self, moment: int, seq: int, at: int) -> Sample:
        """Return the memory of a host at its moment."""
        sample = structs.replace(self._steps[moment % len(self._steps)].ram, seq=seq, sampled_at=at)
        return Sample(seq, at, msgspec.json.encode(sample), 0)

    def cpu(self, moment: int, seq: int, at: int) -> Sample:
        """Return the CPU times of a host at its moment; over turns they go on."""
        turn, number = divmod(moment, len(self._steps))
        first, here, last = self._steps[0].cpu, self._steps[number].cpu, self._steps[-1].cpu
        document = msgspec.to_builtins(here)
        _advance(document, msgspec.to_builtins(first), msgspec.to_builtins(last), turn)
        return Sample(seq, at, msgspec.json.encode({**document, "seq": seq, "sampled_at": at}), 0)

    def procesos(self, moment: int, seq: int, at: int, *, keyframe: bool) -> Sample:
        """Return the processes of a host at its moment: all of them in a keyframe, else what changed."""
        turn, number = divmod(moment, len(self._steps))
        rows = self._rows(turn, number, keyframe)
        shown = self._steps[number].procesos
        counts = {name: self._copies * getattr(shown, name) for name in COUNTS}
        head = msgspec.json.encode({"seq": seq, "sampled_at": at, "keyframe": keyframe, **counts})
        body = b'%s,"processes":%s,"exited":%s}' % (head[:-1], rows.processes, rows.exited)
        return Sample(seq, at, body, rows.count)

    def _encode_rows(self, turn: int, number: int, keyframe: bool) -> _Rows:  # noqa: FBT001 - a key of the cache
        step, table = self._steps[number].procesos, self._tables[number]
        exited = list(self._turned(step.exited, turn))
        if not number and turn:
            # Who came during the last turn and was there at its end does not live on: it ends now.
            left = (process for key, process in self._tables[-1].items() if key not in self._growth)
            exited = list(self._turned((structs.replace(process, cpu_delta_ns=0) for process in left), turn - 1))
        if keyframe:
            carried = {(process.pid, process.start_ticks): process for process in step.processes}
            shown = [carried.get(key, structs.replace(process, cpu_delta_ns=0)) for key, process in table.items()]
        else:
            shown = list(step.processes)
        processes = list(self._turned(shown, turn))
        return _Rows(
            msgspec.json.encode([copy for process in processes for copy in self._copied(process)]),
            msgspec.json.encode([copy for process in exited for copy in self._copied(process)]),
            self._copies * (len(processes) + len(exited)),
        )

    def _turned(self, processes: Iterable[Process], turn: int) -> Iterable[Process]:
        """Yield processes as they are in a turn: those that live throughout have grown, others started later."""
        for process in processes:
            started_at = self._origin + process.started_at
            growth = self._growth.get((process.pid, process.start_ticks))
            if growth is None:
                shift = turn * self._span_ms
                ticks = process.start_ticks + shift // TICK_MS
                yield structs.replace(process, start_ticks=ticks, started_at=max(0, started_at + shift))
            else:
                grown = {
                    name: None if getattr(process, name) is None else getattr(process, name) + turn * each
                    for name, each in growth.items()
                }
                yield structs.replace(process, started_at=max(0, started_at), **grown)

    def _copied(self, process: Process) -> Iterable[Process]:
        yield process
        for number in range(1, self._copies):
            shift = number * self._pids
            ppid = process.ppid and process.ppid + shift
            yield structs.replace(process, pid=process.pid + shift, ppid=ppid)


@dataclass
class Host:
    """One host's stream: its numbers and times. `start` is the moment of the recording that it begins with."""

    name: str
    stream: str
    boot_id: str
    start: int = 0
    _seq: int = 0
    _keyframe_at: int | None = None

    def beat(self, replay: Replay, at: int) -> dict[Feed, Sample]:
        """Return the next sample of each feed, taken at `at` (milliseconds since the epoch)."""
        last = self._keyframe_at
        keyframe = last is None or at - last >= KEYFRAME_SECONDS * 1000 or at // DAY_MS != last // DAY_MS
        if keyframe:
            self._keyframe_at = at
        moment = self.start + self._seq
        self._seq += 1
        return {
            Feed.RAM: replay.ram(moment, self._seq, at),
            Feed.CPU: replay.cpu(moment, self._seq, at),
            Feed.PROCESOS: replay.procesos(moment, self._seq, at, keyframe=keyframe),
        }

    def envelope(self, samples: Iterable[Sample]) -> bytes:
        """Return the JSON body of a push."""
        head = {"host": self.name, "stream": self.stream, "boot_id": self.boot_id, "kernel": _KERNEL}
        return b'%s,"samples":[%s]}' % (
            msgspec.json.encode(head)[:-1],
            b",".join(sample.body for sample in samples),
        )


def _tables(steps: list[Step]) -> list[dict[Identity, Process]]:
    """Return the whole process table at each moment."""
    tables: list[dict[Identity, Process]] = []
    table: dict[Identity, Process] = {}
    for step in steps:
        table = dict(table)
        for process in step.procesos.processes:
            table[process.pid, process.start_ticks] = process
        for process in step.procesos.exited:
            table.pop((process.pid, process.start_ticks), None)
        tables.append(table)
    return tables


def _difference(last: Process, first: Process, name: str) -> int:
    now, then = getattr(last, name), getattr(first, name)
    return 0 if now is None or then is None else max(0, now - then)


def _advance(here: dict[str, Any], first: Mapping[str, Any], last: Mapping[str, Any], turn: int) -> None:
    """Let the counters of a CPU sample grow by `turn` times what they grew in the recording. Loads are no counters."""
    for name, value in here.items():
        if name == "cores":
            for core, core_first, core_last in zip(value, first["cores"], last["cores"], strict=False):
                _advance(core, core_first, core_last, turn)
        elif name.endswith("_ns") or name in {"context_switches", "forks"}:
            here[name] = value + turn * max(0, last[name] - first[name])
