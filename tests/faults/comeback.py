"""A fleet returns from an outage: `python -m tests.faults.comeback`.

So many exporters of the real push code (sampler, spool, delivery; a made-up process table) begin at the same moment
with spools that an outage has filled. Watched at the reader, as rows become visible in the database: how old is each
live sample; how the APIs answer; how long the backlog takes. At the end every sample is counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import pymysql
from prometheus_client import CollectorRegistry

from dev.mariadb import Mariadb
from dev.program import Program
from exporter.model import PROCESS_DTYPE, CpuSample, CpuTimes, ProcessTable, RamSample
from exporter.push.metrics import PushMetrics
from exporter.push.pusher import HostFacts, Pusher
from exporter.push.sampler import Sampler
from exporter.push.spool import Spool
from exporter.settings import PushSettings
from ingest.contract.wire import Feed
from ingest.schema import upgrade
from latido import logs, settings
from tests.faults.schedule import APIS

LIVE_SECONDS: Final = 2.0
"""No live sample is older when a reader sees it."""
POLL_SECONDS: Final = 0.2
RECENT_SECONDS: Final = 15
"""Looked at in every poll: whoever comes later is found at the end, by when the database received it."""
WORKERS: Final = 2
DRAIN_SECONDS: Final = 3600.0
BOOT_ID: Final = str(uuid.UUID(int=7, version=4))
_TIMES: Final = dict.fromkeys(
    ("nice_ns", "system_ns", "iowait_ns", "irq_ns", "softirq_ns", "steal_ns", "guest_ns", "guest_nice_ns"), 0
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Fleet:
    """How many exporters, how long they were cut off, how often they sample and how many processes they carry."""

    hosts: int = 100
    outage: float = 3600.0
    interval: float = 5.0
    processes: int = 40


@dataclass
class Comeback:
    """What was seen."""

    fleet: Fleet
    drained_seconds: float = 0.0
    live_samples: int = 0
    live_age_max: float = 0.0
    live_age_p99: float = 0.0
    live_age_p50: float = 0.0
    samples: int = 0
    process_rows: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    """Of each part, until the last look."""
    machine_share: float = 0.0
    """What they took together of all processors while the fleet ran: the rest was idle, or somebody else's."""
    violations: list[str] = field(default_factory=list)
    """Samples that are not there once, which no load excuses."""
    missed: list[str] = field(default_factory=list)
    """Bars of time and answers that were not met, on the machine as it was."""


class Busy:
    """A source of `count` processes that all do something between two samples."""

    name = "made-up"

    def __init__(self, count: int) -> None:
        self._records = np.zeros(count, PROCESS_DTYPE)
        self._records["pid"] = np.arange(1, count + 1)
        self._records["start_ticks"] = 100
        self._records["threads"] = 1
        self._records["state"] = b"S"
        self._records["command"] = [b"worker-%d" % (number % 7) for number in range(count)]
        self._records["cgroup"] = 1
        self._reads = 0

    def ram(self) -> RamSample:
        return RamSample(1 << 34, 1 << 33, 1 << 33, 1 << 30, 1 << 20, 0, 0)

    def cpu(self) -> CpuSample:
        times = CpuTimes(user_ns=self._reads * 10_000_000, idle_ns=self._reads, **_TIMES)
        return CpuSample(times, {0: times, 1: times}, 0.5, 0.5, 0.5, self._reads, self._reads, 1_700_000_000)

    def processes(self) -> ProcessTable:
        self._reads += 1
        self._records["user_ns"] += 10_000_000
        self._records["rss_bytes"] += 4096
        return ProcessTable(self._records.copy(), {1: "/system.slice/worker.service"})

    def close(self) -> None:
        """Hold nothing."""


