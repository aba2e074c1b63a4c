"""A moment: the table of `latido history --at` equals the host's own, whatever happened to host, clock and spool."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.program import Program
from ingest.contract.wire import Process
from latido.history.tests.conftest import Run
from latido.history.tests.host import Host, Key, Seen, busy, yesterday

FIELDS = (
    "ppid",
    "uid",
    "command",
    "cgroup",
    "state",
    "threads",
    "cpu_ns",
    "user_ns",
    "rss_bytes",
    "virtual_bytes",
    "swap_bytes",
    "read_bytes",
    "written_bytes",
    "minor_faults",
    "major_faults",
)


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rows_of(machine: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    rows = {(row["pid"], row["start_ticks"]): row for row in machine["rows"]}
    assert len(rows) == len(machine["rows"])
    return rows


def alive(machine: dict[str, Any]) -> dict[Key, dict[str, object]]:
    return {key: {name: row[name] for name in FIELDS} for key, row in rows_of(machine).items() if not row["exited"]}


def truth(table: dict[Key, Process]) -> dict[Key, dict[str, object]]:
    return {key: {name: getattr(process, name) for name in FIELDS} for key, process in table.items()}


def window_of(host: Host, at: datetime, seconds: float) -> list[Seen]:
    return [seen for seen in host.seen.values() if at - timedelta(seconds=seconds) < seen.at <= at]


def spent(window: list[Seen]) -> dict[Key, int]:
    sums: dict[Key, int] = {}
    for seen in window:
        for key, delta in seen.deltas.items():
            sums[key] = sums.get(key, 0) + delta
    return {key: value for key, value in sums.items() if value}


def counted(machine: dict[str, Any]) -> dict[Key, int]:
    return {key: row["window_cpu_ns"] for key, row in rows_of(machine).items() if row["window_cpu_ns"]}


@pytest.fixture(scope="module")
def lively(api: str) -> Host:
    host = Host("lively", yesterday(1))
    busy(host, 260, seed=5)
    host.push(api)
    return host


@pytest.mark.parametrize("window", [60, 300, 1500])
@pytest.mark.parametrize("offset", [47, 312, 633.5, 905.001, 1199])
def test_the_table_is_the_hosts_own(lively: Host, history: Run, offset: float, window: int) -> None:
    """Every field of every process, CPU and I/O of the window to the last unit, and who ended in it."""
    at = yesterday(1) + timedelta(seconds=offset)
    (machine,) = history("--host=lively", f"--at={stamp(at)}", f"--window={window}s", "--json").json()["machines"]
    seen = window_of(lively, at, window)
    before = [item for item in lively.seen.values() if item.at <= at - timedelta(seconds=window)]
    start = before[-1].table if before else None
    assert stamp(seen[-1].at) == machine["sampled_at"]
    assert truth(seen[-1].table) == alive(machine)
    assert len(seen[-1].table) == machine["processes"]["total"]
    assert spent(seen) == counted(machine)
    ended = {key for item in seen for key in item.exited}
    assert ended == {key for key, row in rows_of(machine).items() if row["exited"]}
    if start is not None:
        for key, row in rows_of(machine).items():
            base = start.get(key)
            for name in ("read_bytes", "written_bytes"):
                assert row[f"window_{name}"] == row[name] - (getattr(base, name) if base else 0)
    assert 0 == machine["missing_samples"]
    assert [] == machine["gaps"]
    assert len(seen) == machine["samples"]
    covered = 5.0 * (len(seen) if before else len(seen) - 1)
    assert covered == machine["covered_seconds"]


def test_the_machines_own_figures_are_of_the_window(lively: Host, history: Run) -> None:
    at = yesterday(1, 15)
    (machine,) = history("--host=lively", f"--at={stamp(at)}", "--json").json()["machines"]
    by_seq = {sample.seq: sample for sample in lively.cpu}
    last = max(seq for seq, seen in lively.seen.items() if seen.at <= at)
    first = last - 60  # five minutes of five seconds
    expected = {
        f"{mode}_ns": getattr(by_seq[last], f"{mode}_ns") - getattr(by_seq[first], f"{mode}_ns")
        for mode in ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    }
    assert {"seconds": 300.0, "booted": False, **expected} == machine["cpu"]
    assert {"load1": 1.25, "load5": 0.8, "load15": 0.4, "cpus": 2} == machine["load"]
    assert next(ram.available_bytes for ram in lively.ram if ram.seq == last) == machine["memory"]["available_bytes"]


@pytest.mark.parametrize("by", ["command", "container", "user"])
def test_groups_sum_to_the_whole(lively: Host, history: Run, by: str) -> None:
    at = yesterday(1, 15)
    flags = (f"--host={lively.name}", f"--at={stamp(at)}", "--json")
    (machine,) = history(*flags).json()["machines"]
    (grouped,) = history(*flags, f"--by={by}").json()["machines"]
    for name in ("window_cpu_ns", "window_read_bytes", "window_written_bytes"):
        assert sum(row[name] for row in machine["rows"]) == sum(row[name] for row in grouped["rows"])
    living = [row for row in machine["rows"] if not row["exited"]]
    assert sum(row["rss_bytes"] for row in living) == sum(row["rss_bytes"] for row in grouped["rows"])
    assert len(living) == sum(row["processes"] for row in grouped["rows"])
    assert len(machine["rows"]) - len(living) == sum(row["exited"] for row in grouped["rows"])
    if by == "command":
        assert {row["command"] for row in machine["rows"]} == {row["command"] for row in grouped["rows"]}


@pytest.mark.parametrize(
    ("sort", "field"), [("cpu", "window_cpu_ns"), ("rss", "rss_bytes"), ("io", "window_read_bytes")]
)
def test_the_largest_come_first_and_the_limit_holds(lively: Host, history: Run, sort: str, field: str) -> None:
    flags = (f"--host={lively.name}", f"--at={stamp(yesterday(1, 15))}", "--json", f"--sort={sort}")
    (machine,) = history(*flags).json()["machines"]
    sizes = [
        row[field] + (row["window_written_bytes"] if sort == "io" else 0)
        for row in machine["rows"]
        if sort != "rss" or not row["exited"]
    ]
    assert sorted(sizes, reverse=True) == sizes
    (limited,) = history(*flags, "--limit=3").json()["machines"]
    assert machine["rows"][:3] == limited["rows"]


def test_a_window_over_midnight(api: str, history: Run) -> None:
    """Names are kept by day, and the day's first sample is a keyframe."""
    host = Host("midnight", yesterday(0) - timedelta(minutes=4))
    busy(host, 80, seed=6)
    host.push(api)
    at = yesterday(0, 1)
    (machine,) = history("--host=midnight", f"--at={stamp(at)}", "--window=4m", "--json").json()["machines"]
    seen = window_of(host, at, 240)
    assert truth(seen[-1].table) == alive(machine)
    assert spent(seen) == counted(machine)
    assert stamp(yesterday(0)) == machine["keyframe_at"]
    assert all(row["command"] for row in machine["rows"])


