"""The numbers are true through every stage: kernel, model, sample, row, frame.

The push side runs in this process over a source that keeps what it read, so that each table is at hand; the APIs, the
database, the bridge and the exporter whose metrics are compared are programs of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client import CollectorRegistry
from websockets.asyncio.client import connect as connect_websocket

from dev.program import Start
from dev.waiting import wait_for, wait_until
from exporter.model import UNKNOWN, CpuSample, ProcessTable, RamSample, command_text
from exporter.push.pusher import Pusher, host_facts
from exporter.settings import PushSettings, TlsSettings
from exporter.sources.bpf.source import BpfSource
from exporter.sources.bpf.tests.conftest import every_end_is_told
from exporter.sources.procfs import ProcfsSource
from tests import history

TICK_NS = 10_000_000
FEEDS = ("ram", "cpu", "procesos")
COMMAND = "latido-burn"
BURN = f"""
import ctypes
ctypes.CDLL(None).prctl(15, b"{COMMAND}", 0, 0, 0)  # PR_SET_NAME
print("named", flush=True)
while True:
    sum(range(10000))
"""


class Recorder:
    """The real source, which also keeps what it read."""

    name = "procfs"

    def __init__(self) -> None:
        self._source = ProcfsSource()
        self.rams: list[RamSample] = []
        self.cpus: list[CpuSample] = []
        self.tables: list[ProcessTable] = []

    def ram(self) -> RamSample:
        self.rams.append(self._source.ram())
        return self.rams[-1]

    def cpu(self) -> CpuSample:
        self.cpus.append(self._source.cpu())
        return self.cpus[-1]

    def processes(self) -> ProcessTable:
        self.tables.append(self._source.processes())
        return self.tables[-1]

    def close(self) -> None:
        self._source.close()


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that burns CPU under a name of its own until the test stops it."""
    with subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"named\n"
        yield child
        child.kill()


def stop(child: subprocess.Popen[bytes]) -> psutil.Process:
    """Stop a process: from now on nothing about it changes."""
    process = psutil.Process(child.pid)
    wait_for(lambda: sum(process.cpu_times()[:2]) > 0.3, "some CPU time to compare")
    child.send_signal(signal.SIGSTOP)
    wait_for(lambda: process.status() == psutil.STATUS_STOPPED, "the process is stopped")
    return process


def expected_row(table: ProcessTable, index: int) -> dict[str, object]:
    """Return a row of the model as `history.rebuild` returns it."""
    record = table.records[index]
    optional = ("swap_bytes", "read_bytes", "written_bytes", "voluntary_switches", "involuntary_switches")
    row: dict[str, object] = {name: int(record[name]) for name in history.PLAIN_COLUMNS}
    row |= {name: None if record[name] == UNKNOWN else int(record[name]) for name in optional}
    row["state"] = record["state"].decode()
    row["cpu_ns"] = int(record["user_ns"] + record["system_ns"])
    row["command"] = command_text(record["command"])
    row["cgroup"] = table.cgroups.get(int(record["cgroup"]))
    return row


@dataclasses.dataclass(frozen=True)
class Seen:
    """What one run of the path left behind: what was read, what came out, and the process that was stopped."""

    source: Recorder
    frames: list[dict[str, Any]]
    process: psutil.Process
    total: int
    """Samples of each feed."""


def push_settings(urls: tuple[str, ...], spool: Path, interval: float) -> PushSettings:
    """Return settings that make several keyframes in a few seconds."""
    return PushSettings(
        urls=urls,
        mode="mirror",
        backlog_rate=20.0,
        interval=interval,
        keyframe_interval=3.0,
        timeout=10.0,
        token_file=None,
        tls=TlsSettings(None, None, None),
        host="web-1",
        spool_path=spool,
        spool_max_bytes=1 << 30,
        spool_max_age=86400.0,
    )