def fill(path: Path, urls: Sequence[str], fleet: Fleet) -> None:
    """Make a spool as an outage leaves it: a sample of each feed at every interval until now."""
    spool = Spool(path, urls)
    spool._db.execute("PRAGMA synchronous=OFF")  # it is made faster than it would come to be
    now = time.time_ns() // 1_000_000
    at = now - round(fleet.outage * 1000)
    sampler = Sampler(
        Busy(fleet.processes),
        spool,
        PushMetrics(CollectorRegistry(), urls),
        boot_id=BOOT_ID,
        keyframe_ms=300_000,
        clock=lambda: at,
    )
    while at < now:
        sampler.take()
        at += round(fleet.interval * 1000)
    spool.close()


def copy(path: Path, to: Path) -> None:
    """Give another host the same spool as a stream of its own."""
    shutil.copyfile(path, to)
    with closing(sqlite3.connect(to)) as database, database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'stream'", (str(uuid.uuid4()),))


def push(spools: Sequence[Path], urls: tuple[str, ...], fleet: Fleet, pipe: Connection) -> None:
    """Be so many exporters in one process until the pipe says stop; then send back how the APIs answered."""
    logs.setup("error", "console")
    pipe.send(asyncio.run(_push(spools, urls, fleet, pipe)))


async def _push(spools: Sequence[Path], urls: tuple[str, ...], fleet: Fleet, pipe: Connection) -> Counter[str]:
    registries = [CollectorRegistry() for _ in spools]
    pushers = [_pusher(spool, urls, fleet, registry) for spool, registry in zip(spools, registries, strict=True)]
    draws = random.Random(0)  # noqa: S311 - when each began to sample

    async def begin(pusher: Pusher, after: float) -> None:
        await asyncio.sleep(after)  # a fleet's samples are spread over the interval
        await pusher.run()

    tasks = [asyncio.create_task(begin(pusher, draws.uniform(0, fleet.interval))) for pusher in pushers]
    while not await asyncio.to_thread(pipe.poll, 1.0):
        for task in tasks:
            if task.done():
                task.result()  # what ends by itself is a defect
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for pusher in pushers:
        pusher.close()
    return _answers(registries, urls)


def _pusher(spool: Path, urls: tuple[str, ...], fleet: Fleet, registry: CollectorRegistry) -> Pusher:
    flags = [
        *(f"--push.url={url}" for url in urls),
        f"--push.interval={round(fleet.interval * 1000)}ms",
        f"--push.host={spool.stem}",
        f"--spool.path={spool}",
    ]
    given = settings.load(PushSettings, "exporter", "One of the fleet.", flags, {})
    return Pusher(given, Busy(fleet.processes), HostFacts(spool.stem, BOOT_ID, "6.1.0"), registry)


def _answers(registries: Sequence[CollectorRegistry], urls: Sequence[str]) -> Counter[str]:
    """Count the answers by API and status."""
    found: Counter[str] = Counter()
    for registry in registries:
        for family in registry.collect():
            for sample in family.samples:
                if sample.name == "latido_push_requests_total":
                    api = APIS[urls.index(sample.labels["api"])]
                    found[f"{api} {sample.labels['status']}"] += int(sample.value)
    return found


class Reader(threading.Thread):
    """Sees each sample when it becomes visible in the database, and how old it is then if it is live."""

    def __init__(self, dsn: str, live_since: int) -> None:
        super().__init__(name="reader")
        self._dsn = settings.dsn(dsn)
        self.since = live_since
        self._over = threading.Event()
        self.ages: list[float] = []
        self.backlog = 0
        """Older samples that are there."""

    def run(self) -> None:
        """Look again and again until `end`."""
        seen: set[tuple[str, int, int]] = set()
        with pymysql.connect(
            host=self._dsn.host,
            port=self._dsn.port,
            user=self._dsn.user,
            password=self._dsn.password,
            database=self._dsn.database,
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
        ) as connection:
            over = False
            while not over:
                over = self._over.wait(POLL_SECONDS)
                # By the primary key: the backlog's rows are not walked through.
                since = self.since / 1000 if over else max(self.since / 1000, time.time() - RECENT_SECONDS)
                for feed in Feed:
                    with connection.cursor() as cursor:
                        cursor.execute(
                            "SELECT s.host_id, s.seq, CAST(ROUND(UNIX_TIMESTAMP(s.sampled_at) * 1000) AS SIGNED),"  # noqa: S608 - names of ours
                            " CAST(ROUND(UNIX_TIMESTAMP(s.received_at) * 1000) AS SIGNED)"
                            f" FROM hosts h STRAIGHT_JOIN {feed.value} s ON s.host_id = h.id"
                            " AND s.sampled_at >= FROM_UNIXTIME(%s)",
                            (since,),
                        )
                        rows = cursor.fetchall()
                    now = time.time()
                    for host, seq, at, received in rows:
                        if (feed.value, host, seq) not in seen:
                            seen.add((feed.value, host, seq))
                            self.ages.append((received / 1000 if over else now) - at / 1000)

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self.join()