def test_cpu_time_before_an_exec_stays_with_the_command_of_then(api: str, history: Run) -> None:
    host = Host("exec", yesterday(2))
    key = host.spawn(500, "sh")
    host.tick()
    host.work(key, 700)
    host.tick()
    host.change(key, command="python3")
    host.work(key, 300)
    host.tick()
    host.push(api)
    flags = ("--host=exec", f"--at={stamp(host.now)}", "--json")
    (machine,) = history(*flags, "--by=command").json()["machines"]
    assert {"sh": 700_000_000, "python3": 300_000_000} == {r["command"]: r["window_cpu_ns"] for r in machine["rows"]}
    assert {"sh": 0, "python3": 1} == {row["command"]: row["processes"] for row in machine["rows"]}
    (plain,) = history(*flags).json()["machines"]
    assert [("python3", 1_000_000_000)] == [(row["command"], row["window_cpu_ns"]) for row in plain["rows"]]


def test_missing_samples_are_said_and_not_spoken_for(api: str, history: Run) -> None:
    host = Host("gappy", yesterday(3))
    busy(host, 70, seed=7)
    lost = {1031, 1032, 1033, 1050}
    host.push(api, without=lost)
    at = host.now
    run = history("--host=gappy", f"--at={stamp(at)}", "--json")
    (machine,) = run.json()["machines"]
    kept = [seen for seq, seen in host.seen.items() if seq not in lost and at - timedelta(minutes=5) < seen.at]
    assert spent(kept) == counted(machine)
    assert 4 == machine["missing_samples"]
    assert [3, 1] == [gap["missing_samples"] for gap in machine["gaps"]]
    assert 5.0 * len(kept) == machine["covered_seconds"]
    shown = history("--host=gappy", f"--at={stamp(at)}").out
    assert "! 3 samples are missing between 03:02:30 and 03:02:50: what happened only there is not counted" in shown
    assert "! 1 sample is missing between 03:04:05 and 03:04:15" in shown


