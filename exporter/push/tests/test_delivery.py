"""Delivery against a server that answers as told: every verdict of the contract, and what the spool holds after it.

The server is a stand-in because each answer must come on demand; the real APIs are in tests/test_whole_path.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from dev.waiting import wait_until
from exporter.push.delivery import (
    BACKLOG_SHARE,
    Delivery,
    Destination,
    Envelope,
    HttpPoster,
    R,
    Verdict,
    destinations,
    judge,
    retry_delay,
)
from exporter.push.metrics import PushMetrics
from exporter.push.spool import Spool
from exporter.push.tests.test_spool import fill
from ingest.contract.wire import Feed

STREAM = "00000000-0000-0000-0000-000000000001"


@dataclass
class Script:
    """A server whose `answer` decides on the samples of each request."""

    answer: Callable[[list[int]], web.StreamResponse]
    before: Callable[[list[int]], Awaitable[None]] | None = None
    requests: list[list[int]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        seqs = [sample["seq"] for sample in body["samples"]]
        self.requests.append(seqs)
        self.headers.append(dict(request.headers))
        if self.before is not None:
            await self.before(seqs)
        response = self.answer(seqs)
        if isinstance(response, InPieces):
            await response.send(request)
        async with self.arrived:
            self.arrived.notify_all()
        return response

    async def after(self, count: int) -> None:
        async with asyncio.timeout(20), self.arrived:
            await self.arrived.wait_for(lambda: len(self.requests) >= count)


class InPieces(web.StreamResponse):
    """A 201 that comes byte by byte."""

    async def send(self, request: web.Request) -> None:
        await self.prepare(request)
        for byte in b'{"accepted":2,"duplicates":0}':
            await self.write(bytes([byte]))
            await asyncio.sleep(0.002)  # a segment of its own
        await self.write_eof()


def stored(seqs: list[int]) -> web.Response:
    return web.json_response({"accepted": len(seqs), "duplicates": 0}, status=201)


async def in_thread(work: Callable[[], R], /) -> R:
    # One thread at a time, as the program's own: the loop's default pool would interleave.
    return work()


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[str]:
    """Serve a script; yields its URL."""
    application = web.Application()
    application.router.add_post("/api/ram", script.handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def delivering(
    path: Path, script: Script, count: int, backlog_rate: float = 1000.0
) -> AsyncIterator[tuple[Spool, str, PushMetrics, Delivery]]:
    """Deliver a spool of so many samples to a script."""
    async with serving(script) as url, aiohttp.ClientSession() as session:
        spool = Spool(path / "spool.sqlite", [url])
        fill(spool, count)
        metrics = PushMetrics(CollectorRegistry(), [url])
        delivery = Delivery(
            Destination(url, (url,)),
            spool,
            in_thread,
            poster=HttpPoster(session, lambda: "a-token-of-the-test"),
            envelope=Envelope("web-1", STREAM, STREAM, "6.1"),
            metrics=metrics,
            backlog_rate=backlog_rate,
        )
        task = asyncio.create_task(delivery.run())
        try:
            yield spool, url, metrics, delivery
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            spool.close()


def waiting(spool: Spool, url: str) -> list[int]:
    return [sample.seq for sample in spool.pending(url, Feed.RAM, 100, 1 << 20)]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (201, Verdict.STORED),
        (200, Verdict.PAUSE),
        (301, Verdict.PAUSE),
        (400, Verdict.REFUSED),
        (401, Verdict.PAUSE),
        (403, Verdict.PAUSE),
        (404, Verdict.PAUSE),
        (405, Verdict.PAUSE),
        (408, Verdict.RETRY),
        (413, Verdict.SPLIT),
        (415, Verdict.PAUSE),
        (422, Verdict.REFUSED),
        (429, Verdict.RETRY),
        (500, Verdict.RETRY),
        (502, Verdict.RETRY),
        (503, Verdict.RETRY),
    ],
)
def test_answers_are_sorted(status: int, expected: Verdict) -> None:
    assert expected == judge(status)


def test_delays_grow_are_jittered_and_bounded() -> None:
    assert [0.0] * 5 == [retry_delay(n, None, lambda: 0.0) for n in range(5)]
    assert [0.5, 1.0, 2.0, 4.0] == [retry_delay(n, None, lambda: 1.0) for n in range(4)]
    assert 30.0 == retry_delay(10_000, None, lambda: 1.0)
    assert 7.0 <= retry_delay(0, 7.0, lambda: 0.0)
    assert retry_delay(0, 1e12, lambda: 1.0) <= 301


async def test_what_is_acknowledged_leaves_and_news_wakes_it(tmp_path: Path) -> None:
    script = Script(stored)
    async with delivering(tmp_path, script, 3) as (spool, url, metrics, delivery):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
        assert [[1, 2, 3]] == script.requests
        assert "gzip" == script.headers[0]["Content-Encoding"]
        assert "Bearer a-token-of-the-test" == script.headers[0]["Authorization"]
        fill(spool, 1)
        delivery.notify()
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
        assert [[1, 2, 3], [4]] == script.requests
        assert 4 == metrics.samples.labels(url, Feed.RAM)._value.get()


async def test_an_answer_in_pieces_is_understood(tmp_path: Path) -> None:
    script = Script(lambda _: InPieces(status=201))
    async with delivering(tmp_path, script, 2) as (spool, url, metrics, _):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
        assert (1, 0) == (len(script.requests), metrics.paused.labels(url)._value.get())


async def test_an_overloaded_api_is_tried_again_after_what_it_asked(tmp_path: Path) -> None:
    answers = iter([503, 429])

    def answer(seqs: list[int]) -> web.Response:
        status = next(answers, None)
        return stored(seqs) if status is None else web.Response(status=status, headers={"Retry-After": "0"})

    script = Script(answer)
    async with delivering(tmp_path, script, 2) as (spool, _, _, _):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
    assert [[1, 2]] * 3 == script.requests


async def test_an_api_that_is_back_at_once_is_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "exporter.push.delivery")
    answers = iter([503])
    script = Script(lambda seqs: stored(seqs) if next(answers, None) is None else web.Response(status=503))
    async with delivering(tmp_path, script, 2) as (spool, _, _, _):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
    assert ([[1, 2]] * 2, []) == (script.requests, caplog.messages)


async def test_an_outage_is_one_warning_and_its_end_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", "exporter.push.delivery")
    monkeypatch.setattr("exporter.push.delivery.TROUBLE_SECONDS", 0.1)
    failures_after = 3

    def answer(seqs: list[int]) -> web.Response:
        nonlocal failures_after
        failures_after -= bool(caplog.messages)
        return stored(seqs) if failures_after < 0 else web.Response(status=503)

    script = Script(answer)
    async with delivering(tmp_path, script, 1) as (spool, _, _, _):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
    said = ["push does not get through; every sample is kept and tried again", "push delivers again"]
    assert said == caplog.messages


async def test_one_bad_sample_is_found_and_kept_aside_and_the_others_are_stored(tmp_path: Path) -> None:
    script = Script(lambda seqs: web.Response(status=422, text="{}") if 3 in seqs else stored(seqs))
    async with delivering(tmp_path, script, 7) as (spool, url, metrics, _):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
        assert 1 == spool.depth().dead_letters
        assert 6 == metrics.samples.labels(url, Feed.RAM)._value.get()
        assert 1 == metrics.dead.labels(url, Feed.RAM)._value.get()


async def test_too_large_a_batch_is_split(tmp_path: Path) -> None:
    script = Script(lambda seqs: web.Response(status=413) if len(seqs) > 2 else stored(seqs))
    async with delivering(tmp_path, script, 8) as (spool, _, _, _):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
        assert 0 == spool.depth().dead_letters
    assert list(range(1, 9)) == sorted(seq for seqs in script.requests if len(seqs) <= 2 for seq in seqs)


@pytest.mark.parametrize("status", [401, 403, 404, 307, 200])
async def test_a_refusal_of_us_pauses_and_keeps_everything(tmp_path: Path, status: int) -> None:
    script = Script(lambda _: web.Response(status=status, headers={"Location": "/elsewhere"}))
    async with delivering(tmp_path, script, 3) as (spool, url, metrics, _):
        await script.after(1)
        await wait_until(lambda: metrics.paused.labels(url)._value.get() == 1, "a pause")
        assert [1, 2, 3] == waiting(spool, url)
        assert 0 == spool.depth().dead_letters


@pytest.mark.parametrize("text", ["<html>created</html>", "{}", '{"a":' * 10_000], ids=["html", "empty", "deep"])
async def test_a_201_that_no_ingest_api_gave_is_not_believed(tmp_path: Path, text: str) -> None:
    script = Script(lambda _: web.Response(status=201, text=text))
    async with delivering(tmp_path, script, 1) as (spool, url, metrics, _):
        await wait_until(lambda: metrics.paused.labels(url)._value.get() == 1, "a pause")
        assert [1] == waiting(spool, url)


def test_the_body_is_one_gzip_member_of_joined_samples(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", ["http://127.0.0.1:1"])
    fill(spool, 2)
    samples = spool.pending("http://127.0.0.1:1", Feed.RAM, 10, 1 << 20)
    spool.close()
    body = json.loads(gzip.decompress(Envelope("web-1", STREAM, STREAM, "6.1").body(samples)))
    assert {"host", "stream", "boot_id", "kernel", "samples"} == body.keys()
    assert [1, 2] == [sample["seq"] for sample in body["samples"]]


def test_modes_are_destinations() -> None:
    urls = ("http://a", "http://b")
    assert [Destination(url, (url,)) for url in urls] == destinations("mirror", urls)
    assert [Destination("failover", urls)] == destinations("failover", urls)
    assert [Destination("split", urls, rotate=True)] == destinations("split", urls)
    assert [] == destinations("split", ())


async def test_live_samples_go_first_and_the_backlog_keeps_to_its_rate(tmp_path: Path) -> None:
    script = Script(stored)
    async with delivering(tmp_path, script, 51, backlog_rate=20.0) as (spool, _, _, delivery):
        await wait_until(lambda: len(script.requests) >= 2, "a first batch of the backlog")
        started = time.monotonic()
        fill(spool, 1)
        delivery.notify()
        await wait_until(lambda: [52] in script.requests, "the live sample")
        # a batch of 20 holds 20 a second back for a second: the live sample did not wait for it
        assert [[51], list(range(1, 21)), [52]] == script.requests[:3]
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
        assert time.monotonic() - started >= 1.9
    assert list(range(1, 53)) == sorted(seq for seqs in script.requests for seq in seqs)


async def test_a_backlog_leaves_a_slow_api_in_peace_and_holds_up_no_live_sample(tmp_path: Path) -> None:
    """Its requests take the API a twentieth of the time at most, so that a fleet's do not pile up there."""
    times: list[float] = []
    hold, held = asyncio.Event(), asyncio.Event()

    async def slowly(seqs: list[int]) -> None:
        if len(seqs) > 1:
            times.append(time.monotonic())
            held.set()
            await hold.wait()

    script = Script(stored, slowly)
    async with delivering(tmp_path, script, 41, backlog_rate=1e6) as (spool, _, _, delivery):
        await held.wait()
        fill(spool, 1)
        delivery.notify()
        await wait_until(lambda: [42] in script.requests, "the live sample, while the backlog's request hangs")
        await asyncio.sleep(max(0.0, times[0] + 0.1 - time.monotonic()))  # how slow the API is
        hold.set()
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
    assert times[1] - times[0] >= 0.1 / BACKLOG_SHARE