async def run_path(database: str, start: Start, burner: subprocess.Popen[bytes], spool: Path) -> Seen:
    """Push for some seconds, stop the burner, restart the pusher over the same spool, and wait for every reader."""
    urls = (start("ingest", "raw", dsn=database).url, start("ingest", "orm", dsn=database).url)
    bridge = start("bridge", dsn=database)
    source = Recorder()
    facts = host_facts(Path("/proc"), "web-1", os.uname().release)
    frames: list[dict[str, Any]] = []

    async with asyncio.TaskGroup() as tasks:
        watcher = tasks.create_task(watch(bridge.url, frames))
        await wait_until(lambda: bool(frames), "hello")
        pusher = Pusher(push_settings(urls, spool, 0.5), source, facts, CollectorRegistry())
        pushing = tasks.create_task(pusher.run())
        await wait_until(lambda: len(source.tables) >= 6, "six samples")
        process = await asyncio.to_thread(stop, burner)
        after = len(source.tables) + 4  # one read may have been under way when it stopped
        await wait_until(lambda: len(source.tables) >= after, "samples of the stopped process")
        pushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pushing
        pusher.close()

        total = len(source.tables) + 1
        again = Pusher(push_settings(urls, spool, 3600.0), source, facts, CollectorRegistry())
        delivering = tasks.create_task(again.run())
        await wait_until(lambda: all(len(history.seqs(database, feed)) >= total for feed in FEEDS), "every row")
        await wait_until(lambda: len(last_samples(frames, total)) == len(FEEDS), "every frame")
        delivering.cancel()
        watcher.cancel()
    again.close()
    return Seen(source, frames, process, total)


async def watch(url: str, frames: list[dict[str, Any]]) -> None:
    """Keep every frame that the bridge sends."""
    async with connect_websocket(f"{url.replace('http', 'ws')}/ws", max_size=64 << 20) as socket:
        async for message in socket:
            frames.append(json.loads(message))  # noqa: PERF401 - others look at the list while it grows


def last_samples(frames: list[dict[str, Any]], seq: int) -> dict[str, dict[str, Any]]:
    """Return the sample of each feed with this number."""
    samples = [frame for frame in frames if frame["type"] == "sample"]
    return {frame["feed"]: frame["sample"] for frame in samples if frame["sample"]["seq"] == seq}