def test_a_pause_of_the_exporter_is_said_though_nothing_is_missing(api: str, history: Run) -> None:
    host = Host("paused", yesterday(4))
    key = host.spawn(500, "worker")
    for _ in range(10):
        host.tick()
    host.work(key, 30_000)
    host.tick(60)
    host.tick()
    host.push(api)
    at = host.now + timedelta(seconds=40)
    (machine,) = history("--host=paused", f"--at={stamp(at)}", "--json").json()["machines"]
    assert {(500, 101): 30_000_000_000} == counted(machine)
    assert [0] == [gap["missing_samples"] for gap in machine["gaps"]]
    shown = history("--host=paused", f"--at={stamp(at)}").out
    assert "! no sample was taken between 04:00:50 and 04:01:50" in shown
    assert "! nothing was sampled in the last 40 s before the moment" in shown
    assert "! the window begins before the first sample, of 04:00:05" in shown


def test_old_data_is_said_to_be_old(lively: Host, history: Run) -> None:
    at = lively.now + timedelta(hours=2)
    outcome = history("--host=lively", f"--at={stamp(at)}", "--limit=0")
    assert outcome.status == 0
    assert "! no sample in the window: the table is of" in outcome.out
    assert "2 h before the moment" in outcome.out
    (machine,) = history("--host=lively", f"--at={stamp(at)}", "--json").json()["machines"]
    assert truth(lively.table) == alive(machine)
    assert {} == counted(machine)


def test_a_boot_loses_no_cpu_time_and_no_process(api: str, history: Run) -> None:
    """No sample says that the processes before a boot exited; they are shown as gone, with what they did."""
    host = Host("booted", yesterday(5))
    init, old = host.spawn(1, "init"), host.spawn(700, "old")
    host.tick()
    for _ in range(10):
        host.work(init, 10)
        host.work(old, 100, read=1000)
        host.tick()
    host.boot()
    host.now += timedelta(seconds=40)
    assert init == host.spawn(1, "systemd")  # the same identity, in another boot
    host.work(init, 50, read=300)
    host.tick()
    host.push(api)
    flags = ("--host=booted", f"--at={stamp(host.now)}")
    (machine,) = history(*flags, "--json").json()["machines"]
    assert truth(host.table) == alive(machine)
    rows = rows_of(machine)
    assert {init: 150_000_000, old: 1_000_000_000} == counted(machine)
    assert (True, 10_000) == (rows[old]["exited"], rows[old]["window_read_bytes"])
    assert (False, 300) == (rows[init]["exited"], rows[init]["window_read_bytes"])
    (grouped,) = history(*flags, "--by=command", "--json").json()["machines"]
    sums = {row["command"]: row["window_cpu_ns"] for row in grouped["rows"]}
    assert {"init": 100_000_000, "systemd": 50_000_000, "old": 1_000_000_000} == sums
    assert machine["cpu"]["booted"]
    assert "! the host was booted in the window" in history(*flags).out


def test_a_spool_made_anew_goes_on_with_the_same_machine(api: str, history: Run) -> None:
    host = Host("respooled", yesterday(6))
    busy(host, 30, seed=8)
    host.push(api)
    gone = min(host.table)
    following = Host(host.name, host.now, stream="57e00000-0000-4000-8000-000000000002", table=dict(host.table))
    del following.table[gone]
    following._ticks = host._ticks
    busy(following, 20, seed=9)
    following.push(api)
    (machine,) = history("--host=respooled", f"--at={stamp(following.now)}", "--json").json()["machines"]
    assert [host.stream, following.stream] == machine["streams"]
    assert truth(following.table) == alive(machine)
    both = window_of(host, following.now, 300) + window_of(following, following.now, 300)
    assert spent(both) == counted(machine)
    assert rows_of(machine)[gone]["exited"]
    shown = history("--host=respooled", f"--at={stamp(following.now)}").out
    assert "! the exporter's spool was made anew in the window" in shown


