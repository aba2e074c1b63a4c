"""One campaign: faults strike a stack, watchers hold what must be true, and at the end every sample is counted."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from dev.mariadb import MariadbError
from dev.program import Program
from tests.faults import checks
from tests.faults.checks import HostState
from tests.faults.reader import Followed, Reader
from tests.faults.schedule import ALL, DATABASE, Fault
from tests.faults.stack import NAMES, Plan, Stack

RESIDENT_BYTES: Final = {"exporter": 160 << 20, "ingest": 448 << 20}
"""Beyond this a program's memory is not bounded: three times what it takes here when nothing is wrong."""
DESCRIPTORS: Final = 256
TRUTH_SECONDS: Final = 0.5
"""A signal or a reset takes a moment to arrive; who is asked later must know."""
LATE: Final = 5
"""Looks in a row at a program that should be ready: one answer may be slow on a busy machine."""
CALM_SECONDS: Final = 20.0
"""After so long without a disturbance a program must be ready: more than any time-out of ours."""
SETTLE_SECONDS: Final = 300.0
"""Longest pause of a delivery (30 s), then what has waited at the backlog's rate."""
WATCH_SECONDS: Final = 1.0
_STAGES: Final = "latido_ingest_stage_seconds_sum"
_PUSHES: Final = 'latido_ingest_stage_seconds_count{stage="decode"}'

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a campaign found."""

    seed: int
    seconds: float
    faults: list[Fault] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    samples: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    missing: int = 0
    failed: int = 0
    """Samples that an exporter could not read or keep, as its counters said when last seen."""
    process_rows: int = 0
    frames: int = 0
    """That a client of the bridge was sent, over so many `connections`."""
    connections: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    resident_mib: dict[str, float] = field(default_factory=dict)
    descriptors: dict[str, int] = field(default_factory=dict)
    settled_seconds: float = 0.0

    def document(self) -> dict[str, object]:
        """Return it as JSON takes it."""
        kinds = Counter(fault.kind for fault in self.faults)
        return {"verdict": "violated" if self.violations else "held", "faults_by_kind": dict(sorted(kinds.items()))} | {
            **dataclasses.asdict(self)
        }


class Look(NamedTuple):
    """What a program took at a moment (seconds from the beginning): bytes, descriptors, and an API its work so far."""

    at: float
    resident: int
    descriptors: int
    stage_seconds: float
    """That its pushes and transactions have taken together, in all stages."""
    pushes: float


@dataclass
class _Watched:
    """What a watcher knows of one program."""

    pid: int = 0
    counters: dict[str, float] = field(default_factory=dict)
    resident: int = 0
    descriptors: int = 0
    looks: list[Look] = field(default_factory=list)
    late: int = 0
    failed: Counter[int] = field(default_factory=Counter)


class Campaign:
    """Runs faults over a stack. `say` gets a line of progress at a time."""

    def __init__(self, folder: Path, seed: int, seconds: float, faults: Sequence[Fault], say: Say) -> None:
        self._outcome = Outcome(seed, seconds, list(faults))
        self._folder = folder
        self._say = say
        self._over = threading.Event()
        self._called_off = threading.Event()
        self._violations: list[str] = []
        self._watched: dict[str, _Watched] = {}
        self._readers: list[Reader] = []
        self._began = time.monotonic()

    def looks(self) -> dict[str, list[Look]]:
        """Return what was seen of each program, once a second, without those that were struck just then."""
        return {name: watched.looks for name, watched in self._watched.items()}

    def run(self, plan: Plan | None = None) -> Outcome:
        """Run to the end and return what was found. Raises what keeps the stack from starting."""
        stack = Stack(self._folder, self._outcome.seed, plan or Plan())
        # The pool's threads start programs, which end with them: it is shut down after the stack.
        with ThreadPoolExecutor(32, thread_name_prefix="fault") as pool, ExitStack() as clients:
            try:
                stack.start()
                self._watched = {name: _Watched() for name in stack.programs()}
                self._readers = [
                    clients.enter_context(Reader(bridge.port, self._violated)) for bridge in stack.bridges.values()
                ]
                watchers = [pool.submit(self._watch, stack, name) for name in self._watched]
                self._strike_all(stack, pool)
                self._settle(stack)
                self._over.set()
                for watcher in watchers:
                    watcher.result()
                self._count(stack)
            finally:
                self._called_off.set()
                self._over.set()
                stack.close()
        self._outcome.violations = self._violations
        return self._outcome

    def _violated(self, line: str) -> None:
        self._say(f"VIOLATION {line}")
        self._violations.append(line)

    # --- the faults ---

    def _strike_all(self, stack: Stack, pool: ThreadPoolExecutor) -> None:
        begin = time.monotonic()
        running: list[tuple[Fault, Future[None]]] = []
        for number, fault in enumerate(self._outcome.faults, 1):
            time.sleep(max(0.0, begin + fault.at - time.monotonic()))  # what the schedule says
            # What it strikes may not have come back yet: the machine has its own pace.
            for other, before in running:
                if ALL in {fault.target, other.target} or other.target == fault.target:
                    before.result()
            sent, there = len(stack.ledger.sent), len(stack.ledger.acknowledged)
            self._say(f"{number:3}/{len(self._outcome.faults)} {fault}   [{sent} samples sent, {there} acknowledged]")
            running = [(other, before) for other, before in running if not before.done()]
            running.append((fault, pool.submit(self._strike, stack, fault)))
        for _, before in running:
            before.result()
        time.sleep(max(0.0, begin + self._outcome.seconds - time.monotonic()))

    def _strike(self, stack: Stack, fault: Fault) -> None:
        try:
            stack.strike(fault, self._rest)
        except (OSError, TimeoutError, MariadbError) as error:
            # What it was to strike is gone, or did not come back.
            self._violated(f"{fault}: {type(error).__name__}: {error}")

    def _rest(self, seconds: float) -> None:
        self._called_off.wait(seconds)

    # --- throughout ---

    def _watch(self, stack: Stack, name: str) -> None:
        """Hold one program to what must be true of it, once a second."""
        program = stack.programs()[name]
        while not self._over.wait(WATCH_SECONDS):
            began = time.monotonic()
            try:
                pid = program.pid
            except ProcessLookupError:
                continue  # killed, and about to be started again
            if not program.runs():
                if not stack.disturbed.any([name], began, time.monotonic()):
                    self._violated(f"{name} ended by itself: {program.log()[-1500:]}")
                    return
                continue
            self._check_ready(stack, name, program)
            self._check_counters(name, program, pid)
            self._check_size(name, pid)

    def _check_ready(self, stack: Stack, name: str, program: Program) -> None:
        watched = self._watched[name]
        asked = time.monotonic()
        status, _ = program.get("/-/ready")
        answered = time.monotonic()
        parts = [name, *((DATABASE, f"{name}>{DATABASE}") if name not in stack.exporters else ())]
        if name in stack.apis and status == 200:
            for cause in ("database is dead", f"{name}>{DATABASE} is cut"):
                if stack.disturbed.throughout(cause, asked - TRUTH_SECONDS, answered):
                    self._violated(f"{name} says that it is ready while it cannot store: {cause}")
        calm = not stack.disturbed.any(parts, asked - CALM_SECONDS, answered)
        watched.late = watched.late + 1 if calm and status != 200 else 0
        if watched.late == LATE:
            self._violated(f"{name} is not ready (status {status}), {CALM_SECONDS:g} s after the last disturbance")

    def _check_counters(self, name: str, program: Program, pid: int) -> None:
        watched = self._watched[name]
        status, text = program.get("/metrics")
        if status != 200 or not program.runs() or program.pid != pid:
            return
        now = checks.counters(text)
        if watched.pid == pid:
            for line in checks.fallen(watched.counters, now):
                self._violated(f"{name}: {line}")
        watched.pid, watched.counters = pid, now
        failed = sum(value for series, value in now.items() if series.startswith("latido_push_samples_failed_total"))
        watched.failed[pid] = max(watched.failed[pid], int(failed))

    def _check_size(self, name: str, pid: int) -> None:
        watched = self._watched[name]
        try:
            resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
                "SC_PAGESIZE"
            )
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone
        except OSError:
            return  # it was killed just now
        watched.resident, watched.descriptors = max(watched.resident, resident), max(watched.descriptors, descriptors)
        seconds = sum(value for series, value in watched.counters.items() if series.startswith(_STAGES))
        pushes = watched.counters.get(_PUSHES, 0.0)
        watched.looks.append(Look(time.monotonic() - self._began, resident, descriptors, seconds, pushes))
        bound = RESIDENT_BYTES["ingest" if name in {"raw", "orm"} else "exporter"]
        if resident > bound:
            self._violated(f"{name} takes {resident >> 20} MiB; expected at most {bound >> 20}")
        if descriptors > DESCRIPTORS:
            self._violated(f"{name} holds {descriptors} descriptors; expected at most {DESCRIPTORS}")

    # --- the end ---

    def _settle(self, stack: Stack) -> None:
        """Wait until every program is ready and every spool delivered; who does not get there violates."""
        began = time.monotonic()
        stack.freeze_hosts()
        self._say("no more faults: every program must be ready, every spool empty but for what was just taken")
        taken = {name: _taken(exporter.program) for name, exporter in stack.exporters.items()}
        waits: dict[str, Callable[[], bool]] = {
            **{f"{name} is ready": _ready(program) for name, program in stack.programs().items()},
            **{f"{name} takes samples": _grows(e.program, taken[name] + 9) for name, e in stack.exporters.items()},
            **{f"{name} has delivered": _delivered(e.program) for name, e in stack.exporters.items()},
        }
        while waits and time.monotonic() - began < SETTLE_SECONDS:
            waits = {what: holds for what, holds in waits.items() if not holds()}
            time.sleep(0.2)  # between two looks
        newest = checks.newest(stack.dsn)
        while (behind := self._behind(newest)) and time.monotonic() - began < SETTLE_SECONDS:
            time.sleep(0.2)  # as above
        for line in behind:
            self._violated(line)
        for what in waits:
            self._violated(f"{SETTLE_SECONDS:g} s after the last fault still not: {what}")
        self._outcome.settled_seconds = round(time.monotonic() - began, 1)

    def _behind(self, newest: Mapping[Followed, int]) -> list[str]:
        return [line for reader in self._readers for line in reader.behind(newest)]

    def _count(self, stack: Stack) -> None:
        for name, status in stack.stop().items():
            if status:
                self._violated(f"{name} ended with status {status} at SIGTERM; expected 0")
        stored = checks.read_database(stack.dsn)
        hosts = [
            HostState(NAMES[name], checks.read_spool(exporter.spool), exporter.host.cpu_ns)
            for name, exporter in stack.exporters.items()
        ]
        for line in checks.violations(stack.ledger, stored, hosts):
            self._violated(line)
        outcome = self._outcome
        outcome.samples = dict(checks.feeds(stored.samples))
        outcome.acknowledged = dict(checks.feeds(stack.ledger.acknowledged))
        outcome.process_rows = sum(map(len, stored.processes.values()))
        outcome.lost = sum(sum(host.spool.lost.values()) for host in hosts)
        outcome.missing = sum(len(numbers) for host in hosts for numbers in checks.missing(host, stored).values())
        outcome.answers = {f"{api} {status}": count for (api, status), count in sorted(stack.ledger.answers.items())}
        outcome.frames = sum(reader.frames for reader in self._readers)
        outcome.connections = sum(reader.connections for reader in self._readers)
        for name, watched in self._watched.items():
            outcome.resident_mib[name] = round(watched.resident / (1 << 20), 1)
            outcome.descriptors[name] = watched.descriptors
            outcome.failed += watched.failed.total()


def _ready(program: Program) -> Callable[[], bool]:
    return lambda: program.get("/-/ready")[0] == 200


def _taken(program: Program) -> float:
    return program.metric('latido_push_samples_taken_total{feed="procesos"}')


def _grows(program: Program, beyond: float) -> Callable[[], bool]:
    return lambda: _taken(program) >= beyond


def _delivered(program: Program) -> Callable[[], bool]:
    # A sample or two of each feed may be on its way at any moment.
    return lambda: 0 < program.get("/metrics")[0] and program.metric("latido_spool_samples") <= 6