async def test_a_backlog_holds_back_while_live_samples_are_answered_slowly(tmp_path: Path) -> None:
    times: list[float] = []

    async def live_is_slow(seqs: list[int]) -> None:
        if len(seqs) > 1:
            times.append(time.monotonic())
        else:
            await asyncio.sleep(0.1)  # how slow the API is

    script = Script(stored, live_is_slow)
    async with delivering(tmp_path, script, 41, backlog_rate=1e6) as (spool, _, _, _):
        await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
    assert script.requests[0] == [41]
    assert times[1] - times[0] >= 0.9 * 0.1 / BACKLOG_SHARE  # counted from when the batch left, seen as it came


@contextlib.asynccontextmanager
async def two_apis(path: Path, mode: str, scripts: tuple[Script, Script]) -> AsyncIterator[tuple[Spool, Delivery]]:
    """Deliver four samples and what comes to two servers as one destination."""
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serving(script)) for script in scripts]
        (destination,) = destinations(mode, urls)
        spool = Spool(path / "spool.sqlite", [destination.name])
        stack.callback(spool.close)
        fill(spool, 4)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        delivery = Delivery(
            destination,
            spool,
            in_thread,
            poster=HttpPoster(session, lambda: None),
            envelope=Envelope("web-1", STREAM, STREAM, "6.1"),
            metrics=PushMetrics(CollectorRegistry(), urls),
        )
        task = asyncio.create_task(delivery.run())
        try:
            yield spool, delivery
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def push_one(spool: Spool, delivery: Delivery) -> None:
    """Add a sample and wait until it is delivered."""
    await wait_until(lambda: spool.depth().samples == 0, "an empty spool")
    fill(spool, 1)
    delivery.notify()
    await wait_until(lambda: spool.depth().samples == 0, "an empty spool")


async def test_failover_stays_with_the_first_that_answers(tmp_path: Path) -> None:
    first, second = Script(lambda _: web.Response(status=503)), Script(stored)
    async with two_apis(tmp_path, "failover", (first, second)) as (spool, delivery):
        await push_one(spool, delivery)
    # asked once, then left alone for a while
    assert ([[1, 2, 3, 4]], [[1, 2, 3, 4], [5]]) == (first.requests, second.requests)


async def test_split_alternates_and_goes_around_one_that_is_down(tmp_path: Path) -> None:
    healthy, other = Script(stored), Script(stored)
    async with two_apis(tmp_path, "split", (healthy, other)) as (spool, delivery):
        for _ in range(3):
            await push_one(spool, delivery)
        assert (2, 2) == (len(healthy.requests), len(other.requests))
        other.answer = lambda _: web.Response(status=502)
        for _ in range(4):
            await push_one(spool, delivery)
    acknowledged = healthy.requests + other.requests[:2]
    assert list(range(1, 12)) == sorted(seq for seqs in acknowledged for seq in seqs)
