"""Locust's users: one host's exporter each, and people with dashboards. Only Locust's own processes import this.

An exporter takes a sample of each feed at every interval and posts it, gzip-compressed, to the API whose turn it is.
What is not acknowledged waits: live samples go first, and what has piled up follows in batches at a bounded rate, as
`exporter.push.delivery` does. Unlike there, one host has one request under way at a time.
"""

from __future__ import annotations

import itertools
import os
import random
import time
import uuid
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, cast

import gevent.ssl
import msgspec
import pymysql
from locust import FastHttpUser, User, tag, task

from ingest.contract.wire import Feed, parse_accepted
from latido import settings
from loadtest import ledger, plan, recording, shapes, tally
from loadtest.plan import Api, Plan
from loadtest.replay import Host, Replay, Sample
from loadtest.verify import connect

BATCH_SAMPLES: Final = 20
"""In one request, as exporter.push.delivery has it. More than that waiting is a backlog."""
BATCH_BYTES: Final = 1 << 20
BACKLOG_RATE: Final = 20.0
"""Samples a second, the default of the exporter's --push.backlog-rate."""
TIMEOUT_SECONDS: Final = 15.0
"""The default of the exporter's --push.timeout."""
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
MOST_WAITING: Final = 10_000
"""Samples of a feed that a host keeps; more would be a defect of the run, which never lasts so long."""
CUT_LOOK_SECONDS: Final = 1.0
"""Between two looks of a host that is cut off, whether it still is."""
JITTER: Final = 0.1
"""Of the interval, to both sides: timers of a fleet are not in step."""


@dataclass
class Waiting:
    """A sample that no API has acknowledged; once it was sent, nobody knows whether it is stored."""

    sample: Sample
    sent: bool = False
    late: bool = False
    """Taken while the host was cut off: its age says nothing of an API."""


@dataclass
class Run:
    """What the users of this process share."""

    plan: Plan
    folder: Path
    replay: Replay
    tally: tally.Tally = field(default_factory=tally.Tally)
    phase: int = 0
    api: Api | None = None
    began: float = field(default_factory=time.time)
    exporters: list[ExporterUser] = field(default_factory=list)
    questions: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def turn(self, number: int, name: str) -> None:
        """Let another API have the load."""
        self.phase, self.api = number, next(api for api in self.plan.apis if api.name == name)

    def now(self) -> Api:
        """Return whose turn it is."""
        return self.api or self.plan.apis[0]

    def ledger(self) -> bytes:
        """Return what the hosts of this process know of their samples."""
        return ledger.encode(user.ledger() for user in self.exporters)


def load() -> Run:
    """Return the run that this process belongs to."""
    given, folder = plan.read()
    made = recording.decode(Path(given.recording).read_bytes())
    replay = Replay(recording.steps(made), made.interval_ms, given.origin_ms, copies=given.copies)
    questions = {}
    if given.questions is not None and given.dsn is not None:
        questions = msgspec.json.decode(Path(given.questions).read_bytes(), type=dict[str, str])
    return Run(given, folder, replay, questions=questions)


RUN: Final = load()


