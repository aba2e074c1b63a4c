"""The model becomes wire samples: pure, values in and values out.

A `procesos` sample carries what changed since the previous one (or everything, in a keyframe), so this file also
holds the two directions between a row of the process table and its wire form: the spool keeps the previous table as
wire rows, and a restarted exporter goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from exporter.model import (
    PROCESS_DTYPE,
    UNKNOWN,
    USER_HZ,
    CpuSample,
    CpuTimes,
    ExitRecords,
    ProcessTable,
    RamSample,
    Records,
    command_text,
)
from ingest.contract import limits, wire

LARGEST: Final = 50
"""A sample always carries so many processes with the most resident memory."""

AWAIT_SAMPLES: Final = 24
"""How long the record of a process that is gone is waited for. It takes milliseconds, unless the source was changed."""

_MODES: Final = (
    "user_ns",
    "nice_ns",
    "system_ns",
    "idle_ns",
    "iowait_ns",
    "irq_ns",
    "softirq_ns",
    "steal_ns",
    "guest_ns",
    "guest_nice_ns",
)
_ASLEEP: Final = (b"S", b"I", b"P")
_TICK_MS: Final = 1000 // USER_HZ


def ram_sample(seq: int, sampled_at: int, ram: RamSample) -> wire.RamSample:
    """Return the wire form of a memory reading. `sampled_at` is in milliseconds."""
    return wire.RamSample(
        seq=seq,
        sampled_at=sampled_at,
        total_bytes=ram.total_bytes,
        free_bytes=ram.free_bytes,
        available_bytes=ram.available_bytes,
        cached_bytes=ram.cached_bytes,
        buffers_bytes=ram.buffers_bytes,
        swap_total_bytes=ram.swap_total_bytes,
        swap_free_bytes=ram.swap_free_bytes,
        shared_bytes=ram.shared_bytes,
        slab_bytes=ram.slab_bytes,
    )


def cpu_sample(seq: int, sampled_at: int, cpu: CpuSample) -> wire.CpuSample:
    """Return the wire form of a CPU reading; load averages become thousandths."""
    return wire.CpuSample(
        seq=seq,
        sampled_at=sampled_at,
        load1_milli=round(cpu.load1 * 1000),
        load5_milli=round(cpu.load5 * 1000),
        load15_milli=round(cpu.load15 * 1000),
        context_switches=cpu.context_switches,
        forks=cpu.forks,
        cores=[wire.CoreTimes(cpu=number, **_modes(times)) for number, times in sorted(cpu.cores.items())],
        **_modes(cpu.total),
    )


def _modes(times: CpuTimes) -> dict[str, int]:
    return {mode: getattr(times, mode) for mode in _MODES}


@dataclass(frozen=True)
class Row:
    """A process as the spool keeps it between samples: its wire form and the raw bytes of its command."""

    command: bytes
    process: wire.Process


@dataclass(frozen=True)
class Previous:
    """What a sample is compared with: the table as the stream has told it so far, and the CPU time told of each row.

    Rows may be in any order. `cpu_ns` is a high-water mark: a change of source may step back by a tick, and a delta
    taken from the lower value would count that tick twice. `settled` is the CPU time told of processes that a reader
    of exits believed lost in an overflow; should their own records come after all, it is not told again. `waited` says
    for how many samples each row is gone without a word of its end: 0 for those that lived.
    """

    table: ProcessTable
    cpu_ns: NDArray[np.int64]
    waited: NDArray[np.int64]
    settled: Mapping[tuple[int, int], int] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """What a sample carries, and what the next one is compared with."""

    rows: list[Row]
    exited: list[Row]
    previous: Previous


def changes(
    table: ProcessTable,
    previous: Previous | None,
    boot_time_ms: int,
    *,
    keyframe: bool,
    new_since_previous: bool = False,
) -> Changes:
    """Compare a table with what the stream has told of the same boot.

    Carried are: every process in a keyframe; otherwise those of which any field changed, that are new, that are not
    asleep, and the `LARGEST` by resident memory. Without anything told before, the CPU time so far is before the
    stream's first sample and counts as no delta, unless `new_since_previous` says that every process began after the
    previous sample (the machine was booted since).
    """
    now = table.records
    cpu = (now["user_ns"] + now["system_ns"]).astype(np.int64)
    if previous is None:
        delta = cpu if new_since_previous else np.zeros(len(now), np.int64)
        rows = _rows(table, np.arange(len(now)), cpu, delta, boot_time_ms)
        exited = _exits(table, None, boot_time_ms) if new_since_previous else []
        return Changes(rows, exited, Previous(table, cpu, np.zeros_like(cpu)))

    index, known = _match(now, previous.table.records)
    told = np.zeros(len(now), np.int64)
    told[known] = previous.cpu_ns[index[known]]
    cpu = np.maximum(cpu, told)
    carried = np.ones(len(now), np.bool_)
    if not keyframe:
        carried = _changed(table, previous.table, index, known) | (cpu > told) | ~np.isin(now["state"], _ASLEEP)
        carried[np.argsort(now["rss_bytes"], kind="stable")[-LARGEST:]] = True

    _, still_there = _match(previous.table.records, now)
    exited, limbo, settled = _ended(table, previous, np.flatnonzero(~still_there), boot_time_ms)
    return Changes(
        rows=_rows(table, np.flatnonzero(carried), cpu, cpu - told, boot_time_ms),
        exited=exited,
        previous=_with_limbo(table, cpu, previous, limbo, settled),
    )


def _ended(
    table: ProcessTable, previous: Previous, gone: NDArray[np.int64], boot_time_ms: int
) -> tuple[list[Row], NDArray[np.int64], dict[tuple[int, int], int]]:
    """Return the rows of what ended, which of the `gone` are still to be heard of, and what an overflow settled.

    A source that knows exits tells the end of every process once, with its final totals, though perhaps only with a
    later table than the first that lacks it. Without, a process that is gone has ended, with what was last seen of it.
    """
    if table.exits is None:
        return _rows(previous.table, gone, previous.cpu_ns, np.zeros_like(previous.cpu_ns), boot_time_ms), gone[:0], {}
    exited = _exits(table, previous, boot_time_ms)
    _, heard = _match(previous.table.records[gone], table.exits.records)
    unheard = gone[~heard]
    overflowed = bool(len(table.exits.missed))
    late = np.ones(len(unheard), np.bool_) if overflowed else previous.waited[unheard] >= AWAIT_SAMPLES
    # Whoever is unheard of after an overflow is in its sums: told now, and its part of the sums was told before.
    lost = _rows(previous.table, unheard[late], previous.cpu_ns, np.zeros_like(previous.cpu_ns), boot_time_ms)
    before: dict[_Kind, int] = {}
    for row in lost:
        before[_kind(row)] = before.get(_kind(row), 0) + row.process.cpu_ns
    sums = _missed(table, table.exits, before, boot_time_ms)
    settled = {(row.process.pid, row.process.start_ticks): row.process.cpu_ns for row in lost}
    return [*exited, *lost, *sums], unheard[~late], settled


def _exits(table: ProcessTable, previous: Previous | None, boot_time_ms: int) -> list[Row]:
    """Return the rows of exit records; what was told of a process while it lived is in no delta again."""
    if table.exits is None:
        return []
    records = table.exits.records
    cpu = (records["user_ns"] + records["system_ns"]).astype(np.int64)
    told = np.zeros(len(records), np.int64)
    if previous is not None:
        index, known = _match(records, previous.table.records)
        told[known] = previous.cpu_ns[index[known]]
        for i, key in enumerate(zip(records["pid"].tolist(), records["start_ticks"].tolist(), strict=True)):
            told[i] = max(told[i], previous.settled.get(key, 0))
    cpu = np.maximum(cpu, told)
    exits = ProcessTable(records, table.cgroups)
    return _rows(exits, np.arange(len(records)), cpu, cpu - told, boot_time_ms)


_Kind = tuple[bytes, int, str | None]


def _kind(row: Row) -> _Kind:
    return row.command, row.process.uid, row.process.cgroup


def _missed(table: ProcessTable, exits: ExitRecords, told: Mapping[_Kind, int], boot_time_ms: int) -> list[Row]:
    """Return the sums of exits whose own records were overwritten, as rows of pid 0 that `start_ticks` numbers."""
    records = exits.missed.copy()
    records["pid"], records["start_ticks"], records["state"] = 0, np.arange(len(records)), b"X"
    cpu = (records["user_ns"] + records["system_ns"]).astype(np.int64)
    rows = _rows(ProcessTable(records, table.cgroups), np.arange(len(records)), cpu, cpu, boot_time_ms)
    return [
        Row(
            row.command, structs.replace(row.process, cpu_delta_ns=max(0, row.process.cpu_ns - told.get(_kind(row), 0)))
        )
        for row in rows
    ]


def _with_limbo(
    table: ProcessTable,
    cpu: NDArray[np.int64],
    previous: Previous,
    limbo: NDArray[np.int64],
    settled: Mapping[tuple[int, int], int],
) -> Previous:
    """Return the table and the rows of those whose end is still to be told, as the next sample's `Previous`."""
    if not len(limbo):
        return Previous(table, cpu, np.zeros_like(cpu), settled)
    rows = previous.table.records[limbo].copy()
    cgroups = dict(table.cgroups)
    if previous.table.cgroups is not table.cgroups:
        numbers = {path: number for number, path in cgroups.items()}
        for i, number in enumerate(rows["cgroup"].tolist()):
            path = previous.table.cgroups.get(number)
            if path is not None and path not in numbers:
                numbers[path] = max(numbers.values(), default=0) + 1
                cgroups[numbers[path]] = path
            rows["cgroup"][i] = UNKNOWN if path is None else numbers[path]
    return Previous(
        ProcessTable(np.concatenate([table.records, rows]), cgroups),
        np.concatenate([cpu, previous.cpu_ns[limbo]]),
        np.concatenate([np.zeros_like(cpu), previous.waited[limbo] + 1]),
        settled,
    )


