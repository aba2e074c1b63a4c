"""compose.yaml as containers: data flows, and restarting, ending and killing each service loses and doubles nothing.

Run with podman on a stand-in base. MariaDB, nginx and Prometheus are Debian's, under the names of the images that they
stand in for; Grafana is left out.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymysql
import pytest
from websockets.asyncio.client import connect

from dev.compose import Stack
from dev.waiting import wait_for
from tests import history
from tests.containers.asking import FEEDS, dsn, get, prometheus, seqs, series, wait_flow
from tests.senders import SENDERS, Senders, apis_by_seq

PORTS = {"exporter": 10110, "ingest-raw": 10111, "ingest-orm": 10112, "bridge": 10113}
STAYING = ("mysql", "retain", *PORTS, "gateway", "prometheus")
"""The services that run for ever."""
ROOM = 32 << 20
"""Bytes between what a service uses and the limit that it is given, to be exceeded."""
LOAD = 300
"""Posts that are answered before an API is told to end."""


def url(stack: Stack, name: str) -> str:
    return f"http://{stack.address(name)}:{PORTS[name]}"


def wait_up(stack: Stack, name: str) -> None:
    """Wait until a service does what others count on."""
    wait_for(lambda: stack.state(name)["Status"] == "running", f"{name} runs", 60)
    if "healthcheck" in stack.services[name]:
        stack.wait_healthy(name)
    if name == "prometheus":
        wait_for(lambda: len(prometheus(stack, "up == 1")) == len(PORTS), "Prometheus has all four programs", 120)
    wait_flow(stack)


async def frames_until_sample(address: str) -> list[str]:
    """Return the types of the frames that a new client gets, up to the first sample."""
    found: list[str] = []
    async with asyncio.timeout(60), connect(address, max_size=64 << 20) as socket:
        while "sample" not in found:
            found.append(json.loads(await socket.recv())["type"])
    return found


def test_data_flows_to_every_reader(stack: Stack) -> None:
    wait_flow(stack)
    assert {"exited"} == {stack.state(name)["Status"] for name in ("secrets", "schema")}
    assert dict.fromkeys(STAYING, "running") == {name: stack.state(name)["Status"] for name in STAYING}
    for table in (*FEEDS, "process_samples", "processes"):
        assert history.query(dsn(stack), f"SELECT COUNT(*) FROM {table}")[0][0] > 0  # noqa: S608 - a table's name
    stored = "SELECT api FROM ram UNION SELECT api FROM cpu UNION SELECT api FROM procesos"
    wait_for(lambda: len(history.query(dsn(stack), stored)) == 2, "the gateway splits between the two APIs", 60)
    wait_for(lambda: len(prometheus(stack, "up == 1")) == len(PORTS), "Prometheus has all four programs", 120)
    wait_for(lambda: prometheus(stack, "sum(latido_group_processes)"), "Prometheus has groups", 60)
    for name in PORTS:
        assert 200 == get(f"{url(stack, name)}/metrics")[0], name
    assert 200 == get(f"{url(stack, 'bridge')}/")[0]
    # Of each host that has pushed a snapshot of each feed, whatever other tests have stored.
    hello, *snapshots, sample = asyncio.run(frames_until_sample(f"{url(stack, 'bridge').replace('http', 'ws')}/ws"))
    assert ("hello", {"snapshot"}, "sample") == (hello, set(snapshots), sample)
    assert len(snapshots) >= len(FEEDS)


def test_each_program_may_only_what_it_has_to(stack: Stack) -> None:
    """What the containers are held to is what the file says, as the kernel has it: /proc/PID/status."""
    rights = {"SYS_PTRACE": 19, "DAC_READ_SEARCH": 2, "BPF": 39, "PERFMON": 38}
    for name in PORTS:
        with open(f"/proc/{stack.pid(name)}/status", encoding="utf-8") as file:  # noqa: PTH123 - procfs
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        expected = sum(1 << bit for bit in rights.values()) if name == "exporter" else 0
        assert (f"{expected:016x}", "1") == (status["CapBnd"], status["NoNewPrivs"]), name
        assert ("0" if name == "exporter" else "10001") == status["Uid"].split()[0]
        assert stack.podman.status("exec", stack.container(name), "touch", "/written").returncode != 0


@pytest.mark.parametrize("name", STAYING)
def test_a_restart_costs_nothing(stack: Stack, name: str) -> None:
    before = stack.pid(name)
    stack.podman.run("restart", stack.container(name), timeout=180)
    assert before != stack.pid(name)
    wait_up(stack, name)


@pytest.mark.parametrize("name", STAYING)
def test_being_killed_costs_nothing(stack: Stack, name: str) -> None:
    """SIGKILL from outside, as when memory runs out or the machine is reset; the restart is the file's policy."""
    before = stack.pid(name)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: stack.pid(name) not in {0, before}, f"{name} is started again", 60)
    wait_up(stack, name)


def memory_limit(pid: int) -> tuple[Path, Path]:
    """Return the files of what a process's memory cgroup uses and may use, of either version of cgroups."""
    found = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in found:
        if "memory" in controllers.split(","):
            folder = Path(f"/sys/fs/cgroup/memory{path}")
            return folder / "memory.usage_in_bytes", folder / "memory.limit_in_bytes"
    ((_, _, path),) = [each for each in found if each[0] == "0"]
    return Path(f"/sys/fs/cgroup{path}/memory.current"), Path(f"/sys/fs/cgroup{path}/memory.max")