def test_two_machines_with_one_name_are_told_apart(api: str, history: Run) -> None:
    first = Host("twin", yesterday(7))
    second = Host("twin", yesterday(7) + timedelta(seconds=1), stream="57e00000-0000-4000-8000-0000000000ff")
    busy(first, 40, seed=1)
    busy(second, 40, seed=2)
    first.push(api)
    second.push(api)
    at = second.now
    machines = history("--host=twin", f"--at={stamp(at)}", "--json").json()["machines"]
    assert [[first.stream], [second.stream]] == [machine["streams"] for machine in machines]
    assert [truth(first.table), truth(second.table)] == [alive(machine) for machine in machines]
    assert "! 2 machines or exporters report as twin" in history("--host=twin", f"--at={stamp(at)}").out
    (one,) = history("--host=twin", f"--at={stamp(at)}", f"--stream={second.stream}", "--json").json()["machines"]
    assert machines[1] == one
    outcome = history("--host=twin", f"--at={stamp(at)}", "--stream=zz")
    assert 1 == outcome.status
    assert first.stream in outcome.err


def test_a_clock_set_back_mixes_no_two_passes(api: str, history: Run) -> None:
    """A moment that came twice shows the later pass, and both count into the window, which is said."""
    host = Host("clock", yesterday(9))
    busy(host, 200, seed=11)
    at = host.now - timedelta(seconds=300)
    first = max((seen for seen in host.seen.values() if seen.at <= at), key=lambda seen: seen.at)
    host.step(timedelta(minutes=12))
    busy(host, 120, seed=12)
    host.push(api)
    second = max(seq for seq, seen in host.seen.items() if seen.at <= at and seq > 1200)
    (machine,) = history("--host=clock", f"--at={stamp(at)}", "--window=2m", "--json").json()["machines"]
    assert second == machine["seq"]
    assert truth(host.seen[second].table) == alive(machine)
    assert truth(first.table) != alive(machine)
    both = window_of(host, at, 120)
    assert 48 == len(both) == machine["samples"]
    assert spent(both) == counted(machine)
    assert 0 == machine["missing_samples"]
    step = min(seen.at for seq, seen in host.seen.items() if seq > 1200)
    whole = history("--host=clock", f"--at={stamp(step + timedelta(minutes=11))}", "--window=30m", "--json").json()
    assert [stamp(step)] == [item["at"] for item in whole["machines"][0]["clock_steps"]]
    assert 0 == whole["machines"][0]["missing_samples"]


def test_a_moment_without_data_names_what_there_is(lively: Host, history: Run) -> None:
    early = history("--host=lively", f"--at={stamp(yesterday(0, 30))}")
    assert 1 == early.status
    assert f"the first one after it is of {yesterday(1, 0, 5):%Y-%m-%d} 01:00:05" in early.err
    assert 1 == early.err.count("\n")
    unknown = history("--host=nobody")
    assert 1 == unknown.status
    assert "no host is called 'nobody'; there are: " in unknown.err
    assert lively.name in unknown.err


def test_without_a_host_the_only_one_is_meant(make_database: Callable[[str], str], history: Run) -> None:
    database = make_database("alone")
    outcome = history(database=database)
    assert 1 == outcome.status
    assert outcome.err.endswith("latido history: no host has stored a process table yet\n")
    running = Program(("ingest", "raw"), (), {"LATIDO_DB_DSN": database}).start()
    host = Host("only", yesterday(1))
    busy(host, 5, seed=3)
    host.push(running.url)
    assert "only" == history(f"--at={stamp(host.now)}", "--json", database=database).json()["host"]
    other = Host("second", yesterday(1), stream=host.stream)
    busy(other, 2, seed=3)
    other.push(running.url)
    outcome = history(f"--at={stamp(host.now)}", database=database)
    running.stop()
    running.close()
    assert 1 == outcome.status
    assert "there are: only, second; name one with --host" in outcome.err