def waiting(spools: Sequence[Path]) -> int:
    """Return how many samples of a backlog some API is still to get."""
    count = 0
    for path in spools:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
            query = "SELECT COALESCE(SUM(MAX(backlog_end - backlog, 0)), 0) FROM cursors"
            count += int(database.execute(query).fetchone()[0])
    return count


def run(folder: Path, fleet: Fleet, say: Say) -> Comeback:
    """Let a fleet come back; return what was seen."""
    outcome = Comeback(fleet)
    database = Mariadb(folder / "mariadb", options=("--innodb-buffer-pool-size=1G", "--innodb-log-file-size=512M"))
    programs: list[Program] = []
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        database.start()
        dsn = database.create_database("latido")
        upgrade.main([f"--db.dsn={dsn}"])
        programs += [Program(("ingest", api), (), {"LATIDO_DB_DSN": dsn}) for api in APIS]
        for program in programs:
            program.start(ready="")
        for program in programs:
            program.wait_ready(seconds=60)
        urls = tuple(program.url for program in programs)
        say(f"{fleet.hosts} spools of {fleet.outage:g} s at {fleet.interval:g} s are made")
        first = folder / "spool.sqlite"
        fill(first, urls, fleet)
        spools = [folder / f"web-{number}.sqlite" for number in range(fleet.hosts)]
        for spool in spools:
            copy(first, spool)
        began = time.time()
        reader = Reader(dsn, round(began * 1000))
        reader.start()
        spawn = multiprocessing.get_context("spawn")
        for number in range(WORKERS):
            ours, theirs = spawn.Pipe()
            worker: BaseProcess = spawn.Process(target=push, args=(spools[number::WORKERS], urls, fleet, theirs))
            worker.start()
            workers.append((worker, ours))
        _drain(spools, [running for running, _ in workers], reader, outcome, say)
        parts = {program.command[1]: program.pid for program in programs} | {"database": database.pid or 0}
        parts |= {f"exporters {number}": running.pid or 0 for number, (running, _) in enumerate(workers, 1)}
        outcome.cpu_seconds = {part: round(sum(psutil.Process(pid).cpu_times()[:2]), 1) for part, pid in parts.items()}
        processors = (time.time() - began) * (os.cpu_count() or 1)
        outcome.machine_share = round(sum(outcome.cpu_seconds.values()) / processors, 2)
        reader.end()
        for running, pipe in workers:
            pipe.send("stop")
            if not pipe.poll(120):
                raise TimeoutError("the exporters do not end")
            for answer, count in pipe.recv().items():
                outcome.answers[answer] = outcome.answers.get(answer, 0) + count
            running.join(60)
        _judge(dsn, spools, reader, outcome)
    finally:
        for running, _ in workers:
            running.kill()
        for program in programs:
            program.stop()
            (folder / f"{program.command[1]}.log").write_text(program.log(), encoding="utf-8")
            program.close()
        database.stop()
    return outcome