class ExporterUser(FastHttpUser):
    """One host."""

    host = RUN.plan.apis[0].url
    insecure = False
    connection_timeout = TIMEOUT_SECONDS
    network_timeout = TIMEOUT_SECONDS

    def on_start(self) -> None:
        """Be a host that none was before."""
        self._number = next(RUN.numbers)
        # Of several processes each has its own hosts.
        name = f"{RUN.plan.host_prefix}{os.getpid()}-{self._number}"
        start = self._number * 7 % len(RUN.replay)
        self._host = Host(name, str(uuid.uuid4()), str(uuid.uuid4()), start)
        self._waiting: dict[Feed, deque[Waiting]] = {feed: deque() for feed in Feed}
        self._accounts = {feed: ledger.Account() for feed in Feed}
        self._failures = 0
        self._not_before = 0.0
        # A host begins somewhere within the interval: those of one moment would otherwise stay in step.
        self._base = time.monotonic() + random.uniform(0, RUN.plan.interval)  # noqa: S311 - no secret
        self._beats = 0
        self._due = self._base
        self._backlog_due = 0.0
        self._behind: set[Feed] = set()
        RUN.exporters.append(self)

    def wait_time(self) -> float:
        """Return seconds until something is due."""
        due = self._due
        if any(len(waiting) > 0 for waiting in self._waiting.values()):
            due = min(due, max(self._backlog_due, self._not_before))
        return max(0.0, due - time.monotonic())

    @tag("push")
    @task
    def work(self) -> None:
        """Take and push a sample if one is due, else push from the backlog."""
        now = time.monotonic()
        if now >= self._due:
            self._beat()
        elif now >= max(self._not_before, self._backlog_due):
            if self._cut_off():
                self._backlog_due = now + CUT_LOOK_SECONDS
            else:
                self._drain()

    def ledger(self) -> ledger.HostLedger:
        """Return what this host knows of its samples."""
        for feed, account in self._accounts.items():
            account.doubt = [waiting.sample.seq for waiting in self._waiting[feed] if waiting.sent]
        feeds = {feed.value: account for feed, account in self._accounts.items()}
        return ledger.HostLedger(self._host.name, self._host.stream, feeds)

    def _beat(self) -> None:
        self._beats += 1
        jitter = random.uniform(-JITTER, JITTER)  # noqa: S311 - no secret
        # From the base, so that delays do not add up; a host that is late takes no two samples at once.
        late = time.monotonic() - self._base
        self._beats = max(self._beats, int(late / RUN.plan.interval))
        self._due = self._base + (self._beats + jitter) * RUN.plan.interval
        cut = self._cut_off()
        for feed, sample in self._host.beat(RUN.replay, int(time.time() * 1000)).items():
            self._waiting[feed].append(Waiting(sample, late=cut))
            if len(self._waiting[feed]) > MOST_WAITING:
                raise RuntimeError(f"{self._host.name} has {MOST_WAITING} samples of {feed} waiting")
        if cut or time.monotonic() < self._not_before:
            return
        for feed in Feed:
            waiting = self._waiting[feed]
            if len(waiting) > BATCH_SAMPLES:
                self._behind.add(feed)
            if not self._push(feed, [waiting[-1]] if feed in self._behind else list(waiting), "push"):
                return

    def _cut_off(self) -> bool:
        at = time.time() - RUN.began
        return shapes.cut_off(self._number, at, RUN.plan.cut_share, RUN.plan.cut_seconds)

    def _drain(self) -> None:
        """Push what waits of one feed: again what was live, or a part of the backlog."""
        for feed in Feed:
            batch: list[Waiting] = []
            size = 0
            for waiting in itertools.islice(self._waiting[feed], BATCH_SAMPLES):
                size += len(waiting.sample.body)
                if batch and size > BATCH_BYTES:
                    break
                batch.append(waiting)
            if batch:
                began = time.monotonic()
                self._push(feed, batch, "backlog" if feed in self._behind else "push")
                self._backlog_due = began + len(batch) / BACKLOG_RATE
                return

    def _push(self, feed: Feed, batch: Sequence[Waiting], kind: str) -> bool:
        """Post; return whether it was acknowledged. What was, waits no more."""
        api, phase = RUN.now(), RUN.phase
        packer = zlib.compressobj(1, wbits=31)  # 31: gzip, at the exporter's own level
        document = self._host.envelope(waiting.sample for waiting in batch)
        body = packer.compress(document) + packer.flush()
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        if RUN.plan.token is not None:
            headers["Authorization"] = f"Bearer {RUN.plan.token}"
        for waiting in batch:
            waiting.sent = True
        began = time.perf_counter()
        path = f"{api.url}/api/{feed}"
        with self.client.post(
            path,
            data=cast(str, body),  # bytes are taken too, whatever its type says
            headers=headers,
            name=f"{api.name} {kind} {feed}",
            catch_response=True,
        ) as response:
            took = (time.perf_counter() - began) * 1000
            failure = _failure(response.status_code, response.content, len(batch))
            if failure is None:
                response.success()
            else:
                response.failure(failure)
        now = time.time()
        rows = sum(waiting.sample.rows for waiting in batch)
        ages = [now * 1000 - waiting.sample.at for waiting in batch if kind == "push" and not waiting.late]
        RUN.tally.request(
            int(now),
            kind,
            api.name,
            feed.value,
            phase,
            milliseconds=took,
            failure=failure,
            size=len(body),
            samples=len(batch),
            rows=rows,
            ages_ms=ages,
        )
        if failure is not None:
            self._failed()
            return False
        self._failures = 0
        account = self._accounts[feed]
        account.acknowledged += len(batch)
        account.rows += rows
        stored = {waiting.sample.seq for waiting in batch}
        self._waiting[feed] = deque(one for one in self._waiting[feed] if one.sample.seq not in stored)
        if not self._waiting[feed]:
            self._behind.discard(feed)
        return True

    def _failed(self) -> None:
        """Wait as an exporter does: full jitter below a bound that doubles."""
        window = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self._failures, 16))
        self._failures += 1
        self._not_before = time.monotonic() + random.uniform(0, window)  # noqa: S311 - no secret