def out_of_memory_kills() -> int:
    """Return how many processes this kernel has killed for memory since boot: /proc/vmstat."""
    return int(dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())["oom_kill"])


@pytest.mark.parametrize("name", ["mysql", *PORTS])
def test_the_kernels_kill_for_memory_costs_nothing(stack: Stack, name: str) -> None:
    """Its cgroup gets a limit, another process in it takes more than there is, and the kernel is told whom to kill."""
    before, kills = stack.pid(name), out_of_memory_kills()
    usage, limit = memory_limit(before)
    limit.write_text(str(int(usage.read_text()) + ROOM))
    Path(f"/proc/{before}/oom_score_adj").write_text("1000")
    hog = f"held = b'x' * {8 * ROOM}"
    assert stack.podman.status("exec", stack.container(name), "python3", "-c", hog).returncode != 0
    wait_for(lambda: stack.pid(name) not in {0, before}, f"{name} is started again", 60)
    assert out_of_memory_kills() > kills
    wait_up(stack, name)


def test_the_profile_stress_is_seen(stack: Stack) -> None:
    stack.start("stress")
    try:
        counted = 'latido_group_processes{group="stress"}'
        wait_for(
            lambda: series(url(stack, "exporter")).get(counted, 0) >= 3, "the exporter counts stress's workers", 60
        )
    finally:
        stack.podman.run("rm", "--force", "--time=2", stack.container("stress"))


@contextmanager
def scrapers(address: str) -> Iterator[None]:
    """Ask for /metrics again as soon as it is answered, four at a time."""
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            get(f"{address}/metrics")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def end(stack: Stack, name: str) -> None:
    """End a service by SIGTERM: status 0, before its grace period is over and it would be killed."""
    grace = int(stack.services[name]["stop_grace_period"].removesuffix("s"))
    began = time.monotonic()
    stack.podman.run("stop", stack.container(name), timeout=grace + 60)
    state = stack.state(name)
    assert ("exited", 0) == (state["Status"], state["ExitCode"]), stack.logs(name)[-4000:]
    assert time.monotonic() - began < grace


@pytest.mark.parametrize("api", ["raw", "orm"])
def test_an_api_that_is_ended_under_load_keeps_what_it_acknowledged(stack: Stack, api: str) -> None:
    name, token = f"ingest-{api}", (stack.folder("secrets") / "push-token").read_text()
    senders = Senders(url(stack, name), host=f"drained-{api}", token=token, until_refused=True)
    try:
        senders.wait_for(LOAD)
        end(stack, name)
    finally:
        senders.end()
    # Who still sends while it drains is told to come again (503), and has nothing stored.
    assert {201} <= set(senders.answers.values()) <= {201, 503}
    acknowledged = {seq for seq, status in senders.answers.items() if status == 201}
    stored = apis_by_seq(dsn(stack), f"drained-{api}")
    assert acknowledged <= stored.keys()
    refused = senders.answers.keys() - acknowledged
    assert set() == refused & stored.keys()
    # What is stored without an answer was under way: its sender would send it again, and it would be told a duplicate.
    assert len(stored.keys() - acknowledged) <= SENDERS
    stack.podman.run("start", stack.container(name))
    wait_up(stack, name)


def test_an_exporter_that_is_ended_under_load_loses_nothing(stack: Stack) -> None:
    with scrapers(url(stack, "exporter")):
        wait_flow(stack)
        end(stack, "exporter")
    stack.podman.run("start", stack.container("exporter"))
    wait_up(stack, "exporter")
    assert 0 == sum(value for key, value in series(url(stack, "exporter")).items() if "spool_lost_samples" in key)


def test_a_bridge_that_is_ended_tells_its_clients(stack: Stack) -> None:
    async def watch() -> int | None:
        async with connect(f"{url(stack, 'bridge').replace('http', 'ws')}/ws", max_size=64 << 20) as socket:

            async def read() -> None:
                async for _ in socket:
                    started.set()

            started = asyncio.Event()
            # All the time: what closes the connection comes after what was sent before.
            async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
                tasks.create_task(read())
                await started.wait()
                await asyncio.to_thread(end, stack, "bridge")
            return socket.close_code

    assert 1001 == asyncio.run(watch())  # going away, RFC 6455
    stack.podman.run("start", stack.container("bridge"))
    wait_up(stack, "bridge")


def test_retain_ends_at_once(stack: Stack) -> None:
    end(stack, "retain")
    stack.podman.run("start", stack.container("retain"))
    wait_up(stack, "retain")


def test_the_exporters_count_is_the_databases(stack: Stack) -> None:
    """At the end of it all: each number once, each sample with the processes that it says."""
    wait_flow(stack)
    for feed in FEEDS:
        numbers = seqs(stack, feed)
        assert list(range(1, len(numbers) + 1)) == numbers
    orphans = (
        "SELECT COUNT(*) FROM process_samples s LEFT JOIN procesos p USING (host_id, sampled_at, seq)"
        " WHERE p.seq IS NULL"
    )
    assert 0 == history.query(dsn(stack), orphans)[0][0]
    with pytest.raises(pymysql.MySQLError):
        history.query(dsn(stack), "DELETE FROM ram")  # the user for reading may only read