def _drain(
    spools: Sequence[Path],
    workers: Sequence[BaseProcess],
    reader: Reader,
    outcome: Comeback,
    say: Say,
) -> None:
    """Wait until every backlog is gone, and an interval longer."""
    began = reader.since / 1000
    total = behind = waiting(spools) or 1
    started = False
    while (behind or not started) and time.time() - began < DRAIN_SECONDS:
        time.sleep(1.0)  # between two looks
        for worker in workers:
            if worker.exitcode is not None:
                raise RuntimeError(f"the exporters of {worker.name} ended by themselves, status {worker.exitcode}")
        behind = waiting(spools)
        started = started or behind > 0
        recent = reader.ages[-300:]
        say(
            f"{time.time() - began:6.1f} s: {behind} samples to deliver of {max(total, behind)}; "
            f"{len(reader.ages)} live ones seen, the oldest of the last {len(recent)} at {max(recent, default=0):.2f} s"
        )
        total = max(total, behind)
    outcome.drained_seconds = round(time.time() - began, 1)
    if behind:
        outcome.violations.append(f"after {DRAIN_SECONDS:g} s {behind} samples are still to be delivered")
    time.sleep(outcome.fleet.interval + LIVE_SECONDS)  # a live sample more of every host


def _judge(dsn: str, spools: Sequence[Path], reader: Reader, outcome: Comeback) -> None:
    ages = sorted(reader.ages)
    outcome.live_samples = len(ages)
    if ages:
        outcome.live_age_p50, outcome.live_age_p99, outcome.live_age_max = (
            round(ages[min(len(ages) - 1, int(len(ages) * part))], 3) for part in (0.5, 0.99, 1.0)
        )
    if not ages or ages[-1] > LIVE_SECONDS:
        late = sum(age > LIVE_SECONDS for age in ages)
        outcome.missed.append(f"{late} of {len(ages)} live samples were older than {LIVE_SECONDS:g} s when seen")
    for answer, count in outcome.answers.items():
        if answer.split()[1].startswith("5") or answer.endswith(" 0"):
            outcome.missed.append(f"{count} requests were answered {answer} (0: not at all)")
    given = settings.dsn(dsn)
    with pymysql.connect(host=given.host, port=given.port, user=given.user, database=given.database) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT COUNT(*) FROM process_samples")
        outcome.process_rows = int(cursor.fetchone()[0])  # type: ignore[index] # an aggregate has a row
        for feed in Feed:
            cursor.execute(
                f"SELECT name, COUNT(*), COUNT(DISTINCT seq) FROM {feed.value} JOIN hosts ON id = host_id GROUP BY name"  # noqa: S608 - names of ours
            )
            there = {str(name): (int(rows), int(numbers)) for name, rows, numbers in cursor.fetchall()}
            for spool in spools:
                with closing(sqlite3.connect(spool)) as database:
                    following = database.execute(
                        "SELECT value FROM meta WHERE name = ?", (f"next_seq:{feed.value}",)
                    ).fetchone()
                    left = database.execute("SELECT COUNT(*) FROM samples WHERE feed = ?", (feed.value,)).fetchone()
                taken = int(following[0]) - 1
                rows, numbers = there.get(spool.stem, (0, 0))
                outcome.samples += rows
                if rows != numbers or not taken - int(left[0]) <= rows <= taken:
                    outcome.violations.append(
                        f"{spool.stem} {feed.value}: {taken} samples were taken, {left[0]} wait;"
                        f" the database has {rows} rows of {numbers} numbers"
                    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m tests.faults.comeback", description=__doc__)
    parser.add_argument("--hosts", type=int, default=100, help="exporters (default 100)")
    parser.add_argument("--minutes", type=float, default=60, help="length of the outage (default 60)")
    parser.add_argument("--interval", type=float, default=5, help="seconds between two samples (default 5)")
    parser.add_argument("--processes", type=int, default=40, help="rows a sample (default 40)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome there")
    given = parser.parse_args(argv)
    logs.setup("warning", "console")

    def say(line: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stdout.flush()

    fleet = Fleet(given.hosts, given.minutes * 60, given.interval, given.processes)
    with tempfile.TemporaryDirectory(prefix="latido-comeback-") as folder:
        outcome = run(Path(folder), fleet, say)
    document = json.dumps(asdict(outcome), indent=1)
    if given.json:
        given.json.write_text(document + "\n", encoding="utf-8")
    say(document)
    return 1 if outcome.violations or outcome.missed else 0


if __name__ == "__main__":
    sys.exit(main())
