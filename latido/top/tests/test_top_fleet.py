"""What a terminal shows of the feed's samples: rates over an interval, the newest of each host."""

from __future__ import annotations

import msgspec
import pytest

from latido.top.fleet import Fleet, Machine, Row
from latido.top.frames import FrameError, Gap, Hello, Reading, Resume, Trouble, parse
from latido.top.tests.samples import GIB, OTHER_STREAM, START, STREAM, clock, cpu, procesos, process, ram, reading
from latido.top.view import Sort, View

SECOND = 10**9


def machine(*readings: Reading) -> Machine:
    made = Machine("web-1", STREAM)
    for one in readings:
        made.apply(one, clock())
    return made


def rates(found: Machine) -> dict[int, tuple[float | None, float | None]]:
    return {row.process.pid: (row.cpu, row.read) for row in found.rows()}


def test_the_first_table_has_no_rates() -> None:
    found = machine(reading(procesos(1, [process(1, 50 * SECOND)]), snapshot=True))
    assert {1: (None, None)} == rates(found)
    assert not found.rated


def test_a_rate_is_what_was_used_since_the_table_before() -> None:
    found = machine(
        reading(procesos(1, [process(1, SECOND), process(2, SECOND)]), snapshot=True),
        reading(procesos(2, [process(1, 11 * SECOND, delta=10 * SECOND, read=5000)])),
    )
    # 10 s of CPU and 5,000 bytes in the 5 s between; the other one is not in the sample: it did nothing
    assert {1: (2.0, 1000.0), 2: (None, None)} == rates(found)
    found.apply(reading(procesos(3, [process(2, 2 * SECOND, delta=SECOND)])), clock())
    assert {1: (0.0, 0.0), 2: (0.2, 0.0)} == rates(found)


def test_a_new_process_counts_whole_and_one_that_ended_is_gone() -> None:
    found = machine(
        reading(procesos(1, [process(1, SECOND)]), snapshot=True),
        reading(procesos(2, [process(9, SECOND, delta=SECOND)], [process(1, 2 * SECOND, delta=SECOND)])),
    )
    assert {9: (0.2, 0.0)} == rates(found)
    assert (1, 0.2) == (found.ended, found.ended_cpu)


def test_a_snapshot_after_a_gap_gives_rates_over_the_whole_gap() -> None:
    found = machine(
        reading(procesos(1, [process(1, SECOND)]), snapshot=True),
        reading(procesos(5, [process(1, 11 * SECOND, delta=SECOND)]), snapshot=True),
    )
    assert {1: (0.5, 0.0)} == rates(found)  # 10 s in 20 s: the last delta alone would say less


def test_the_same_table_told_again_keeps_its_rates() -> None:
    found = machine(
        reading(procesos(1, [process(1, SECOND)]), snapshot=True),
        reading(procesos(2, [process(1, 2 * SECOND, delta=SECOND)])),
        reading(procesos(2, [process(1, 2 * SECOND, delta=SECOND), process(4)]), snapshot=True),
    )
    assert {1: (0.2, 0.0), 4: (None, None)} == rates(found)


@pytest.mark.parametrize("late", [False, True])
def test_what_came_before_is_not_taken_again(*, late: bool) -> None:
    found = machine(reading(ram(7), snapshot=True))
    assert not found.apply(reading(ram(7)), clock())
    assert not found.apply(reading(ram(6), late=late), clock())
    assert found.apply(reading(ram(8)), clock())


def test_a_clock_that_is_set_back_gives_no_rates_instead_of_wrong_ones() -> None:
    found = machine(
        reading(procesos(1, [process(1, SECOND)]), snapshot=True),
        reading(procesos(2, [process(1, 2 * SECOND)], at=START - 3_600_000)),
    )
    assert {1: (None, None)} == rates(found)