async def test_kernel_model_sample_row_and_frame_agree(
    database: str, start: Start, burner: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    seen = await run_path(database, start, burner, tmp_path / "spool.sqlite")
    for feed in FEEDS:
        # each once, though both APIs were sent all of them
        assert list(range(1, seen.total + 1)) == history.seqs(database, feed)
    check_machine_rows(database, seen.source)
    check_process_rows(database, seen)
    row = check_independent_reader(database, seen)
    check_frames(seen, row)


def check_machine_rows(database: str, source: Recorder) -> None:
    """Hold rows of memory, CPU by mode and core, and counts by state to the model."""
    for seq, ram in enumerate(source.rams, 1):
        assert tuple(dataclasses.asdict(ram).values()) == history.columns(database, "ram", seq, dataclasses.asdict(ram))
    for seq, cpu in enumerate(source.cpus, 1):
        times = dataclasses.asdict(cpu.total)
        others = ("context_switches", "forks", "load1_milli", "cores")
        *found, cores = history.columns(database, "cpu", seq, [*times, *others])
        assert [*times.values(), cpu.context_switches, cpu.forks, round(cpu.load1 * 1000)] == found
        expected = [{"cpu": number, **dataclasses.asdict(core)} for number, core in sorted(cpu.cores.items())]
        assert expected == json.loads(cores)
    for seq, table in enumerate(source.tables, 1):
        counts = {"total": len(table), "threads": table.threads(), **table.states()}
        assert tuple(counts.values()) == history.columns(database, "procesos", seq, counts)


def check_process_rows(database: str, seen: Seen) -> None:
    """Hold the table rebuilt from MySQL (keyframe plus what followed) to the one read, at every sample."""
    keyframes = history.query(database, "SELECT seq FROM procesos WHERE keyframe ORDER BY seq")
    assert 1 < len(keyframes) < seen.total
    for seq, table in enumerate(seen.source.tables, 1):
        expected = {
            (int(record["pid"]), int(record["start_ticks"])): expected_row(table, index)
            for index, record in enumerate(table.records)
        }
        assert expected == history.rebuild(database, seq)


def check_independent_reader(database: str, seen: Seen) -> dict[str, object]:
    """Hold the stopped process to psutil, and the sum of its deltas to what it used; return its row."""
    process = seen.process
    user, system = (round(seconds * 100) * TICK_NS for seconds in process.cpu_times()[:2])
    first = seen.source.tables[0].records
    before = first[first["pid"] == process.pid]
    ((delta,),) = history.query(database, "SELECT SUM(cpu_delta_ns) FROM process_samples WHERE pid = %s", process.pid)
    assert user + system - int(before["user_ns"][0] + before["system_ns"][0]) == delta

    row = next(row for (pid, _), row in history.rebuild(database, seen.total).items() if pid == process.pid)
    memory, switches = process.memory_info(), process.num_ctx_switches()
    expected = {
        "command": COMMAND,
        "state": "T",
        "ppid": process.ppid(),
        "uid": process.uids().effective,
        "threads": process.num_threads(),
        "user_ns": user,
        "cpu_ns": user + system,
        "rss_bytes": memory.rss,
        "virtual_bytes": memory.vms,
        "voluntary_switches": switches.voluntary,
        "involuntary_switches": switches.involuntary,
    }
    assert expected == {name: row[name] for name in expected}
    return row


def check_frames(seen: Seen, row: dict[str, object]) -> None:
    """Hold the last frames to the model and the row."""
    last = last_samples(seen.frames, seen.total)
    assert dataclasses.asdict(seen.source.rams[-1]).items() <= last["ram"].items()
    assert dataclasses.asdict(seen.source.cpus[-1].total).items() <= last["cpu"].items()
    assert len(seen.source.tables[-1]) == last["procesos"]["total"]
    shown = next(shown for shown in last["procesos"]["processes"] if shown["pid"] == seen.process.pid)
    for name in ("rss_bytes", "cpu_ns", "command", "state", "cgroup"):
        assert row[name] == shown[name]


# bpf counts nanoseconds where /proc rounds down to ticks; its sums of memory are the kernel's cheap ones.
@pytest.mark.parametrize(("source", "seconds_off", "bytes_off"), [("procfs", 1e-9, 0), ("bpf", 0.011, 1 << 20)])
def test_metrics_of_a_group_equal_an_independent_reader(
    start: Start, source: str, seconds_off: float, bytes_off: int
) -> None:
    exporter = start("exporter", flags=(f"--source={source}",))  # before the process, so that it counts wholly
    with subprocess.Popen([sys.executable, "-c", BURN], stdout=subprocess.DEVNULL) as child:
        try:
            process = stop(child)
            times, memory = process.cpu_times(), process.memory_info()
            series = f'{{group="{COMMAND}"}}'
            resident = exporter.metric(f"latido_group_resident_memory_bytes{series}")
            assert memory.rss == pytest.approx(resident, abs=bytes_off)
            assert memory.vms == exporter.metric(f"latido_group_virtual_memory_bytes{series}")
            assert exporter.metric(f'latido_group_states{{group="{COMMAND}",state="stopped"}}') == 1
            modes = {
                mode: exporter.metric(f'latido_group_cpu_seconds_total{{group="{COMMAND}",mode="{mode}"}}')
                for mode in ("user", "system")
            }
            assert times.user == pytest.approx(modes["user"], abs=seconds_off)
            assert times.system == pytest.approx(modes["system"], abs=seconds_off)
        finally:
            child.kill()
    assert f'latido_source_info{{source="{source}"}} 1' in exporter.get("/metrics")[1]


def test_what_lived_between_two_samples_is_in_the_history_once_with_its_totals(
    database: str, start: Start, tmp_path: Path
) -> None:
    api = start("ingest", "raw", dsn=database)
    flags = (f"--push.url={api.url}", "--push.interval=2s", f"--spool.path={tmp_path / 'spool.sqlite'}")
    start("exporter", flags=("--source=bpf", *flags))
    wait_for(lambda: len(history.seqs(database, "procesos")) == 2, "a second sample: the third is two seconds away")
    script = "import ctypes; ctypes.CDLL(None).prctl(15, b'latido-brief', 0, 0, 0)"
    used: dict[int, float] = {}
    for _ in range(5):
        pid = os.posix_spawn(sys.executable, [sys.executable, "-S", "-c", script], os.environ)
        _, status, usage = os.wait4(pid, 0)
        assert status == 0
        used[pid] = usage.ru_utime + usage.ru_stime
    there = max(history.seqs(database, "procesos"))
    wait_for(lambda: max(history.seqs(database, "procesos")) >= there + 3, "the samples after their ends")

    ends = history.query(
        database,
        "SELECT s.pid, s.cpu_ns, p.command FROM process_samples s JOIN processes p"
        " USING (host_id, pid, start_ticks, identity) WHERE s.exited = 1 AND s.pid IN %s",
        tuple(used),
    )
    assert [name for _, _, name in ends] == ["latido-brief"] * len(ends)
    told = {pid: cpu_ns for pid, cpu_ns, _ in ends}
    assert len(told) == len(ends)  # once
    with closing(BpfSource()) as source:
        assert len(told) >= (len(used) if every_end_is_told(source) else 1)
    sums = "SELECT pid, SUM(cpu_delta_ns) FROM process_samples WHERE pid IN %s GROUP BY pid"
    for pid, delta in history.query(database, sums, tuple(told)):
        # wholly, and as much as the kernel told its parent (to a tick, which is how wait4 counts here)
        assert told[pid] == delta
        assert used[pid] == pytest.approx(int(delta) / 1e9, abs=0.011)
