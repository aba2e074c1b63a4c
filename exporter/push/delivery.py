"""Delivery: what waits in the spool is posted to an ingest API until that API acknowledges it.

Each destination has its own task and its own cursor, so that one that is down delays no other. What an answer means
is decided by the pure `judge`. After an outage live samples go on at once, and the backlog drains beside them at a
bounded rate, and slower where answers are slow: a fleet that returns must not flood the APIs. What waits, waits on a
condition or a bounded, jittered delay.
"""

from __future__ import annotations

import asyncio
import enum
import functools
import random
import sqlite3
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar

import aiohttp
import msgspec

from exporter.push.metrics import PushMetrics
from exporter.push.spool import Refusal, Spool, Stored
from ingest.contract import limits
from ingest.contract.wire import Feed, parse_accepted
from latido import logs

log = logs.get(__name__)

R = TypeVar("R")

BATCH_SAMPLES: Final = 20
"""In one request. More than that waiting is a backlog."""
BATCH_BYTES: Final = 1 << 20
"""Of JSON, some 3,000 processes: a live sample that meets a backlog's requests in an API waits for few of these."""
BACKLOG_SHARE: Final = 1 / 20
"""Of its time a backlog waits for answers, at most. So a fleet of 100 that returns at once has 5 requests under way at
an API on average, however slow that is: the slower the answers, those to live samples too, the longer the pauses."""

FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 30.0
PAUSE_DELAY: Final = 30.0
"""Seconds between two looks at an API that refuses us; someone must change a token or a URL, so haste gains nothing."""
TROUBLE_SECONDS: Final = 5.0
"""Of failures before they are a warning. An API that restarts is back by then, and a whole stack has started."""
MAX_ANSWER_BYTES: Final = 1 << 16


class Verdict(enum.Enum):
    """What an answer means for the samples that were posted."""

    STORED = "stored"
    SPLIT = "split"
    REFUSED = "refused"
    PAUSE = "pause"
    RETRY = "retry"


def judge(status: int) -> Verdict:
    """Sort an HTTP status: what is not listed is a wrong URL or proxy, which must cost no data."""
    if status == 201:  # noqa: PLR2004 - the contract's only success
        return Verdict.STORED
    if status == 413:  # noqa: PLR2004
        return Verdict.SPLIT
    if status in {400, 422}:
        return Verdict.REFUSED
    if status in {408, 429} or status >= 500:  # noqa: PLR2004
        return Verdict.RETRY
    return Verdict.PAUSE


def retry_delay(failures: int, retry_after: float | None, draw: Callable[[], float]) -> float:
    """Return seconds to wait after so many failures in a row: full jitter, and never less than the API asked for.

    `draw` yields from [0, 1). What an API asks for is bounded too: it may be wrong.
    """
    window = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures, 16))
    asked = min(retry_after or 0.0, 10 * LONGEST_DELAY)
    # A part of the window above what was asked: a fleet told the same figure must not come back at once.
    return asked + draw() * window


@dataclass(frozen=True)
class Envelope:
    """What every request of a stream carries beside its samples."""

    host: str
    stream: str
    boot_id: str
    kernel: str

    def body(self, samples: list[Stored]) -> bytes:
        """Return the gzip-compressed request body; the samples' JSON is joined, not encoded again."""
        head = msgspec.json.encode(
            {"host": self.host, "stream": self.stream, "boot_id": self.boot_id, "kernel": self.kernel}
        )
        document = head[:-1] + b',"samples":[' + b",".join(sample.body for sample in samples) + b"]}"
        packer = zlib.compressobj(1, wbits=31)  # 31: gzip
        return packer.compress(document) + packer.flush()


@dataclass(frozen=True)
class Answer:
    """An API's answer: status 0 stands for none (refused, reset, timed out), and `text` then says why."""

    status: int
    text: str
    retry_after: float | None = None
    url: str = ""

    @property
    def verdict(self) -> Verdict:
        """What it means for the samples."""
        return judge(self.status) if self.status else Verdict.RETRY


class Poster(Protocol):
    """Posts a body to an ingest API."""

    async def post(self, url: str, body: bytes) -> Answer:
        """Return the answer; never raises for what the network does."""


class HttpPoster:
    """A Poster over an aiohttp session. `token` is asked for each time, so that a rotated one is taken up."""

    def __init__(self, session: aiohttp.ClientSession, token: Callable[[], str | None]) -> None:
        self._session = session
        self._token = token

    async def post(self, url: str, body: bytes) -> Answer:
        """Post JSON that is gzip-compressed already."""
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        try:
            token = self._token()
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                text = bytearray()
                async for piece in response.content.iter_any():  # a proxy may cut even a short answer
                    text += piece[: MAX_ANSWER_BYTES - len(text)]
                    if len(text) == MAX_ANSWER_BYTES:
                        break
                retry_after = _seconds(response.headers.get("Retry-After"))
                return Answer(response.status, text.decode("utf-8", "replace"), retry_after)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Answer(0, f"{type(error).__name__}: {error}")