def test_unknown_io_stays_unknown() -> None:
    found = machine(
        reading(procesos(1, [process(1, read=None)]), snapshot=True), reading(procesos(2, [process(1, 5, read=None)]))
    )
    assert [(None, None)] == [(row.read, row.written) for row in found.rows()]


def test_cpu_is_shared_out_by_mode() -> None:
    found = machine(
        reading(cpu(1, user=SECOND, idle=SECOND), snapshot=True),
        reading(cpu(2, user=4 * SECOND, idle=1 * SECOND, iowait=SECOND)),
    )
    assert found.usage is not None
    assert (0.75, 0.25, 0.0) == (found.usage.modes["user"], found.usage.modes["iowait"], found.usage.modes["idle"])
    assert (0.75, (0.75, 0.75)) == (found.usage.busy, found.usage.cores)


def test_memory_used_is_what_new_work_cannot_have() -> None:
    assert 0.75 == machine(reading(ram(1, available=4 * GIB))).memory_used


def test_age_counts_from_the_snapshots_own_time_and_from_a_live_samples_arrival() -> None:
    found = Machine("web-1", STREAM)
    found.apply(reading(ram(1), snapshot=True), clock(65))
    assert 60.0 == found.age(clock(65))
    found.apply(reading(ram(2)), clock(70))
    assert 3.0 == found.age(clock(73))


def test_two_streams_of_a_name_are_told_and_the_newest_is_shown() -> None:
    fleet = Fleet()
    fleet.apply(reading(ram(1)), clock(0))
    fleet.apply(reading(ram(1), stream=OTHER_STREAM), clock(1))
    found = fleet.machine("web-1", clock(2))
    assert found is not None
    assert (OTHER_STREAM, 2) == (found.stream, fleet.shared("web-1", clock(2)))
    assert 1 == fleet.shared("web-1", clock(60.5))


def test_frames_are_read_and_unknown_ones_passed_over() -> None:
    hello = b'{"type":"hello","version":1,"server":"latido","feeds":["ram"],"hosts":["a"],"resume":"t"}'
    assert Hello(1, ["a"], "t") == parse(hello)
    assert Resume("x") == parse('{"type":"resume","token":"x"}')
    assert Trouble("malformed", "no") == parse('{"type":"error","code":"malformed","detail":"no"}')
    gap = {"type": "gap", "feed": "ram", "host": "a", "stream": STREAM, "missed": None, "first_seq": None}
    assert Gap("ram", "a", STREAM, None) == parse(msgspec.json.encode(gap))  # type: ignore[arg-type]  # a StrEnum's value
    assert parse('{"type":"of-tomorrow"}') is None
    sample = {"type": "sample", "feed": "ram", "host": "a", "stream": STREAM, "api": "raw", "late": True}
    sample["sample"] = msgspec.to_builtins(ram(3))
    assert reading(ram(3), host="a", late=True) == parse(msgspec.json.encode(sample))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"type":"hello"}',
        '{"type":"hello","version":1,"hosts":["\\u001b[2J"]}',
        '{"type":"sample","feed":"ram","host":"a","stream":"s","sample":{}}',
        b"\xff",
        "[" * 5000,
    ],
)
def test_what_is_no_frame_is_a_frame_error(text: str | bytes) -> None:
    with pytest.raises(FrameError, match="not of the bridge's protocol"):
        parse(text)


def test_sorting_keeps_equals_by_pid() -> None:
    rows = [Row(process(pid, pid % 2 * SECOND, rss=pid), float(pid % 2), 0.0, 0.0) for pid in (4, 3, 2, 1)]

    def pids(sort: Sort, *, reverse: bool = False) -> list[int]:
        return [row.process.pid for row in View(sort=sort, reverse=reverse).processes(rows)]

    assert [1, 3, 2, 4] == pids(Sort.CPU)
    assert [2, 4, 1, 3] == pids(Sort.CPU, reverse=True)
    assert [4, 3, 2, 1] == pids(Sort.RSS)
    assert [1, 2, 3, 4] == pids(Sort.PID)
