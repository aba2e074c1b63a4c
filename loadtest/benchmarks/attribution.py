"""How much of a storm's CPU time each exporter's groups account for: what `exits` measures, on a host or in a guest.

The truth is the storm's own getrusage(2). Every contender sees the same storm: ours once for each way of grouping,
process-exporter by command, and psutil polled at the moments of the scrapes. What counts is the increase of counters
over HTTP, from a scrape before the storm to one after it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from prometheus_client.parser import text_string_to_metric_families

from loadtest.benchmarks import storm
from loadtest.benchmarks.measure import LEAST_RUNS
from loadtest.benchmarks.programs import Server, UnavailableError, free_port, serving
from loadtest.benchmarks.scrape import process_exporter

UID: Final = 61234
"""Of the storm: a user without a name."""
CGROUP: Final = "latido-storm"
CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
RULES: Final[Mapping[str, str | None]] = {
    "command": None,
    "user": f"groups:\n  - name: {storm.PREFIX}user\n    user: {UID}\n",
    "cgroup": f"groups:\n  - name: {storm.PREFIX}cgroup\n    cgroup: /{CGROUP}\n",
}
"""Ways of grouping, by name: the rules, or the exporter's default. What the storm is in begins with its prefix."""
START_SECONDS: Final = 300.0
"""A guest without KVM takes its time to import."""
SETTLE_SECONDS: Final = 5.0
"""How long records of ends are waited for; a kernel frees what was waited for after a grace period."""

OUR_CPU: Final = "latido_group_cpu_seconds_total"
OUR_EXITS: Final = "latido_group_exits_total"
THEIR_CPU: Final = "namedprocess_namegroup_cpu_seconds_total"


@dataclass(frozen=True)
class Round:
    """One storm: its CPU seconds and ends, and what each contender attributed, in CPU seconds, and saw end."""

    cpu_seconds: float
    ended: int
    attributed: Mapping[str, float]
    exits: Mapping[str, float]
    scrapes: int

    def shares(self) -> dict[str, float]:
        """Return what share of the storm's CPU time each contender attributed."""
        return {name: seconds / self.cpu_seconds for name, seconds in self.attributed.items()}


@dataclass
class Poller:
    """What someone who polls with psutil sees of the storm: each process as it was when it was seen last."""

    seen: dict[tuple[int, float], float] = field(default_factory=dict)

    def poll(self) -> None:
        """Look at all processes."""
        for process in psutil.process_iter(["name", "create_time", "cpu_times"]):
            info = process.info
            if (info["name"] or "").startswith(storm.PREFIX) and info["cpu_times"]:
                self.seen[process.pid, info["create_time"]] = info["cpu_times"].user + info["cpu_times"].system

    def seconds(self) -> float:
        """Return all that was seen."""
        return sum(self.seen.values())


