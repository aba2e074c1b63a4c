"""`latido loadtest run`: a fleet's load on the ingest APIs, held to objectives, and every sample counted after it.

The exit status decides: 0 if every objective held and MySQL holds what was acknowledged, 1 if not, 2 for a mistake.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import pymysql

from latido import settings
from latido.settings import Address, DatabaseSettings, Dsn, SettingsError, group, setting
from loadtest import plan, recording, report, shapes, tally, verdict
from loadtest.ledger import HostLedger
from loadtest.ledger import decode as decode_ledger
from loadtest.monitor import Monitor, Usage
from loadtest.plan import Api, Plan
from loadtest.results import FILE, FORMAT, Results, encode, merged, place, versions
from loadtest.shapes import Stage
from loadtest.swarm import Swarm, swarm
from loadtest.tally import Line, summarise
from loadtest.verdict import Comparison, Objectives, Turn
from loadtest.verify import Counts, connect, verify

PROG: Final = "latido loadtest run"
DATA: Final = Path(__file__).with_name("data")
SETTLE_SECONDS: Final = 2.0
"""Of each slice and of the run: left out of what objectives and comparisons look at."""
PROGRESS_SECONDS: Final = 10.0
GRACE_SECONDS: Final = 180.0
"""Beyond its duration a run may take so long to start and to end."""
LEAST_SLICES: Final = 3
"""A slice is at least so many times as long as what is left out of it."""


def _ratio(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise ValueError(f"expected a share from 0 to below 1, such as 0.05, got {value!r}")
    return number


def _growth(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 1 < number <= 10:  # noqa: PLR2004 - more is no search
        raise ValueError(f"expected a factor above 1 and up to 10, such as 1.25, got {value!r}")
    return number


def _rate(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= 10_000:  # noqa: PLR2004 - beyond any machine
        raise ValueError(f"expected hosts a second, such as 20, got {value!r}")
    return number


def _program(value: str) -> tuple[str, int]:
    name, equals, pid = value.rpartition("=")
    if not equals or not name or not pid.isdecimal():
        raise ValueError(f"expected NAME=PID such as mariadb=4711, got {value!r}")
    return name, int(pid)


@dataclass(frozen=True)
class RunSettings:
    """What is loaded, by whom, for how long, and what it is held to."""

    api: str = setting(
        "api", settings.choice("raw", "orm", "both"), "both", "APIs under load; both in turn", metavar="API"
    )
    raw_url: str = setting("raw.url", settings.http_url, "http://127.0.0.1:10111", "where raw serves", metavar="URL")
    orm_url: str = setting("orm.url", settings.http_url, "http://127.0.0.1:10112", "where orm serves", metavar="URL")
    token_file: Path | None = setting(
        "push.token-file", settings.path, None, "file that holds the bearer token alone", metavar="FILE"
    )
    shape: str = setting(
        "shape",
        settings.choice(*shapes.SHAPES),
        "soak",
        "`soak` keeps the hosts, `ramp` adds them bit by bit, `spike` has four times as many for a while,"
        " `search` raises them until an objective breaks",
        metavar="SHAPE",
    )
    hosts: int = setting("hosts", settings.integer(1, 100_000), "50", "hosts that push, at most", metavar="N")
    duration: float = setting("duration", settings.positive_duration, "5m", "of the run, at most", metavar="TIME")
    slice: float = setting(
        "slice", settings.positive_duration, "15s", "how long each API has the load before the other", metavar="TIME"
    )
    spawn_rate: float = setting("spawn-rate", _rate, "20", "hosts that may come or go a second", metavar="N")
    interval: float = setting(
        "push.interval", settings.positive_duration, "5s", "time between two samples of a host", metavar="TIME"
    )
    recording: Path = setting(
        "recording", settings.path, str(DATA / "machine.json"), "what hosts push, from `latido record`", metavar="FILE"
    )
    copies: int = setting(
        "copies", settings.integer(1, 100), "1", "times the recorded processes that a host runs", metavar="N"
    )
    cut_share: float = setting(
        "outage.share", _ratio, "0", "share of hosts that are cut off at any moment, in turn", metavar="SHARE"
    )
    cut_seconds: float = setting(
        "outage.length", settings.positive_duration, "30s", "how long a host is cut off", metavar="TIME"
    )
    search_first: int = setting(
        "search.first", settings.integer(1, 100_000), "20", "hosts that a search begins with", metavar="N"
    )
    search_growth: float = setting(
        "search.growth", _growth, "1.25", "from level to level of a search", metavar="FACTOR"
    )
    readers: int = setting(
        "readers", settings.integer(0, 10_000), "0", "people with dashboards, who read while hosts push", metavar="N"
    )
    read_interval: float = setting(
        "readers.interval", settings.positive_duration, "5s", "between two refreshes of a dashboard", metavar="TIME"
    )
    questions: Path = setting(
        "readers.questions", settings.path, str(DATA / "questions.json"), "SQL that they ask, by name", metavar="FILE"
    )
    objectives: Path = setting(
        "objectives",
        settings.path,
        str(Path(__file__).with_name("objectives.yaml")),
        "YAML file of what each API is held to",
        metavar="FILE",
    )
    workers: int = setting(
        "workers", settings.integer(0, 64), "0", "Locust workers beside a master; 0: one process", metavar="N"
    )
    web: Address | None = setting(
        "web.listen-address", settings.address, None, "show Locust's page there while it runs", metavar="HOST:PORT"
    )
    tags: tuple[str, ...] = setting(
        "tags",
        settings.choice("push", "read", "sql", "metrics"),
        None,
        "do only this: `push`, `read`, or of reading `sql`, `metrics`",
        metavar="TAG",
        repeated=True,
    )
    programs: tuple[tuple[str, int], ...] = setting(
        "program",
        _program,
        None,
        "a process of this machine to watch beside the APIs",
        metavar="NAME=PID",
        repeated=True,
    )
    output: Path = setting(
        "output", settings.path, "loadtest-report", "folder for results.json and the report", metavar="FOLDER"
    )
    database: DatabaseSettings = group(DatabaseSettings)


def main(argv: Sequence[str]) -> int:
    """Run; return the exit status."""

    def body() -> int:
        given = settings.load(RunSettings, PROG, "Load the ingest APIs as a fleet would.", argv, os.environ)
        if given.web is not None:
            settings.guard(given.web, has_token=False, insecure=False, flag="web.listen-address")
        return run(given)

    return settings.run(PROG, body)


def run(given: RunSettings) -> int:
    """Load, count, judge and report; return the exit status. Raises SettingsError."""
    if find_spec("locust") is None:
        raise SettingsError("the library 'locust' is missing; pip install 'latido[loadtest]'")
    objectives = _objectives(given.objectives)
    made = _plan(given, objectives)
    dsn = given.database.resolved()
    _check(made, dsn)
    try:
        given.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"--output: {given.output} cannot be made: {error.strerror}") from None
    where, began = place(), time.time()
    with tempfile.TemporaryDirectory(prefix="latido-loadtest-") as name:
        folder = Path(name)
        plan.write(made, folder)
        with (
            Monitor({api.name: api.url for api in made.apis}, dict(given.programs)) as monitor,
            swarm(
                folder,
                workers=given.workers,
                web=None if given.web is None else (given.web.host, given.web.port),
                tags=given.tags,
            ) as running,
        ):
            for program, process in running.processes.items():
                monitor.add(program, process.pid)
            faults = _follow(running, folder, made)
        usage, ended = monitor.found(), time.time()
        faults += running.faults()
        lines = _lines(folder)
        ledgers = [ledger for file in folder.glob("ledger-*.json") for ledger in decode_ledger(file.read_bytes())]
        turns, stages = _turns(folder)
        (given.output / "locust.log").write_bytes(running.log.read_bytes())
    counts, fault = _count(dsn, made.host_prefix, ledgers)
    if fault is not None:
        faults.append(fault)
    seen = Seen(lines, turns, stages, usage, faults, counts)
    results = msgspec.structs.replace(_results(given, made, objectives, seen), began=began, ended=ended, place=where)
    (given.output / FILE).write_bytes(encode(results))
    page = report.write(results, given.output)
    sys.stdout.write(f"{results.verdict}\nreport: {page}\n")
    return 0 if results.green else 1


def _plan(given: RunSettings, objectives: Objectives) -> Plan:
    apis = [Api("raw", given.raw_url), Api("orm", given.orm_url)]
    apis = [api for api in apis if given.api in {api.name, "both"}]
    width = min(given.slice, given.duration)
    if given.shape != "search":
        # One API alone takes no turns.
        width = shapes.slices_of(given.slice, given.duration) if len(apis) > 1 else given.duration
    settle = min(SETTLE_SECONDS, width / LEAST_SLICES)
    try:
        recording.decode(given.recording.read_bytes())
    except OSError as error:
        raise SettingsError(f"--recording: {given.recording} cannot be read: {error.strerror}") from None
    except recording.RecordingError as error:
        raise SettingsError(f"--recording: {given.recording}: {error}") from None
    if given.shape == "search" and objectives.latency_p95_ms is None:
        raise SettingsError("--shape=search raises the load until latency_p95_ms breaks, which --objectives leaves out")
    dsn = given.database.resolved()
    return Plan(
        run=secrets.token_hex(4),
        apis=apis,
        token=None if given.token_file is None else settings.read_secret(given.token_file, "--push.token-file"),
        recording=str(given.recording.absolute()),
        origin_ms=int(time.time() * 1000),
        copies=given.copies,
        shape=given.shape,
        hosts=given.hosts,
        duration=given.duration,
        slice=width,
        spawn_rate=given.spawn_rate,
        interval=given.interval,
        cut_share=given.cut_share,
        cut_seconds=given.cut_seconds,
        search_first=min(given.search_first, given.hosts),
        search_growth=given.search_growth,
        latency_p95_ms=objectives.latency_p95_ms or 0.0,
        error_ratio=1.0 if objectives.error_ratio is None else objectives.error_ratio,
        readers=given.readers,
        read_interval=given.read_interval,
        questions=str(given.questions.absolute()) if given.readers else None,
        dsn=_dsn_text(dsn) if given.readers else None,
        settle=settle,
    )


def _objectives(path: Path) -> Objectives:
    try:
        return verdict.parse(settings.load_yaml(path.read_bytes(), f"--objectives: {path}"))
    except OSError as error:
        raise SettingsError(f"--objectives: {path} cannot be read: {error.strerror}") from None
    except verdict.ObjectivesError as error:
        raise SettingsError(f"--objectives: {path}: {error}") from None


def _check(made: Plan, dsn: Dsn) -> None:
    """Raise SettingsError for what would make the whole run pointless."""
    for api in made.apis:
        try:
            with urllib.request.urlopen(f"{api.url}/api/health", timeout=10):  # noqa: S310 - settings took http(s) alone
                pass
        except (OSError, urllib.error.URLError) as error:
            raise SettingsError(f"--{api.name}.url: {api.url} does not answer: {error}") from None
    try:
        with connect(dsn) as connection:
            verify(connection, made.host_prefix, [])
    except pymysql.MySQLError as error:
        raise SettingsError(f"--db.dsn: {dsn}, where the samples are counted: {_words(error)}") from None


def _follow(running: Swarm, folder: Path, made: Plan) -> list[str]:
    """Show how it goes until it is over; return what went wrong. Ctrl-C and SIGTERM end it early, and are a fault."""
    stopped: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    began = shown = time.monotonic()
    try:
        while running.main.poll() is None:
            now = time.monotonic()
            if stopped or now - began > made.duration + GRACE_SECONDS:
                running.end()
                return ["it was stopped early" if stopped else "Locust did not end"]
            if now - shown >= PROGRESS_SECONDS:
                _progress(folder, now - began, now - shown)
                shown = now
            try:
                running.main.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        if running.main.returncode:
            tail = running.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            sys.stderr.write(f"{PROG}: the end of Locust's log:\n{tail}\n")
        running.wait()
        return []
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _progress(folder: Path, at: float, width: float) -> None:
    turns, stages = _turns(folder)
    last = time.time() - 1
    lines = [line for line in _lines(folder) if last - width <= line.second < last and line.kind != "read"]
    seen = summarise(lines, width)
    p95 = "-" if seen.p95_ms is None else f"{seen.p95_ms:.0f} ms"
    now = f"{turns[-1].api}, {turns[-1].hosts} hosts" if turns else "starting"
    sys.stdout.write(
        f"{at:5.0f} s  {now}: {seen.rate(seen.requests):.0f} requests/s, {seen.rate(seen.rows):,.0f} rows/s, p95 {p95},"
        f" errors {100 * seen.error_ratio:.2g} %{f', level {len(stages)}' if stages else ''}\n"
    )
    sys.stdout.flush()


def _lines(folder: Path) -> list[Line]:
    return [line for file in sorted(folder.glob("requests-*.jsonl")) for line in tally.parse(file.read_bytes())]


def _turns(folder: Path) -> tuple[list[Turn], list[Stage]]:
    file = folder / "turns.jsonl"
    documents = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()] if file.exists() else []
    turns = [msgspec.convert(document, Turn) for document in documents if "at" in document]
    return turns, [msgspec.convert(document["stage"], Stage) for document in documents if "stage" in document]


def _count(dsn: Dsn, prefix: str, ledgers: Sequence[HostLedger]) -> tuple[Counts | None, str | None]:
    try:
        with connect(dsn) as connection:
            return verify(connection, prefix, ledgers), None
    except pymysql.MySQLError as error:
        return None, f"the samples could not be counted: {_words(error)}"


@dataclass(frozen=True)
class Seen:
    """What a run has left."""

    lines: list[Line]
    turns: list[Turn]
    stages: list[Stage]
    usage: list[Usage]
    faults: list[str]
    counts: Counts | None


def _results(given: RunSettings, made: Plan, objectives: Objectives, seen: Seen) -> Results:
    lines, search = seen.lines, given.shape == "search"
    ends = {turn.number: turn.at + made.settle for turn in seen.turns}
    if seen.turns and not search:
        # Hosts that all begin at once send all their keyframes at once, which no fleet does.
        ends[seen.turns[0].number] += min(made.interval + made.hosts / made.spawn_rate, made.slice / 2)
    live = [line for line in lines if line.kind == "push" and line.second + 1 > ends.get(line.phase, 0.0)]
    seconds = {api.name: max(1.0, len({line.second for line in live if line.api == api.name})) for api in made.apis}
    apis = {name: summarise((line for line in live if line.api == name), width) for name, width in seconds.items()}
    names = sorted({(line.kind, line.api, line.name) for line in lines})
    pushes = not given.tags or "push" in given.tags
    broken = verdict.judge(objectives, apis) if pushes and not search else []
    knees = shapes.knees(seen.stages, objectives.latency_p95_ms or 0.0)
    line = verdict.first_line(broken, seen.counts, seen.faults, knees)
    return Results(
        format=FORMAT,
        verdict=line,
        green=line.startswith("GREEN"),
        broken=broken,
        faults=seen.faults,
        began=0.0,
        ended=0.0,
        settings=_shown(given),
        objectives=objectives,
        place={},
        versions=versions(),
        apis=apis,
        names={
            " ".join(filter(None, key)): summarise(
                (line for line in lines if (line.kind, line.api, line.name) == key), given.duration
            )
            for key in names
        },
        lines=merged(lines),
        turns=seen.turns,
        stages=seen.stages,
        knees=knees,
        comparisons=[] if search else _compared(made, seen),
        usage=seen.usage,
        counts=seen.counts,
    )


def _compared(made: Plan, seen: Seen) -> list[Comparison]:
    if not seen.turns:
        return []
    return verdict.compare(seen.turns, seen.turns[-1].at + made.slice, seen.lines, seen.usage, made.settle)


def _shown(given: RunSettings) -> dict[str, str]:
    """Return the settings that say what a run was: none that names a machine or a secret."""
    names = ("api", "shape", "hosts", "duration", "slice", "interval", "copies", "cut_share", "readers", "workers")
    return {name: str(getattr(given, name)) for name in names}


def _dsn_text(dsn: Dsn) -> str:
    user = quote(dsn.user, safe="") + (f":{quote(dsn.password, safe='')}" if dsn.password else "")
    return f"mysql://{user}@{dsn.host}:{dsn.port}/{dsn.database}" + (f"?ssl-ca={dsn.ssl_ca}" if dsn.ssl_ca else "")


def _words(error: pymysql.MySQLError) -> str:
    return str(error.args[-1]) if error.args else type(error).__name__
