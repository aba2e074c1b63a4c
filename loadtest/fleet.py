"""How many APIs, and what MySQL, a fleet needs: a simulation of its ingest with costs that were measured.

`loadtest.fleet_size` takes points from runs, fits the costs to two and predicts a third that they have not seen.

The model: each host posts three times an interval, one after the other. An API process is one CPU that serves requests
in turn, each for a time of its own and a time for each row of processes. raw then commits together what waits, over so
many connections; orm commits each request by itself. MySQL has so many CPUs; a transaction takes a time of its own and
a time for each row, and then waits for the disk. The simulation is of events, with a seed; it reads and measures
nothing.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct, structs

from loadtest.results import Results
from loadtest.tally import summarise

FEEDS: Final = 3
GROUPED_PUSHES: Final = 128
"""The most pushes of one transaction of raw (ingest.contract.metrics counts batches up to it)."""
CONNECTIONS: Final = {"raw": 2, "orm": 8}
"""Transactions that an API has under way at most: the defaults of --db.connections."""
SETTLE_SECONDS: Final = 3.0
"""Of a slice, at its beginning: left out of a point."""
HOSTS_A_SECOND: Final = 20.0
"""That come at the beginning of a run: the default of --spawn-rate."""
WARM_SECONDS: Final = 2.0
"""Of a simulation, at its beginning: left out."""
HIGHEST_USE: Final = 0.7
"""Of a CPU, on average, in what is recommended: the rest is for restarts, backlogs and keyframes that meet."""
SEED: Final = 7


class Point(Struct, frozen=True, kw_only=True):
    """What a run measured of one API while it had the load. Rates are a second; CPU is in CPUs; times are seconds."""

    api: str
    hosts: int
    interval: float
    rows_a_beat: float
    """Process rows of one sample, on average."""
    requests: float
    rows: float
    transactions: float
    api_cpus: float
    api_idle_cpus: float
    """While the other had the load: what being scraped costs, mostly."""
    db_cpus: float
    commit_seconds: float
    p50_ms: float
    p95_ms: float


class Costs(Struct, frozen=True, kw_only=True):
    """CPU seconds of each stage, and the wait for the disk of a commit."""

    api: str
    api_request: float
    api_row: float
    db_transaction: float
    db_row: float
    commit_seconds: float


class Fleet(Struct, frozen=True):
    """A load: hosts, seconds between two samples of each, and process rows of one of them."""

    hosts: int
    interval: float
    rows_a_beat: float


class Outcome(Struct, frozen=True, kw_only=True):
    """What a simulation found, in the units of `Point`."""

    requests: float
    rows: float
    transactions: float
    api_cpus: float
    db_cpus: float
    p50_ms: float
    p95_ms: float


class Size(Struct, frozen=True, kw_only=True):
    """What a fleet needs: API processes and CPUs of MySQL."""

    api: str
    fleet: Fleet
    apis: int
    db_cpus: int
    outcome: Outcome


class FitError(ValueError):
    """Costs cannot be had from these points; the message says why."""


def points(results: Results) -> list[Point]:
    """Return what a run of both APIs in turn measured of each. Raises FitError for another run."""
    if {turn.api for turn in results.turns} != {"raw", "orm"} or results.stages:
        raise FitError("expected a run of --api=both that keeps its hosts; this is another")
    return [_point(results, api) for api in ("raw", "orm")]


def _point(results: Results, api: str) -> Point:
    windows = list(_windows(results, api))
    other = list(_windows(results, "orm" if api == "raw" else "raw"))
    if not windows or not other:
        raise FitError(f"no whole slice of {api} is in the run")
    seconds = sum(last - first for first, last in windows)
    lines = [
        line
        for line in results.lines
        if line.kind == "push" and line.api == api and any(first <= line.second < last for first, last in windows)
    ]
    requests, rows = sum(line.requests for line in lines), sum(line.rows for line in lines)
    commits, committed = _grown(results, api, windows, "commit")
    times = summarise(lines, seconds)
    interval = float(results.settings["interval"])
    return Point(
        api=api,
        hosts=int(results.settings["hosts"]),
        interval=interval,
        rows_a_beat=rows / requests * FEEDS,
        requests=requests / seconds,
        rows=rows / seconds,
        transactions=commits / seconds,
        api_cpus=_cpus(results, api, windows),
        api_idle_cpus=_cpus(results, api, other),
        db_cpus=_cpus(results, "mariadb", windows),
        commit_seconds=committed / commits if commits else 0.0,
        p50_ms=times.p50_ms or 0.0,
        p95_ms=times.p95_ms or 0.0,
    )


def mean(found: Sequence[Point]) -> Point:
    """Return one point of several rounds of the same run: the mean of what was measured."""
    figures = {
        name: statistics.fmean(getattr(point, name) for point in found)
        for name in Point.__struct_fields__
        if name not in {"api", "hosts", "interval"}
    }
    return structs.replace(found[0], **figures)


def _windows(results: Results, api: str) -> Iterator[tuple[float, float]]:
    """Yield the slices of an API without their first seconds; of the run's first also without its hosts' keyframes."""
    first, hosts = results.turns[0].at, int(results.settings["hosts"])
    interval, duration = (float(results.settings[name]) for name in ("interval", "duration"))
    ends = [*(turn.at for turn in results.turns[1:]), first + duration]
    for turn, last in zip(results.turns, ends, strict=True):
        begins = interval + hosts / HOSTS_A_SECOND if turn.at == first else 0.0
        if turn.api == api and turn.at + begins + SETTLE_SECONDS < last:
            yield turn.at + begins + SETTLE_SECONDS, last


def _cpus(results: Results, program: str, windows: Sequence[tuple[float, float]]) -> float:
    seconds = cpu = 0.0
    for first, last in windows:
        looks = [look for look in results.usage if look.program == program and first <= look.at <= last]
        if len(looks) > 1:
            cpu += looks[-1].cpu_seconds - looks[0].cpu_seconds
            seconds += looks[-1].at - looks[0].at
    if not seconds:
        raise FitError(f"the run did not watch {program}; say --program={program}=PID")
    return cpu / seconds


def _grown(results: Results, api: str, windows: Sequence[tuple[float, float]], stage: str) -> tuple[float, float]:
    """Return how often a stage was gone through in some windows, and for how many seconds, scaled to whole windows."""
    count = seconds = 0.0
    for first, last in windows:
        looks = [look for look in results.usage if look.program == api and first <= look.at <= last and look.stages]
        if len(looks) > 1 and looks[-1].at > looks[0].at:
            before, after = (look.stages or {} for look in (looks[0], looks[-1]))
            share = (last - first) / (looks[-1].at - looks[0].at)
            seconds += share * (after[stage][0] - before[stage][0])
            count += share * (after[stage][1] - before[stage][1])
    return count, seconds


def fit(first: Point, second: Point) -> Costs:
    """Return the costs that explain two points of one API. Raises FitError if the points are too much alike."""
    if first.api != second.api:
        raise FitError(f"one point is of {first.api}, the other of {second.api}")
    request, row = _solve(
        (first.requests, first.rows, first.api_cpus - first.api_idle_cpus),
        (second.requests, second.rows, second.api_cpus - second.api_idle_cpus),
    )
    transaction, db_row = _solve(
        (first.transactions, first.rows, first.db_cpus), (second.transactions, second.rows, second.db_cpus)
    )
    return Costs(
        api=first.api,
        api_request=request,
        api_row=row,
        db_transaction=transaction,
        db_row=db_row,
        commit_seconds=statistics.fmean((first.commit_seconds, second.commit_seconds)),
    )


def _solve(first: tuple[float, float, float], second: tuple[float, float, float]) -> tuple[float, float]:
    """Return x and y of two equations a x + b y = c. Raises FitError where they have no answer above nothing."""
    determinant = first[0] * second[1] - second[0] * first[1]
    if abs(determinant) < 0.1 * first[0] * second[1]:
        raise FitError("the two points have nearly as many rows a request: they say nothing of either's cost")
    x = (first[2] * second[1] - second[2] * first[1]) / determinant
    y = (first[0] * second[2] - second[0] * first[2]) / determinant
    if x <= 0 or y <= 0:
        raise FitError("the two points give a cost below nothing: they were measured at different speeds")
    return x, y


def simulate(costs: Costs, fleet: Fleet, *, apis: int, db_cpus: int, seconds: float, seed: int = SEED) -> Outcome:
    """Return what a fleet would do to so many APIs and CPUs of MySQL. The same arguments give the same answer."""
    return _Simulation(costs, fleet, apis, db_cpus, seed).run(seconds)


class _Api:
    """One process: what waits for its CPU, and what waits for a connection."""

    def __init__(self, connections: int) -> None:
        self.busy = False
        self.requests: deque[tuple[int, int, float]] = deque()
        self.pushes: deque[tuple[int, int, float]] = deque()
        self.free = connections


class _Simulation:
    """Events in the order of time. A push is (host, feed, when it was sent)."""

    def __init__(self, costs: Costs, fleet: Fleet, apis: int, db_cpus: int, seed: int) -> None:
        self._costs = costs
        self._fleet = fleet
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._apis = [_Api(CONNECTIONS[costs.api]) for _ in range(apis)]
        self._grouped = GROUPED_PUSHES if costs.api == "raw" else 1
        self._db_free = db_cpus
        self._db_queue: deque[tuple[_Api, list[tuple[int, int, float]]]] = deque()
        self._events: list[tuple[float, int, str, tuple[object, ...]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._api_seconds = self._db_seconds = 0.0
        self._transactions = self._requests = 0
        self._rows = 0.0
        self._times: list[float] = []

    def run(self, seconds: float) -> Outcome:
        until = WARM_SECONDS + seconds
        for host in range(self._fleet.hosts):
            self._at(self._random.uniform(0, self._fleet.interval), "send", host, 0)
        while self._events and self._events[0][0] < until:
            self._now, _, kind, what = heapq.heappop(self._events)
            getattr(self, f"_{kind}")(*what)
        ordered = sorted(self._times) or [math.inf]
        return Outcome(
            requests=self._requests / seconds,
            rows=self._rows / seconds,
            transactions=self._transactions / seconds,
            api_cpus=self._api_seconds / seconds,
            db_cpus=self._db_seconds / seconds,
            p50_ms=1000 * ordered[len(ordered) // 2],
            p95_ms=1000 * ordered[int(0.95 * len(ordered))],
        )

    def _at(self, delay: float, kind: str, *what: object) -> None:
        heapq.heappush(self._events, (self._now + delay, next(self._order), kind, what))

    @property
    def _counts(self) -> bool:
        return self._now >= WARM_SECONDS

    def _rows_of(self, push: tuple[int, int, float]) -> float:
        return self._fleet.rows_a_beat if push[1] == FEEDS - 1 else 0.0

    def _send(self, host: int, feed: int) -> None:
        if not feed:
            jitter = self._random.uniform(0.9, 1.1)
            self._at(self._fleet.interval * jitter, "send", host, 0)
        api = self._apis[host % len(self._apis)]
        api.requests.append((host, feed, self._now))
        self._serve(api)

    def _serve(self, api: _Api) -> None:
        if api.busy or not api.requests:
            return
        api.busy = True
        push = api.requests.popleft()
        cost = self._costs.api_request + self._costs.api_row * self._rows_of(push)
        if self._counts:
            self._api_seconds += cost
        self._at(cost, "served", api, push)

    def _served(self, api: _Api, push: tuple[int, int, float]) -> None:
        api.busy = False
        api.pushes.append(push)
        self._store(api)
        self._serve(api)

    def _store(self, api: _Api) -> None:
        while api.free and api.pushes:
            api.free -= 1
            batch = [api.pushes.popleft() for _ in range(min(self._grouped, len(api.pushes)))]
            self._db_queue.append((api, batch))
        self._work()

    def _work(self) -> None:
        while self._db_free and self._db_queue:
            self._db_free -= 1
            api, batch = self._db_queue.popleft()
            cost = self._costs.db_transaction + self._costs.db_row * sum(map(self._rows_of, batch))
            if self._counts:
                self._db_seconds += cost
                self._transactions += 1
            self._at(cost, "worked", api, batch)

    def _worked(self, api: _Api, batch: list[tuple[int, int, float]]) -> None:
        self._db_free += 1
        self._at(self._costs.commit_seconds, "stored", api, batch)
        self._work()

    def _stored(self, api: _Api, batch: list[tuple[int, int, float]]) -> None:
        api.free += 1
        for push in batch:
            host, feed, sent = push
            if self._counts:
                self._requests += 1
                self._rows += self._rows_of(push)
                self._times.append(self._now - sent)
            if feed + 1 < FEEDS:
                self._at(0.0, "send", host, feed + 1)
        self._store(api)


def size(costs: Costs, fleet: Fleet, p95_ms: float, seconds: float) -> Size:
    """Return the least APIs and CPUs of MySQL that are in use by at most `HIGHEST_USE` and answer within `p95_ms`."""
    free = simulate(costs, fleet, apis=fleet.hosts, db_cpus=fleet.hosts, seconds=seconds)
    apis = max(1, math.ceil(free.api_cpus / HIGHEST_USE))
    db_cpus = max(1, math.ceil(free.db_cpus / HIGHEST_USE))
    while True:
        outcome = simulate(costs, fleet, apis=apis, db_cpus=db_cpus, seconds=seconds)
        if outcome.p95_ms <= p95_ms or max(apis, db_cpus) > fleet.hosts:
            break
        apis, db_cpus = math.ceil(apis * 1.25), math.ceil(db_cpus * 1.25)
    # What commits together costs MySQL less: with fewer APIs it may need less than each push by itself would.
    db_cpus = max(1, min(db_cpus, math.ceil(outcome.db_cpus / HIGHEST_USE)))
    outcome = simulate(costs, fleet, apis=apis, db_cpus=db_cpus, seconds=seconds)
    return Size(api=costs.api, fleet=fleet, apis=apis, db_cpus=db_cpus, outcome=outcome)
