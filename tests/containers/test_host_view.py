"""The exporter in a container sees the machine as the one beside it: by procfs, and by bpf with two capabilities."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.podman import IMAGE, Podman
from dev.program import Program
from dev.waiting import wait_for
from tests.containers.asking import get, series

MARK = "latido-mark"
MARKS = 7
NOBODY = 65534
PROCFS = ("SYS_PTRACE", "DAC_READ_SEARCH")
BPF = ("BPF", "PERFMON")
PROFILE = Path("/usr/share/containers/seccomp.json")
"""Podman's system calls that a container may use."""
NAME = "latido-sees"

Start = Callable[..., str]


@pytest.fixture
def marks() -> Iterator[None]:
    """Run processes of another user that do nothing: their numbers stand still while two exporters read them."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    program = folder / MARK
    shutil.copy("/bin/sleep", program)
    processes = [subprocess.Popen([program, "600"], user=NOBODY, group=NOBODY) for _ in range(MARKS)]
    yield
    for process in processes:
        process.kill()
        process.wait()
    shutil.rmtree(folder)


@pytest.fixture
def contained(podman: Podman) -> Iterator[Start]:
    """Start the exporter as compose.yaml does, with these capabilities, source and profile; return its URL."""
    podman.run("rm", "--force", NAME, check=False)

    def start(source: str, capabilities: tuple[str, ...], profile: Path | None = None) -> str:
        added = [f"--cap-add={name}" for name in capabilities]
        policy = [f"--security-opt=seccomp={profile}"] if profile else []
        locked = ("--pid=host", "--user=0:0", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL")
        mounts = ("--volume=/proc:/host/proc:ro", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:ro")
        flags = ("--path.procfs=/host/proc", "--web.listen-address=0.0.0.0:10110", "--insecure", f"--source={source}")
        podman.run(
            *(
                "run",
                "--detach",
                f"--name={NAME}",
                "--security-opt=no-new-privileges",
                *locked,
                *added,
                *policy,
                *mounts,
            ),
            *(IMAGE, "exporter", *flags),
        )
        url = f"http://{podman.inspect(NAME)['NetworkSettings']['IPAddress']}:10110"
        wait_for(lambda: get(f"{url}/-/ready")[0] == 200, "the exporter is ready", 60)
        return url

    yield start
    podman.run("rm", "--force", "--volumes", NAME, check=False)


@pytest.fixture
def beside(marks: None) -> Iterator[str]:  # noqa: ARG001 - they run before it
    """Run the exporter on the machine itself, by procfs; return its URL."""
    program = Program(("exporter",), ("--source=procfs",)).start()
    yield program.url
    assert 0 == program.stop()
    program.close()


def with_bpf(folder: Path) -> Path:
    """Write podman's own profile with bpf(2) for who holds CAP_BPF, as newer runtimes have it."""
    profile: dict[str, Any] = json.loads(PROFILE.read_text())
    rules = [{**rule, "names": [name for name in rule["names"] if name != "bpf"]} for rule in profile["syscalls"]]
    rules.append({"names": ["bpf"], "action": "SCMP_ACT_ALLOW", "args": []})
    path = folder / "seccomp.json"
    path.write_text(json.dumps({**profile, "syscalls": rules}))
    return path


def ties_bpf_to_admin() -> bool:
    """Whether podman's own profile has bpf(2) for CAP_SYS_ADMIN alone, as Debian 12's has."""
    rules = json.loads(PROFILE.read_text())["syscalls"]
    allowed = [rule.get("includes", {}).get("caps", []) for rule in rules if "bpf" in rule["names"]]
    return not any("CAP_BPF" in names for names in allowed)


def group(found: dict[str, float]) -> dict[str, float]:
    """Return what is told of the marked processes."""
    return {key: value for key, value in found.items() if f'group="{MARK}"' in key}


def source(found: dict[str, float]) -> str:
    (key,) = [key for key in found if key.startswith("latido_source_info{")]
    return key.partition('source="')[2].partition('"')[0]


@pytest.mark.parametrize(("wanted", "capabilities"), [("procfs", PROCFS), ("bpf", BPF)])
def test_it_sees_what_is_seen_outside(
    contained: Start, beside: str, tmp_path: Path, wanted: str, capabilities: tuple[str, ...]
) -> None:
    url = contained(wanted, capabilities, with_bpf(tmp_path) if wanted == "bpf" else None)
    inside, outside = series(url), series(beside)
    assert (wanted, "procfs") == (source(inside), source(outside))
    theirs, ours = group(outside), group(inside)
    assert MARKS == ours[f'latido_group_processes{{group="{MARK}"}}']
    assert any("read_bytes" in key for key in ours)
    common = ours.keys() & theirs.keys()
    assert theirs.keys() <= ours.keys() | {key for key in theirs if "cpu" in key}
    for key in sorted(common):
        # A process that sleeps has spent what it will: to a tick where the kernel counts in ticks.
        tick = MARKS * 0.01 if "cpu_seconds" in key else 0.0
        assert ours[key] == pytest.approx(theirs[key], abs=tick), key
    for key in ("latido_memory_total_bytes", "latido_swap_total_bytes"):
        assert outside[key] == inside[key]

    def processes(found: dict[str, float]) -> float:
        return sum(value for key, value in found.items() if key.startswith("latido_processes{"))

    assert processes(outside) == pytest.approx(processes(inside), rel=0.2)


def test_without_ptrace_other_users_io_is_not_told(contained: Start, beside: str) -> None:
    """SYS_PTRACE is for /proc/PID/io: without it that is absent, never 0, and all else is as it was."""
    url = contained("procfs", ())
    inside, outside = group(series(url)), group(series(beside))
    assert any("read_bytes" in key for key in outside)
    assert [] == [key for key in inside if "read_bytes" in key or "written_bytes" in key]
    assert MARKS == inside[f'latido_group_processes{{group="{MARK}"}}']


@pytest.mark.usefixtures("marks")
def test_auto_takes_procfs_where_the_capabilities_or_the_profile_lack(contained: Start, podman: Podman) -> None:
    assert "procfs" == source(series(contained("auto", PROCFS)))
    assert "CAP_BPF" in podman.status("logs", NAME).stderr
    podman.run("rm", "--force", "--volumes", NAME)
    url = contained("auto", (*PROCFS, *BPF))
    if ties_bpf_to_admin():
        assert "procfs" == source(series(url))
        assert "a security policy forbids it" in podman.status("logs", NAME).stderr
    else:
        assert "bpf" == source(series(url))
