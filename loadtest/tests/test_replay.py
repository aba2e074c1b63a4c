"""Hosts of a replay behave as machines do: counters never go back, deltas add up, the dead stay dead."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from ingest.contract import wire
from ingest.contract.wire import Feed, Process
from loadtest import recording
from loadtest.replay import GROWING, Host, Replay
from loadtest.tests.test_recording import story

FILE = Path(__file__).parent.parent / "data" / "machine.json"
ORIGIN = 1_800_000_000_000


def host(start: int = 0) -> Host:
    return Host("h", "6f1c0000-0000-4000-8000-000000000002", "7d0c1f9e-2f4b-4a51-9f64-0c6f1c1f0b11", start)


def table_pushes(replay: Replay, beats: int, start: int = 0) -> list[wire.ProcesosSample]:
    """Return a host's process samples, decoded as an ingest API decodes them."""
    one, found = host(start), []
    for number in range(beats):
        sample = one.beat(replay, ORIGIN + 5_000 * number)[Feed.PROCESOS]
        push = msgspec.json.decode(one.envelope([sample]), type=wire.ProcesosPush)
        assert sample.rows == len(push.samples[0].processes) + len(push.samples[0].exited)
        found += push.samples
    return found


@pytest.mark.parametrize(("file", "start"), [("story", 0), ("story", 1), ("machine", 0), ("machine", 17)])
def test_a_host_lives_on_over_turns(file: str, start: int) -> None:
    """What a reader rebuilds from keyframe and changes is a machine's: nothing ends twice or goes back."""
    made = recording.record(story(), 5_000) if file == "story" else recording.decode(FILE.read_bytes())
    steps = recording.steps(made)
    replay = Replay(steps, made.interval_ms, ORIGIN)
    alive: dict[tuple[int, int], Process] = {}
    dead: set[tuple[int, int]] = set()
    samples = table_pushes(replay, 3 * len(steps), start)
    assert samples[0].keyframe
    for sample in samples:
        seen = {(process.pid, process.start_ticks): process for process in sample.processes}
        assert len(seen) == len(sample.processes)
        ended = {(process.pid, process.start_ticks) for process in sample.exited}
        assert set() == ended & seen.keys(), "a row's key would stand twice"
        assert set() == dead & (seen.keys() | ended)
        for process in (*sample.processes, *sample.exited):
            before = alive.get((process.pid, process.start_ticks))
            if before is not None:
                for name in GROWING:
                    assert (getattr(process, name) or 0) >= (getattr(before, name) or 0), name
        alive |= seen
        alive = {key: process for key, process in alive.items() if key not in ended}
        dead |= ended
        if sample.keyframe:
            assert seen.keys() == alive.keys()


def test_cpu_time_adds_up_over_turns() -> None:
    steps = recording.steps(recording.record(story(), 5_000))
    samples = table_pushes(Replay(steps, 5_000, ORIGIN), 7)
    rows = [process for sample in samples for process in sample.processes if process.pid == 1]
    assert [100, 150, 190, 190, 240, 280, 280] == [process.cpu_ns for process in rows]
    assert [0, 50, 40, 0, 50, 40, 0] == [process.cpu_delta_ns for process in rows]


def test_keyframes_come_first_every_five_minutes_and_with_the_day() -> None:
    steps = recording.steps(recording.record(story(), 5_000))
    flags = [sample.keyframe for sample in table_pushes(Replay(steps, 5_000, ORIGIN), 62)]
    assert [0, 60] == [number for number, flag in enumerate(flags) if flag]
    one, replay = host(), Replay(steps, 5_000, ORIGIN)
    midnight = ORIGIN // 86_400_000 * 86_400_000 + 86_400_000
    bodies = [one.beat(replay, midnight + shift)[Feed.PROCESOS].body for shift in (-5_000, -1, 0, 5_000)]
    assert [True, False, True, False] == [b'"keyframe":true' in body for body in bodies]


def test_the_counters_of_cpus_go_on_and_loads_do_not() -> None:
    made = recording.decode(FILE.read_bytes())
    replay, one = Replay(recording.steps(made), made.interval_ms, ORIGIN), host()
    beats = [one.beat(replay, ORIGIN + 5_000 * number)[Feed.CPU] for number in range(2 * len(replay) + 2)]
    samples = [msgspec.json.decode(beat.body, type=wire.CpuSample) for beat in beats]
    for before, after in itertools.pairwise(samples):
        assert after.user_ns >= before.user_ns
        assert after.cores[0].idle_ns >= before.cores[0].idle_ns
        assert after.forks >= before.forks
    assert samples[0].load1_milli == samples[len(replay)].load1_milli


def test_copies_make_a_larger_host() -> None:
    steps = recording.steps(recording.record(story(), 5_000))
    (sample,) = table_pushes(Replay(steps, 5_000, ORIGIN, copies=3), 1)
    assert (9, 9) == (sample.total, len({process.pid for process in sample.processes}))
    assert {1, 6, 11} == {process.ppid for process in sample.processes}
    assert 9.0 > Replay(steps, 5_000, ORIGIN, copies=3).processes > 3.0