def _seconds(retry_after: str | None) -> float | None:
    # RFC 9110 allows a date too; our APIs and common proxies send seconds, and a date just leaves the jitter.
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None


class InThread(Protocol):
    """Runs a blocking call off the event loop."""

    def __call__(self, work: Callable[[], R], /) -> Awaitable[R]:
        """Return what `work` returns, or raise what it raises."""


@dataclass(frozen=True)
class Destination:
    """Where samples go once: one API, or several of which any may take them. `name` is the cursor's."""

    name: str
    urls: tuple[str, ...]
    rotate: bool = False
    """Whether requests alternate between the APIs; otherwise the first that answers takes all."""


def destinations(mode: str, urls: Sequence[str]) -> list[Destination]:
    """Return the destinations of a delivery mode: `mirror`, `failover` or `split`."""
    if mode == "mirror":
        return [Destination(url, (url,)) for url in urls]
    return [Destination(mode, tuple(urls), rotate=mode == "split")] if urls else []


@dataclass
class _Lane:
    """Live samples or the backlog: each has its own failures, so that the wait of one is not the other's."""

    failures: int = 0


class Delivery:
    """Delivers one spool to one destination until cancelled. `in_thread` runs a spool call off the event loop.

    `backlog_rate` is in samples a second. Live samples and the backlog are two tasks: a live sample waits for no
    request of the backlog, and the backlog rests while live samples do not get through.
    """

    def __init__(
        self,
        destination: Destination,
        spool: Spool,
        in_thread: InThread,
        *,
        poster: Poster,
        envelope: Envelope,
        metrics: PushMetrics,
        backlog_rate: float = 20.0,
    ) -> None:
        self._destination = destination
        self._spool = spool
        self._in_thread = in_thread
        self._poster = poster
        self._envelope = envelope
        self._metrics = metrics
        self._backlog_rate = backlog_rate
        self._next = 0
        self._avoided: dict[str, float] = {}
        self._news = asyncio.Event()
        self._behind = asyncio.Event()
        self._flows = asyncio.Event()
        self._troubled_since: float | None = None
        self._warned = False
        self._live_seconds = 0.0
        """That the latest answer to live samples took."""

    def notify(self) -> None:
        """Say that the spool holds new samples."""
        self._news.set()

    async def run(self) -> None:
        """Deliver for ever: all that is live, and of the backlog what its rate allows."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_live())
            tasks.create_task(self._run_backlog())

    async def _run_live(self) -> None:
        lane = _Lane()
        while True:
            self._news.clear()
            delay = await self._attempt(self._live, lane)
            if delay is None:
                self._flows.set()
                await self._news.wait()
            else:
                self._flows.clear()
                await asyncio.sleep(delay)  # not cut short by news: the API asked for it

    async def _run_backlog(self) -> None:
        lane = _Lane()
        while True:
            await self._flows.wait()
            self._behind.clear()
            delay = await self._attempt(self._backlog, lane)
            if delay is None:
                await self._behind.wait()
            else:
                await asyncio.sleep(delay)

    async def _attempt(self, deliver: Callable[[_Lane], Awaitable[float | None]], lane: _Lane) -> float | None:
        try:
            return await deliver(lane)
        except sqlite3.Error as error:
            # A full disk, mostly. What was acknowledged is sent again once there is room: a duplicate, no loss.
            return self._retry(lane, Answer(0, f"the spool cannot be used: {error}"))

    async def _live(self, lane: _Lane) -> float | None:
        """Post until nothing live waits (None) or the destination wants a pause (seconds)."""
        busy = True
        while busy:
            busy = False
            for feed in Feed:
                aside, samples = await self._in_thread(functools.partial(self._pending, feed))
                if aside:
                    self._behind.set()
                if samples:
                    began = time.monotonic()
                    delay = await self._deliver(lane, feed, samples)
                    self._live_seconds = time.monotonic() - began
                    if delay is not None:
                        return delay
                    busy = True
        return None

    async def _backlog(self, lane: _Lane) -> float | None:
        """Post one batch of the backlog; return seconds until the next is due, None if there is no backlog."""
        for feed in Feed:
            samples = await self._in_thread(functools.partial(self._waiting_behind, feed))
            if samples:
                began = time.monotonic()
                delay = await self._deliver(lane, feed, samples)
                took = time.monotonic() - began
                slow = max(took, self._live_seconds)
                return max(delay or 0.0, len(samples) / self._backlog_rate - took, slow / BACKLOG_SHARE - took)
        return None

    def _pending(self, feed: Feed) -> tuple[int, list[Stored]]:
        name = self._destination.name
        aside = self._spool.set_aside(name, feed, BATCH_SAMPLES)
        if aside:
            log.info("a backlog drains beside live samples", destination=name, feed=feed.value, samples=aside)
        return aside, self._spool.pending(name, feed, BATCH_SAMPLES, BATCH_BYTES)

    def _waiting_behind(self, feed: Feed) -> list[Stored]:
        return self._spool.backlog(self._destination.name, feed, BATCH_SAMPLES, BATCH_BYTES)

    async def _deliver(self, lane: _Lane, feed: Feed, samples: list[Stored]) -> float | None:
        answer = await self._post(feed, samples)
        if answer.verdict is Verdict.STORED:
            return await self._stored(lane, feed, samples, answer)
        if answer.verdict is Verdict.PAUSE:
            return self._pause(answer)
        if answer.verdict is Verdict.RETRY:
            return self._retry(lane, answer)
        if len(samples) > 1:
            # One of them is at fault: halves find it in few requests, and the others are stored on the way.
            middle = len(samples) // 2
            delay = await self._deliver(lane, feed, samples[:middle])
            return delay if delay is not None else await self._deliver(lane, feed, samples[middle:])
        await self._bury(feed, samples[0], answer)
        return None

    async def _post(self, feed: Feed, samples: list[Stored]) -> Answer:
        """Post to the APIs of the destination in turn, until one of them decides."""
        body = await self._in_thread(lambda: self._envelope.body(samples))
        if len(body) > limits.MAX_COMPRESSED_BYTES and len(samples) > 1:
            return Answer(413, "larger than the contract allows; not sent")
        answer = Answer(0, "no API")
        for url in self._order():
            answer = replace(await self._poster.post(f"{url}/api/{feed}", body), url=url)
            self._metrics.requests.labels(url, str(answer.status)).inc()
            if answer.verdict not in {Verdict.RETRY, Verdict.PAUSE}:
                self._avoided.pop(url, None)
                break
            self._avoided[url] = time.monotonic() + PAUSE_DELAY
            if answer.verdict is Verdict.PAUSE:
                self._metrics.paused.labels(url).set(1)
        return answer

    def _order(self) -> list[str]:
        """Return the APIs in the order to try: those that failed a moment ago last."""
        urls = list(self._destination.urls)
        if self._destination.rotate:
            self._next = (self._next + 1) % len(urls)
            urls = urls[self._next :] + urls[: self._next]
        now = time.monotonic()
        return sorted(urls, key=lambda url: self._avoided.get(url, 0.0) > now)

    async def _stored(self, lane: _Lane, feed: Feed, samples: list[Stored], answer: Answer) -> float | None:
        accepted = parse_accepted(answer.text)
        if accepted is None:
            # Some proxy says 201 for another's answer: believing it would lose data.
            return self._pause(replace(answer, text=f"not an ingest API's answer: {answer.text[:200]}"))
        name, first, last = self._destination.name, samples[0].seq, samples[-1].seq
        await self._in_thread(lambda: self._spool.acknowledge(name, feed, first, last))
        self._metrics.samples.labels(answer.url, feed).inc(len(samples))
        self._metrics.duplicates.labels(answer.url, feed).inc(accepted.duplicates)
        self._metrics.last_success.labels(answer.url).set_to_current_time()
        self._metrics.paused.labels(answer.url).set(0)
        lane.failures = 0
        if self._troubled_since is not None and self._warned:
            seconds = round(time.monotonic() - self._troubled_since)
            log.info("push delivers again", url=answer.url, after_seconds=seconds)
        self._troubled_since, self._warned = None, False
        return None

    async def _bury(self, feed: Feed, sample: Stored, answer: Answer) -> None:
        name, refusal = self._destination.name, Refusal(answer.status, answer.text[:2000])
        await self._in_thread(lambda: self._spool.bury(name, feed, sample, refusal, time.time_ns() // 1_000_000))
        self._metrics.dead.labels(answer.url, feed).inc()
        log.error(
            "push refused a sample; kept as a dead letter",
            url=answer.url,
            feed=feed.value,
            seq=sample.seq,
            status=answer.status,
            problem=answer.text[:500],
        )

    def _pause(self, answer: Answer) -> float:
        self._metrics.paused.labels(answer.url).set(1)
        self._trouble("push is refused; every sample is kept until this is mended", answer, after=0.0)
        return PAUSE_DELAY

    def _retry(self, lane: _Lane, answer: Answer) -> float:
        self._trouble("push does not get through; every sample is kept and tried again", answer, after=TROUBLE_SECONDS)
        delay = retry_delay(lane.failures, answer.retry_after, random.random)
        lane.failures += 1
        return delay

    def _trouble(self, event: str, answer: Answer, *, after: float) -> None:
        now = time.monotonic()
        if self._troubled_since is None:
            self._troubled_since = now
        # Once per outage: a line a try would bury the log of a host that pushes every second.
        if not self._warned and now - self._troubled_since >= after:
            self._warned = True
            log.warning(event, url=answer.url, status=answer.status, reason=answer.text[:500])
