"""A recording holds what was pushed but for names, and comes back from its file as it was."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from ingest.contract import wire
from loadtest import recording
from loadtest.anonymous import Pseudonyms

LATIDO = str(Path(sys.executable).parent / "latido")
FILE = Path(__file__).parent.parent / "data" / "machine.json"
MODES = {name: 1_000 for name in wire.CoreTimes.__struct_fields__ if name != "cpu"}
ENVELOPE = {"host": "db-7.example.org", "stream": "6f1c0000-0000-4000-8000-000000000001", "kernel": "6.1.0-mine"}


def process(pid: int, cpu_ns: int, **values: object) -> wire.Process:
    made = wire.Process(
        pid=pid,
        start_ticks=500 + pid,
        started_at=1_790_000_000_000 + 10 * pid,
        ppid=1,
        uid=1234,
        command="payroll",
        state="S",
        threads=3,
        cpu_ns=cpu_ns,
        cpu_delta_ns=0,
        user_ns=cpu_ns // 2,
        rss_bytes=4096 * pid,
        virtual_bytes=8192 * pid,
        minor_faults=pid,
        major_faults=0,
        swap_bytes=None,
        cgroup="/system.slice/payroll-prod.service",
    )
    return structs.replace(made, **values)


def moment(seq: int, processes: list[wire.Process], exited: list[wire.Process], *, keyframe: bool) -> list[wire.Push]:
    at = 1_790_000_100_000 + 5_000 * seq
    counts = {**dict.fromkeys(recording.COUNTS, 0), "total": 3, "threads": 9, "sleeping": 3}
    table = wire.ProcesosSample(seq=seq, sampled_at=at, keyframe=keyframe, processes=processes, exited=exited, **counts)
    memory = {name: 10 for name in wire.RamSample.__struct_fields__ if name not in {"seq", "sampled_at"}}
    loads = {"load1_milli": 1, "load5_milli": 2, "load15_milli": 3, "context_switches": seq, "forks": seq}
    cpu = wire.CpuSample(seq=seq, sampled_at=at, **MODES, **loads, cores=[wire.CoreTimes(cpu=0, **MODES)])
    boot = "7d0c1f9e-2f4b-4a51-9f64-0c6f1c1f0b11"
    return [
        wire.RamPush(**ENVELOPE, boot_id=boot, samples=[wire.RamSample(seq=seq, sampled_at=at, **memory)]),
        wire.CpuPush(**ENVELOPE, boot_id=boot, samples=[cpu]),
        wire.ProcesosPush(**ENVELOPE, boot_id=boot, samples=[table]),
    ]


def story() -> list[wire.Push]:
    """Return three moments: one process works, one ends, one is born and leaves."""
    return [
        *moment(7, [process(1, 100), process(2, 200), process(3, 300)], [], keyframe=True),
        *moment(8, [process(1, 150), process(4, 40, command="x", uid=0)], [process(2, 210)], keyframe=False),
        *moment(9, [process(1, 190, state="R")], [process(4, 45, command="x", uid=0)], keyframe=False),
    ]


def test_numbers_come_back_and_deltas_are_what_was_used_since() -> None:
    made = recording.decode(recording.encode(recording.record(story(), 5_000)))
    steps = recording.steps(made)
    seen = [[(p.pid, p.cpu_ns, p.cpu_delta_ns, p.rss_bytes) for p in step.procesos.processes] for step in steps]
    assert [
        [(1, 100, 0, 4096), (2, 200, 0, 8192), (3, 300, 0, 12288)],
        [(1, 150, 50, 4096), (4, 40, 40, 16384)],
        [(1, 190, 40, 4096)],
    ] == seen
    ended = [[(p.pid, p.cpu_ns, p.cpu_delta_ns) for p in step.procesos.exited] for step in steps]
    assert [[], [(2, 210, 10)], [(4, 45, 5)]] == ended
    assert [0, 5_000, 10_000] == [step.procesos.sampled_at for step in steps]
    assert [0, 5_000, 10_000] == [step.ram.sampled_at for step in steps]
    assert {None} == {p.swap_bytes for step in steps for p in step.procesos.processes}
    assert [3, 3, 3] == [step.procesos.total for step in steps]


def test_what_came_before_the_first_whole_table_is_left_out() -> None:
    pushes = [*moment(6, [process(1, 90)], [], keyframe=False), *story()]
    assert 3 == len(recording.record(pushes, 5_000).procesos)
    with pytest.raises(recording.RecordingError, match="whole process table"):
        recording.record(pushes[:3], 5_000)


def test_no_name_of_the_machine_is_left() -> None:
    text = recording.encode(recording.record(story(), 5_000)).decode()
    for secret in ("payroll", "example", "6.1.0", "1234", "6f1c", "7d0c", "1790000"):
        assert secret not in text
    (name,) = {(n.command, n.uid, n.cgroup) for n in recording.decode(text.encode()).names if n.pid != 4}
    assert ("c0comma", 1000) == name[:2]
    assert len("/system.slice/payroll-prod.service") == len(name[2] or "")
    assert re.fullmatch(r"/system\.slice/g0-[0-9a-f]+\.service", name[2] or "")


def test_the_same_name_has_the_same_pseudonym_and_another_has_another() -> None:
    pseudonyms = Pseudonyms()
    assert pseudonyms.command("a", "command") == pseudonyms.command("a", "command")
    many = {pseudonyms.command(f"worker-{number}", "command") for number in range(1000)}
    assert 1000 == len(many)
    assert [0, 1000, 1001, 1000] == [pseudonyms.uid(uid) for uid in (0, 77, 33, 77)]
    assert pseudonyms.cgroup("/user.slice/a.scope") != pseudonyms.cgroup("/user.slice/b.scope")


def test_a_file_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(recording.RecordingError, match="not a recording"):
        recording.decode(b'{"format": 1}')
    text = recording.encode(recording.record(story(), 5_000))
    with pytest.raises(recording.RecordingError, match="format 9"):
        recording.decode(text.replace(b'"format":1', b'"format":9'))


def test_the_recording_of_this_repository_is_whole_and_names_no_one() -> None:
    made = recording.decode(FILE.read_bytes())
    steps = recording.steps(made)
    assert len(steps) >= 20
    assert steps[0].procesos.total == len(steps[0].procesos.processes)
    assert all(re.fullmatch(r"[kc]\d+[a-z]*", name.command) for name in made.names)
    assert FILE.stat().st_size < 300_000


def test_record_takes_what_a_real_exporter_pushes(tmp_path: Path) -> None:
    file = tmp_path / "made.json"
    flags = (f"--output={file}", "--samples=2", "--push.interval=1s", "--source=procfs")
    done = subprocess.run([LATIDO, "record", *flags], capture_output=True, text=True, timeout=120, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    made = recording.decode(file.read_bytes())
    assert len(made.procesos) >= 2
    ours = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert ours not in {name.command for name in made.names}
    first = recording.steps(made)[0]
    assert first.procesos.total == len(first.procesos.processes)
    assert first.ram.total_bytes > 0


def test_record_tries_its_file_before_it_waits(tmp_path: Path) -> None:
    flags = (f"--output={tmp_path}/nowhere/made.json", "--web.listen-address=127.0.0.1:0")
    done = subprocess.run([LATIDO, "record", *flags], capture_output=True, text=True, timeout=60, check=False)
    expected = f"latido record: --output: {tmp_path}/nowhere/made.json cannot be written: No such file or directory\n"
    assert (2, expected) == (done.returncode, done.stderr)


def test_record_says_what_was_missing(tmp_path: Path) -> None:
    flags = (f"--output={tmp_path / 'made.json'}", "--samples=2", "--source=nowhere")
    done = subprocess.run([LATIDO, "record", *flags], capture_output=True, text=True, timeout=120, check=False)
    assert 2 == done.returncode
    assert "the exporter ended with status 2" in done.stderr
    assert not (tmp_path / "made.json").exists()