def _failure(status: int | None, answer: bytes | None, samples: int) -> str | None:
    """Return why an answer is no acknowledgement of all samples, in few words; None if it is."""
    if not status:
        return "no answer"
    if status != 201:  # noqa: PLR2004 - Created, the contract's only success
        return f"status {status}"
    accepted = parse_accepted(answer or b"")
    if accepted is None:
        return "an answer that is none of the contract"
    return None if accepted.accepted + accepted.duplicates == samples else "other samples than were sent"


class ReaderUser(User):
    """A person with a dashboard: asks the history's questions of MySQL, and the APIs how they are."""

    fixed_count = RUN.plan.readers
    host = RUN.plan.apis[0].url

    def on_start(self) -> None:
        """Open no connection yet: a dashboard opens one when it asks."""
        self._http = _ReaderClient(self)
        self._connection: pymysql.Connection[pymysql.cursors.Cursor] | None = None

    def wait_time(self) -> float:
        """Return seconds until the next refresh."""
        return random.uniform(0.5, 1.5) * RUN.plan.read_interval  # noqa: S311 - no secret

    @tag("read", "metrics")
    @task(1)
    def look_at_apis(self) -> None:
        """Scrape every API and ask for its health."""
        for api in RUN.plan.apis:
            for path in ("/metrics", "/api/health"):
                self._http.get(api, path)

    @tag("read", "sql")
    @task(3)
    def ask_history(self) -> None:
        """Ask each question about the last minutes of one host of the run."""
        if not RUN.questions or not RUN.exporters:
            return
        ours = random.choice(RUN.exporters).ledger()  # noqa: S311 - no secret
        for name, question in RUN.questions.items():
            self._ask(name, question, ours)

    def _ask(self, name: str, question: str, ours: ledger.HostLedger) -> None:
        last = datetime.now(UTC).replace(tzinfo=None)
        failure = None
        began = time.perf_counter()
        try:
            with self._connected().cursor() as cursor:
                cursor.execute("SELECT id FROM hosts WHERE name = %s AND stream = %s", (ours.host, ours.stream))
                host = cursor.fetchone()
                if host is None:
                    return  # it has stored nothing yet
                cursor.execute(
                    question.format(
                        hosts=host[0],
                        first=f"'{last - timedelta(minutes=5)}'",
                        last=f"'{last}'",
                        at=f"'{last}'",
                        limit=50,
                    )
                )
                cursor.fetchall()
        except pymysql.MySQLError as error:
            failure = f"MySQL error {error.args[0] if error.args else ''}".strip()
            self._connection = None
        took = (time.perf_counter() - began) * 1000
        self.environment.events.request.fire(
            request_type="SQL",
            name=name,
            response_time=took,
            response_length=0,
            exception=None if failure is None else RuntimeError(failure),
            context={},
        )
        RUN.tally.request(int(time.time()), "read", "", name, RUN.phase, milliseconds=took, failure=failure)

    def _connected(self) -> pymysql.Connection[pymysql.cursors.Cursor]:
        if self._connection is None:
            self._connection = connect(settings.dsn(RUN.plan.dsn or ""), read_timeout=int(2 * TIMEOUT_SECONDS))
        return self._connection


class _ReaderClient:
    """GET requests of a reader, counted."""

    def __init__(self, user: ReaderUser) -> None:
        from locust.contrib.fasthttp import FastHttpSession  # noqa: PLC0415 - of FastHttpUser, which a reader is not

        self._session = FastHttpSession(
            base_url=user.host,
            request_event=user.environment.events.request,
            user=user,
            insecure=False,
            ssl_context_factory=gevent.ssl.create_default_context,
            connection_timeout=TIMEOUT_SECONDS,
            network_timeout=TIMEOUT_SECONDS,
        )

    def get(self, api: Api, path: str) -> None:
        began = time.perf_counter()
        with self._session.get(f"{api.url}{path}", name=f"{api.name} {path}", catch_response=True) as response:
            took = (time.perf_counter() - began) * 1000
            failure = None if response.status_code == 200 else f"status {response.status_code}"  # noqa: PLR2004
            if failure is None:
                response.success()
            else:
                response.failure(failure)
        RUN.tally.request(int(time.time()), "read", api.name, path, RUN.phase, milliseconds=took, failure=failure)
