"""What a sample carries: held to a rebuild of the table from samples alone, over random histories."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from exporter.model import PROCESS_DTYPE, UNKNOWN, ExitRecords, ProcessTable, Records
from exporter.push import payload
from ingest.contract import wire

BOOT_MS = 1_790_000_000_000

Key = tuple[int, int]


@st.composite
def tables(draw: st.DrawFn) -> ProcessTable:
    """Draw a table over few pids and start times, so that successive ones share, lose, gain and reuse them."""
    pids = sorted(draw(st.sets(st.integers(1, 12), max_size=10)))
    small = st.integers(0, 3)
    maybe = st.integers(UNKNOWN, 2)
    records = np.zeros(len(pids), PROCESS_DTYPE)
    for i, pid in enumerate(pids):
        records[i] = (
            draw(st.integers(1, 2)) * 100,
            *(draw(small) * 10_000_000 for _ in range(2)),
            draw(small) * 4096,
            draw(small) * 4096,
            *(draw(maybe), draw(small), draw(small), draw(maybe), draw(maybe), draw(maybe), draw(maybe)),
            draw(st.integers(UNKNOWN, 1)),
            pid,
            draw(small),
            draw(small),
            draw(st.integers(1, 3)),
            draw(st.sampled_from([b"sh", b"nginx", b'a"b', b"\xff\xfe", b"\xc3\xa9"])),
            draw(st.sampled_from([b"S", b"R", b"Z", b"I"])),
        )
    return ProcessTable(records, {0: "/", 1: "/system.slice"})


def whole(table: ProcessTable, cpu_ns: dict[Key, int]) -> dict[Key, wire.Process]:
    """Return the table as a keyframe would show it, with the CPU times that the stream has settled on."""
    rows = payload.changes(table, None, BOOT_MS, keyframe=True).rows
    return {
        key_of(row.process): structs.replace(row.process, cpu_ns=cpu_ns[key_of(row.process)], cpu_delta_ns=0)
        for row in rows
    }


def key_of(process: wire.Process) -> Key:
    return process.pid, process.start_ticks


def total_cpu(table: ProcessTable) -> dict[Key, int]:
    return {
        (int(record["pid"]), int(record["start_ticks"])): int(record["user_ns"] + record["system_ns"])
        for record in table.records
    }


@given(st.lists(st.tuples(tables(), st.booleans()), min_size=1, max_size=6))
def test_the_table_rebuilt_from_samples_is_the_table_read(history: list[tuple[ProcessTable, bool]]) -> None:
    rebuilt: dict[Key, wire.Process] = {}
    spent: dict[Key, int] = {}
    settled: dict[Key, int] = {}
    deltas: dict[Key, int] = {}
    previous: payload.Previous | None = None
    for number, (table, wants_keyframe) in enumerate(history):
        keyframe = wants_keyframe or previous is None
        found = payload.changes(table, previous, BOOT_MS, keyframe=keyframe)
        sample = payload.procesos_sample(number + 1, 0, table, found, keyframe=keyframe)
        # Through the wire and back: what is compared is what an API would have decoded.
        sample = msgspec.json.decode(msgspec.json.encode(sample), type=wire.ProcesosSample)
        gone = {key_of(process) for process in sample.exited}
        carried = {key_of(process): process for process in sample.processes}
        assert not gone & carried.keys()
        rebuilt = {
            key: process for key, process in (({} if keyframe else rebuilt) | carried).items() if key not in gone
        }

        # CPU time, counted by hand: the highest value seen of each process that lives.
        now = {key: max(value, settled.get(key, 0)) for key, value in total_cpu(table).items()}
        if previous is not None:
            for key, value in now.items():
                spent[key] = spent.get(key, 0) + value - settled.get(key, 0)
        settled = now
        for key, process in carried.items():
            deltas[key] = deltas.get(key, 0) + process.cpu_delta_ns

        actual = {key: structs.replace(process, cpu_delta_ns=0) for key, process in rebuilt.items()}
        assert whole(table, settled) == actual
        assert len(table) == sample.total
        previous = found.previous
    assert {key: value for key, value in spent.items() if value} == {k: v for k, v in deltas.items() if v}


@given(tables())
def test_a_table_survives_the_spool(table: ProcessTable) -> None:
    found = payload.changes(table, None, BOOT_MS, keyframe=True)
    again = payload.table_of(found.rows)
    assert found.previous.cpu_ns.tolist() == again.cpu_ns.tolist()
    for name in PROCESS_DTYPE.names or ():
        if name != "cgroup":
            assert table.records[name].tolist() == again.table.records[name].tolist()
    assert cgroups_of(table) == cgroups_of(again.table)
    # and nothing is new then: what is carried did not move
    unchanged = payload.changes(table, again, BOOT_MS, keyframe=False)
    assert all(row.process.cpu_delta_ns == 0 for row in unchanged.rows)
    assert [] == unchanged.exited


def cgroups_of(table: ProcessTable) -> list[str | None]:
    return [table.cgroups.get(number) for number in table.records["cgroup"].tolist()]


def test_a_process_that_did_nothing_is_not_carried() -> None:
    records = np.zeros(200, PROCESS_DTYPE)
    records["pid"] = np.arange(1, 201)
    records["state"] = b"S"
    records["rss_bytes"] = np.arange(200)
    first = payload.changes(ProcessTable(records, {}), None, BOOT_MS, keyframe=True)
    moved = records.copy()
    moved["voluntary_switches"][7] += 1
    second = payload.changes(ProcessTable(moved, {}), first.previous, BOOT_MS, keyframe=False)
    largest = set(range(151, 201))
    assert {8} | largest == {row.process.pid for row in second.rows}


def one(pid: int, cpu_ns: int, start_ticks: int = 100, command: bytes = b"sh") -> Records:
    """Return one sleeping process."""
    records = np.zeros(1, PROCESS_DTYPE)
    records["pid"], records["start_ticks"], records["user_ns"] = pid, start_ticks, cpu_ns
    records["state"], records["command"] = b"S", command
    return records


def test_cpu_time_before_the_first_sample_is_in_no_delta() -> None:
    first = payload.changes(ProcessTable(one(1, 5_000), {}), None, BOOT_MS, keyframe=True)
    assert [0] == [row.process.cpu_delta_ns for row in first.rows]


def test_after_a_reboot_all_cpu_time_is_new() -> None:
    table = ProcessTable(one(1, 5_000), {})
    first = payload.changes(table, None, BOOT_MS, keyframe=True, new_since_previous=True)
    assert [5_000] == [row.process.cpu_delta_ns for row in first.rows]


# --- sources that know exits ---

NOBODY = np.zeros(0, PROCESS_DTYPE)


def with_exits(records: Records, exits: Records = NOBODY, missed: Records = NOBODY) -> ProcessTable:
    """Return a table whose source knows what ended."""
    return ProcessTable(records, {}, ExitRecords(exits, missed, np.ones(len(missed), np.int64)))


def deltas_of(rows: list[payload.Row]) -> list[tuple[int, int]]:
    return [(row.process.pid, row.process.cpu_delta_ns) for row in rows]


def test_a_process_that_lived_between_two_samples_is_told_once_with_its_totals() -> None:
    first = payload.changes(with_exits(one(1, 10)), None, BOOT_MS, keyframe=True)
    second = payload.changes(with_exits(one(1, 10), one(7, 3_000_000)), first.previous, BOOT_MS, keyframe=False)
    assert [(7, 3_000_000)] == deltas_of(second.exited)
    assert 3_000_000 == second.exited[0].process.cpu_ns


def test_an_exit_tells_only_what_was_not_told_while_it_lived() -> None:
    both = np.concatenate([one(1, 10), one(7, 400)])
    first = payload.changes(with_exits(both), None, BOOT_MS, keyframe=True)
    second = payload.changes(with_exits(one(1, 10), one(7, 1_000)), first.previous, BOOT_MS, keyframe=False)
    assert [(7, 600)] == deltas_of(second.exited)


def test_an_end_that_is_told_late_is_told_once() -> None:
    both = np.concatenate([one(1, 10), one(7, 400)])
    first = payload.changes(with_exits(both), None, BOOT_MS, keyframe=True)
    # the table lacks it already, its exit record is not there yet; its number is even in use again
    table = with_exits(np.concatenate([one(1, 10), one(7, 5, start_ticks=900)]))
    second = payload.changes(table, first.previous, BOOT_MS, keyframe=False)
    assert [] == second.exited
    third = payload.changes(
        with_exits(one(1, 10), np.concatenate([one(7, 1_000), one(7, 9, start_ticks=900)])),
        second.previous,
        BOOT_MS,
        keyframe=False,
    )
    assert [(7, 600), (7, 4)] == deltas_of(third.exited)
    fourth = payload.changes(with_exits(one(1, 10)), third.previous, BOOT_MS, keyframe=False)
    assert [] == fourth.exited


def test_an_overflow_loses_no_cpu_time_and_tells_none_twice() -> None:
    both = np.concatenate([one(1, 10), one(7, 400)])
    first = payload.changes(with_exits(both), None, BOOT_MS, keyframe=True)
    # 7 ended at 1,000 and nine others used 5,000: their own records are gone, the sum is 6,000
    table = with_exits(one(1, 10), missed=one(0, 6_000, start_ticks=0))
    second = payload.changes(table, first.previous, BOOT_MS, keyframe=False)
    assert [(7, 0), (0, 5_600)] == deltas_of(second.exited)
    # 7 was no part of the overflow after all: its own record comes with the next table
    third = payload.changes(with_exits(one(1, 10), one(7, 1_000)), second.previous, BOOT_MS, keyframe=False)
    assert [(7, 600)] == deltas_of(third.exited)


def test_a_source_without_exits_takes_over() -> None:
    both = np.concatenate([one(1, 10), one(7, 400)])
    first = payload.changes(with_exits(both), None, BOOT_MS, keyframe=True)
    second = payload.changes(with_exits(one(1, 10)), first.previous, BOOT_MS, keyframe=False)
    third = payload.changes(ProcessTable(one(1, 10), {}), second.previous, BOOT_MS, keyframe=False)
    assert [(7, 0)] == deltas_of(third.exited)


def test_an_end_that_is_never_told_is_given_up() -> None:
    both = np.concatenate([one(1, 10), one(7, 400)])
    found = payload.changes(with_exits(both), None, BOOT_MS, keyframe=True)
    ended = []
    for _ in range(payload.AWAIT_SAMPLES + 2):
        found = payload.changes(with_exits(one(1, 10)), found.previous, BOOT_MS, keyframe=False)
        ended += deltas_of(found.exited)
    assert [(7, 0)] == ended