def _match(rows: Records, others: Records) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Find each row's (pid, start) among `others`; where not found the index means nothing."""
    if not len(others):  # nothing to look in, and no index to give
        return np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    keys = _keys(others)
    order = np.argsort(keys, kind="stable")
    wanted = _keys(rows)
    position = np.minimum(np.searchsorted(keys, wanted, sorter=order), len(others) - 1)
    index = order[position]
    return index, keys[index] == wanted


def _keys(records: Records) -> NDArray[np.int64]:
    # PID_MAX_LIMIT is 2^22 (include/linux/threads.h); ticks of 10 ms fill the rest in 696 years.
    keys: NDArray[np.int64] = (records["start_ticks"] << 22) | records["pid"]
    return keys


def _changed(
    table: ProcessTable, previous: ProcessTable, index: NDArray[np.int64], known: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Tell which rows are new or have any field changed."""
    if not len(previous):
        return ~known
    changed = ~known
    before = previous.records
    for name in PROCESS_DTYPE.names or ():
        if name != "cgroup":
            changed |= table.records[name] != before[name][index]
    return changed | _cgroups_differ(table, previous, index)


def _cgroups_differ(table: ProcessTable, previous: ProcessTable, index: NDArray[np.int64]) -> NDArray[np.bool_]:
    # The numbers are a source's own and may mean other paths after a restart: where they differ, the paths decide.
    now, before = table.records["cgroup"], previous.records["cgroup"][index]
    if table.cgroups is previous.cgroups:
        return np.asarray(now != before)
    return np.fromiter(
        (
            table.cgroups.get(mine) != previous.cgroups.get(theirs)
            for mine, theirs in zip(now.tolist(), before.tolist(), strict=True)
        ),
        np.bool_,
        len(now),
    )


def procesos_sample(
    seq: int, sampled_at: int, table: ProcessTable, found: Changes, *, keyframe: bool
) -> wire.ProcesosSample:
    """Return the wire form of the process table or what changed in it."""
    return wire.ProcesosSample(
        seq=seq,
        sampled_at=sampled_at,
        keyframe=keyframe,
        total=len(table),
        threads=table.threads(),
        processes=[row.process for row in found.rows],
        exited=[row.process for row in found.exited],
        **table.states(),
    )


def _rows(
    table: ProcessTable,
    index: NDArray[np.int64],
    cpu_ns: NDArray[np.int64],
    delta_ns: NDArray[np.int64],
    boot_time_ms: int,
) -> list[Row]:
    chosen = table.records[index]
    columns = {name: chosen[name].tolist() for name in PROCESS_DTYPE.names or ()}
    cpu, delta = cpu_ns[index].tolist(), delta_ns[index].tolist()
    return [
        Row(
            command=columns["command"][i],
            process=wire.Process(
                pid=columns["pid"][i],
                start_ticks=columns["start_ticks"][i],
                started_at=boot_time_ms + columns["start_ticks"][i] * _TICK_MS,
                ppid=columns["ppid"][i],
                uid=columns["uid"][i],
                command=command_text(columns["command"][i]),
                state=columns["state"][i].decode("ascii", "replace"),
                threads=columns["threads"][i],
                cpu_ns=cpu[i],
                cpu_delta_ns=delta[i],
                user_ns=columns["user_ns"][i],
                rss_bytes=columns["rss_bytes"][i],
                virtual_bytes=columns["virtual_bytes"][i],
                minor_faults=columns["minor_faults"][i],
                major_faults=columns["major_faults"][i],
                swap_bytes=_known(columns["swap_bytes"][i]),
                read_bytes=_known(columns["read_bytes"][i]),
                written_bytes=_known(columns["written_bytes"][i]),
                voluntary_switches=_known(columns["voluntary_switches"][i]),
                involuntary_switches=_known(columns["involuntary_switches"][i]),
                cgroup=_cgroup(table.cgroups, columns["cgroup"][i]),
            ),
        )
        for i in range(len(chosen))
    ]


def table_of(rows: list[Row]) -> Previous:
    """Return what rows were made from: the inverse of what a keyframe carries."""
    numbers: dict[str, int] = {}
    records = np.zeros(len(rows), PROCESS_DTYPE)
    cpu_ns = np.zeros(len(rows), np.int64)
    for i, row in enumerate(sorted(rows, key=lambda row: row.process.pid)):
        process = row.process
        cpu_ns[i] = process.cpu_ns
        records[i] = (
            process.start_ticks,
            process.user_ns,
            process.cpu_ns - process.user_ns,
            process.rss_bytes,
            process.virtual_bytes,
            _column(process.swap_bytes),
            process.minor_faults,
            process.major_faults,
            _column(process.read_bytes),
            _column(process.written_bytes),
            _column(process.voluntary_switches),
            _column(process.involuntary_switches),
            UNKNOWN if process.cgroup is None else numbers.setdefault(process.cgroup, len(numbers)),
            process.pid,
            process.ppid,
            process.uid,
            process.threads,
            row.command,
            process.state.encode("ascii", "replace"),
        )
    paths = {number: path for path, number in numbers.items()}
    return Previous(ProcessTable(records, paths), cpu_ns, np.zeros_like(cpu_ns))


def _known(value: int) -> int | None:
    return None if value == UNKNOWN else value


def _column(value: int | None) -> int:
    return UNKNOWN if value is None else value


def _cgroup(cgroups: Mapping[int, str], number: int) -> str | None:
    path = cgroups.get(number)
    # The end names the container; a path beyond the contract's bound keeps it.
    return path if path is None or len(path) <= limits.MAX_CGROUP_LENGTH else path[-limits.MAX_CGROUP_LENGTH :]