def total(text: bytes, metric: str, label: str) -> float:
    """Return the sum of a counter over the groups of the storm."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == metric and sample.labels[label].startswith(storm.PREFIX)
    )


def can_group_by_cgroup() -> bool:
    """Whether this machine has a tree of cgroups v2 of its own; beside version 1 their ids are hidden from sources."""
    return (CGROUP_ROOT / "cgroup.procs").exists()


def rules_here() -> list[str]:
    """Return the ways of grouping that this machine allows."""
    return [name for name in RULES if name != "cgroup" or can_group_by_cgroup()]


@contextmanager
def ours(source: str, rules: str | None) -> Iterator[Server]:
    """Run our exporter over a source, with a text of rules."""
    port = free_port()
    binary = str(Path(sys.executable).parent / "latido")
    flags = [f"--source={source}", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        if rules is not None:
            file.write(rules)
            file.flush()
            flags.append(f"--collector.processes.config-file={file.name}")
        url = f"http://127.0.0.1:{port}/metrics"
        with serving([binary, "exporter", *flags], url, within=START_SECONDS) as server:
            yield server


def measure(sources: Sequence[str], rounds: int, runs: int, interval: float) -> list[Round]:
    """Let so many storms go by, each of so many rounds, after one that warms up. A contender that fails is left out."""
    if runs < LEAST_RUNS:
        raise ValueError(f"at least {LEAST_RUNS} runs are needed, got {runs}")
    with ExitStack() as stack:
        starts: dict[str, Callable[[], contextlib.AbstractContextManager[Server]]] = {
            f"{source} by {name}": lambda source=source, name=name: ours(source, RULES[name])  # type: ignore[misc]  # mypy does not infer a default's type
            for source in sources
            for name in rules_here()
        }
        servers = dict(_started(stack, starts))
        reference = dict(_started(stack, {"process-exporter": process_exporter}))
        found = []
        for number in range(runs + 1):
            found.append(one_storm(servers, reference, rounds, interval))
            note(f"storm {number} of {runs}: {found[-1].cpu_seconds:.2f} CPU seconds")
    return found[1:]


def one_storm(servers: Mapping[str, Server], reference: Mapping[str, Server], rounds: int, interval: float) -> Round:
    """Let one storm go by, all scraping and polling at the interval meanwhile."""
    poller = Poller()
    everyone = {**servers, **reference}
    metrics = dict.fromkeys(servers, (OUR_CPU, "group")) | dict.fromkeys(reference, (THEIR_CPU, "groupname"))
    over, scrapes = threading.Event(), 0

    def watch() -> None:
        nonlocal scrapes
        while not over.wait(interval):
            for server in everyone.values():
                server.scrape()
            poller.poll()
            scrapes += 1

    with stormer(rounds) as process:
        before = {name: server.scrape() for name, server in everyone.items()}
        poller.poll()
        seen_before = poller.seconds()
        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            said = json.loads(told(process, "go"))
        finally:
            over.set()
            watcher.join()
        exits = {
            name: settled(server, total(before[name], OUR_EXITS, "group"), said["waited"])
            for name, server in servers.items()
        }
        after = {name: server.scrape() for name, server in everyone.items()}
        poller.poll()
        truth = json.loads(told(process, "end"))["cpu_seconds"]
    attributed = {
        name: total(after[name], *metrics[name]) - total(before[name], *metrics[name]) for name in everyone
    } | {"psutil": poller.seconds() - seen_before}
    return Round(truth, said["waited"], attributed, exits, scrapes)


def settled(server: Server, before: float, expected: int) -> float:
    """Scrape until so many ends have been told of, or the time is over; return how many were."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        exits = total(server.scrape(), OUR_EXITS, "group") - before
        if exits >= expected or time.monotonic() > deadline:
            return exits
        time.sleep(0.05)


@contextmanager
def stormer(rounds: int) -> Iterator[subprocess.Popen[str]]:
    """Start a storm's parent, ready to be told to go. It needs root: it becomes another user."""
    with ExitStack() as stack:
        shells = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shells.chmod(0o755)
        for name in ("st-execd", "st-late"):
            (shells / name).symlink_to("/bin/sh")
        command = [sys.executable, "-I", storm.__file__, f"--rounds={rounds}", f"--uid={UID}", f"--shells={shells}"]
        if can_group_by_cgroup():
            folder = CGROUP_ROOT / CGROUP
            folder.mkdir(exist_ok=True)
            stack.callback(_remove_cgroup, folder)
            command.append(f"--cgroup={folder}")
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
        )
        try:
            heard(process)
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def told(process: subprocess.Popen[str], word: str) -> str:
    """Tell the storm a word and return its answer. Raises UnavailableError if it has ended."""
    if process.stdin is None:
        raise ValueError("the storm's input is not a pipe")
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return heard(process)


def heard(process: subprocess.Popen[str]) -> str:
    """Return the next line that the storm says. Raises UnavailableError if it has ended."""
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise UnavailableError("the storm ended before its time; it needs root, to become another user")
    return line


def worst(rounds: Iterable[Round], source: str) -> list[float]:
    """Return each round's smallest share over the ways of grouping, for one of our sources."""
    shares = [[share for name, share in one.shares().items() if name.startswith(f"{source} by ")] for one in rounds]
    return [min(of_round) for of_round in shares if of_round]


def _started(
    stack: ExitStack, starts: Mapping[str, Callable[[], contextlib.AbstractContextManager[Server]]]
) -> Iterator[tuple[str, Server]]:
    for name, start in starts.items():
        try:
            yield name, stack.enter_context(start())
            note(f"{name} serves")
        except UnavailableError as error:
            note(f"{name} is left out: {error}")


def note(progress: str) -> None:
    """Say how far it is, to the person who runs it: in a guest it takes minutes."""
    sys.stderr.write(f"{progress}\n")
    sys.stderr.flush()


def _remove_cgroup(folder: Path) -> None:
    """Remove it once its last process is gone, which is a moment after that was waited for."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
