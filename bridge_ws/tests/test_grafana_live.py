"""Grafana Live's push, against a stand-in that speaks the endpoint's documented format: a Grafana is no Debian package.

The stand-in takes `POST /api/live/push/:streamId` with a bearer token, parses line protocol strictly by InfluxDB's
reference, and keeps each measurement's points as Grafana's channel `stream/STREAM/MEASUREMENT` would give them.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from bridge_ws import grafana_live
from bridge_ws.grafana_live import GrafanaLive, GrafanaMetrics, GrafanaSettings
from bridge_ws.protocol import Key
from bridge_ws.tests.rig import Writer, client, now_ms
from bridge_ws.tests.samples import GIB, cpu, procesos, process, ram
from dev.program import Program
from dev.waiting import wait_until
from ingest.contract.wire import Feed
from latido import logs
from latido.settings import Dsn, SettingsError

TOKEN = "glsa_of-the-test"  # noqa: S105 - it is of this test alone
AT = 1_790_000_000_123
STREAM = "6f1c0000-0000-4000-8000-000000000001"


class Metric(Protocol):
    """Reads one of the publisher's metrics."""

    def __call__(self, name: str, **labels: str) -> float: ...


Point = tuple[str, dict[str, str], dict[str, float], int]

_PART = r"(?:[^\\,= \n]|\\[,= ]|\\(?![,= ]))"
"""A character of a key or value: an escaped separator, or a backslash that escapes nothing."""
_LINE = re.compile(
    rf"(?P<name>(?:[^\\, \n]|\\[, ]|\\(?![, ]))+)(?P<tags>(?:,{_PART}+={_PART}+)*)"
    rf" (?P<fields>{_PART}+=[^, \n]+(?:,{_PART}+=[^, \n]+)*) (?P<time>-?[0-9]+)"
)
_PAIR = re.compile(rf"({_PART}+)=((?:[^\\, \n]|\\[,= ]|\\(?![,= ]))+)")


def parse(text: str) -> Point:
    """Return a line's point. Raises ValueError for what InfluxDB's reference does not allow."""
    match = _LINE.fullmatch(text)
    if match is None:
        raise ValueError(f"not line protocol: {text!r}")
    tags = {_plain(name): _plain(value) for name, value in _PAIR.findall(match["tags"])}
    values = {_plain(name): float(value) for name, value in _PAIR.findall(match["fields"])}
    return re.sub(r"\\([, ])", r"\1", match["name"]), tags, values, int(match["time"])


def _plain(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


@dataclass
class StandIn:
    """The endpoint: what it was sent, and what it answers instead of 200 while told so."""

    url: str = ""
    answer: int | None = None
    channels: dict[str, list[Point]] = field(default_factory=dict)
    requests: list[int] = field(default_factory=list)
    running: int = 0
    most: int = 0
    hold: asyncio.Event | None = None

    async def push(self, request: web.Request) -> web.Response:
        """Answer as Grafana does: 401 without the token, 500 for lines that it cannot parse."""
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            body = (await request.read()).decode()
            self.requests.append(len(body))
            if self.hold is not None:
                await self.hold.wait()
            if self.answer is not None:
                return web.Response(status=self.answer)
            if request.headers.get("Authorization") != f"Bearer {TOKEN}":
                return web.Response(status=401)
            try:
                points = [parse(text) for text in body.removesuffix("\n").split("\n")]
            except ValueError:
                return web.Response(status=500)
            for point in points:
                self.channels.setdefault(f"stream/{request.match_info['stream']}/{point[0]}", []).append(point)
            return web.Response()
        finally:
            self.running -= 1


@asynccontextmanager
async def stand_in() -> AsyncIterator[StandIn]:
    served = StandIn()
    application = web.Application()
    application.router.add_post("/grafana/api/live/push/{stream}", served.push)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/grafana"
    try:
        yield served
    finally:
        if served.hold is not None:
            served.hold.set()
        await runner.cleanup()


@asynccontextmanager
async def publisher(url: str, token: Path, interval: float = 0.01) -> AsyncIterator[tuple[GrafanaLive, Metric]]:
    """Yield a publisher that runs, and what reads its metrics."""
    registry = CollectorRegistry()
    live = GrafanaLive(url, GrafanaSettings(url, token, "latido", interval), GrafanaMetrics(registry))

    def metric(name: str, **labels: str) -> float:
        return registry.get_sample_value(f"latido_bridge_grafana_{name}", labels) or 0.0

    running = asyncio.create_task(live.run())
    try:
        yield live, metric
    finally:
        running.cancel()
        await asyncio.wait([running])
    if not running.cancelled():
        running.result()


def key(feed: Feed, host: str = "web-1") -> Key:
    return Key(feed, host, STREAM)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    write(path, TOKEN)
    return path


def write(path: Path, token: str) -> None:
    path.write_text(f"{token}\n")
    path.chmod(0o600)


async def test_each_feed_becomes_a_channel_with_the_host_as_label(token: Path) -> None:
    async with stand_in() as grafana, publisher(grafana.url, token) as (live, metric):
        live.offer(key(Feed.RAM), ram(1, AT))
        live.offer(key(Feed.CPU), cpu(1, AT))  # whose shares nobody can know
        live.offer(key(Feed.PROCESOS), procesos(1, AT, [process(1), process(2)], keyframe=True))
        live.offer(key(Feed.CPU), cpu(2, AT + 5000))
        await wait_until(lambda: len(grafana.channels) == 3, "all three channels")
        (found,) = grafana.channels["stream/latido/ram"]
        assert ("ram", {"host": "web-1"}, AT * 1_000_000) == (found[0], found[1], found[3])
        assert (16.0 * GIB, 4.0 * GIB + 1, 43.75) == tuple(
            found[2][name] for name in ("total_bytes", "free_bytes", "used_percent")
        )
        assert "shared_bytes" not in found[2]  # the source could not know: absent, not 0
        (found,) = grafana.channels["stream/latido/cpu"]
        assert (1.25, 0.8, 0.4) == tuple(found[2][name] for name in ("load1", "load5", "load15"))
        assert pytest.approx(100 * 1 / 3.5) == found[2]["user_percent"]
        assert pytest.approx(100 * 1.5 / 3.5) == found[2]["busy_percent"]
        (found,) = grafana.channels["stream/latido/procesos"]
        assert (2.0, 2.0, 0.0) == tuple(found[2][name] for name in ("total", "sleeping", "running"))
        assert 1.0 == metric("points_total", feed="cpu")


async def test_while_grafana_is_slow_the_newest_replaces_what_waits_and_one_request_runs(token: Path) -> None:
    async with stand_in() as grafana, publisher(grafana.url, token) as (live, metric):
        grafana.hold = asyncio.Event()
        live.offer(key(Feed.RAM), ram(1, AT))
        await wait_until(lambda: grafana.running == 1, "the first push")
        for seq in range(2, 1002):
            live.offer(key(Feed.RAM, "web-1"), ram(seq, AT + seq))
            live.offer(key(Feed.RAM, "web-2"), ram(seq, AT + seq))
        assert 2 == metric("waiting_points")
        grafana.hold.set()
        await wait_until(lambda: len(grafana.channels.get("stream/latido/ram", [])) == 3, "three points")
        times = [(AT + 1001) * 1_000_000] * 2
        assert [AT * 1_000_000, *times] == [point[3] for point in grafana.channels["stream/latido/ram"]]
        assert 1998 == metric("replaced_points_total", feed="ram")
        assert (1, 0) == (grafana.most, metric("waiting_points"))


async def test_many_hosts_go_in_requests_of_bounded_size(token: Path) -> None:
    async with stand_in() as grafana, publisher(grafana.url, token) as (live, _):
        for number in range(3000):
            live.offer(key(Feed.RAM, f"host-{number}"), ram(1, AT))
        await wait_until(lambda: len(grafana.channels.get("stream/latido/ram", [])) == 3000, "every host")
        assert len(grafana.requests) > 1
        assert max(grafana.requests) <= grafana_live.MAX_BODY_BYTES
        hosts = [point[1]["host"] for point in grafana.channels["stream/latido/ram"]]
        assert [f"host-{number}" for number in range(3000)] == hosts


async def test_what_waits_is_bounded(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafana_live, "MAX_POINTS", 10)
    registry = CollectorRegistry()
    live = GrafanaLive("http://127.0.0.1:1", GrafanaSettings(None, token, "latido", 1.0), GrafanaMetrics(registry))
    for number in range(100):
        live.offer(key(Feed.RAM, f"host-{number}"), ram(1, AT))
    assert 10 == registry.get_sample_value("latido_bridge_grafana_waiting_points")
    assert 90 == registry.get_sample_value("latido_bridge_grafana_replaced_points_total", {"feed": "ram"})


async def test_an_error_is_told_once_and_the_end_of_it(
    token: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grafana_live, "LONGEST_DELAY", 0.05)
    logs.setup("info", "console")
    async with stand_in() as grafana, publisher(grafana.url, token) as (live, metric):
        grafana.answer = 403
        live.offer(key(Feed.RAM), ram(1, AT))
        await wait_until(lambda: metric("requests_total", status="403") >= 3, "three tries")
        assert 0 == metric("up")
        await wait_until(lambda: metric("waiting_points") == 1, "between two tries the point waits")
        grafana.answer = None
        await wait_until(lambda: metric("up") == 1, "it is taken")
        assert [AT * 1_000_000] == [point[3] for point in grafana.channels["stream/latido/ram"]]
    told = [text for text in capsys.readouterr().err.splitlines() if "Grafana" in text]
    assert 2 == len(told), told
    assert "Grafana does not take the feeds" in told[0]
    assert "403" in told[0]
    assert "Grafana takes the feeds again" in told[1]
    assert TOKEN not in "".join(told)


async def test_points_that_grafana_refuses_are_not_sent_again(token: Path) -> None:
    async with stand_in() as grafana, publisher(grafana.url, token) as (live, metric):
        grafana.answer = 500
        live.offer(key(Feed.RAM), ram(1, AT))
        await wait_until(lambda: metric("requests_total", status="500") == 1, "the refusal")
        await wait_until(lambda: metric("replaced_points_total", feed="ram") == 1, "it is dropped")
        assert 0 == metric("waiting_points")


async def test_nobody_listens(token: Path) -> None:
    async with publisher("http://127.0.0.1:1", token) as (live, metric):
        live.offer(key(Feed.RAM), ram(1, AT))
        await wait_until(lambda: metric("requests_total", status="0") >= 1, "a try")
        assert (0, 1) == (metric("up"), metric("waiting_points"))


async def test_a_changed_token_is_taken_up(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grafana_live, "LONGEST_DELAY", 0.05)
    write(token, "yesterdays")
    async with stand_in() as grafana, publisher(grafana.url, token) as (live, metric):
        live.offer(key(Feed.RAM), ram(1, AT))
        await wait_until(lambda: metric("requests_total", status="401") >= 1, "the old token is refused")
        write(token, TOKEN)
        await wait_until(lambda: metric("up") == 1, "the new one is taken")


async def test_a_token_that_cannot_be_read_is_told_at_the_start(tmp_path: Path) -> None:
    where = GrafanaSettings(None, tmp_path / "none", "latido", 1.0)
    with pytest.raises(SettingsError, match=r"--grafana\.token-file: .*none cannot be read"):
        GrafanaLive("http://127.0.0.1:1", where, GrafanaMetrics(CollectorRegistry()))


async def test_a_bridge_pushes_what_the_database_gets_and_shows_it_to_its_clients_meanwhile(
    database: Dsn, start_bridge: Callable[..., Program], token: Path
) -> None:
    at = now_ms()
    async with stand_in() as grafana, contextlib.AsyncExitStack() as stack:
        writer = Writer(database)
        stack.callback(writer.close)
        flags = (f"--grafana.url={grafana.url}", f"--grafana.token-file={token}", "--grafana.interval=50ms")
        bridge = start_bridge(database, *flags)
        async with client(bridge.url) as reader:
            writer.commit(ram(1, at))
            await reader.sample(1)
            channel = "stream/latido/ram"
            await wait_until(lambda: grafana.channels.get(channel), "the sample is there")
            assert [("ram", {"host": "web-1"}, at * 1_000_000)] == [
                (point[0], point[1], point[3]) for point in grafana.channels[channel]
            ]
            grafana.hold = asyncio.Event()  # Grafana hangs: the feed goes on
            for seq in range(2, 6):
                writer.commit(ram(seq, at + seq))
                await reader.sample(seq)
            grafana.hold.set()
            await wait_until(lambda: grafana.channels[channel][-1][3] == (at + 5) * 1_000_000, "the newest is there")


@given(st.text(min_size=1), st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_a_tag_holds_the_line_is_one_and_says_it(value: str, number: float) -> None:
    text = grafana_live.line("ram", [("host", value)], [("a b", number)], 5)
    name, tags, values, at = parse(text)
    assert ("ram", {"a b": number}, 5_000_000) == (name, values, at)
    if not value.endswith("\\"):  # which would escape the separator
        assert {"host": value.replace("\n", " ").replace("\r", " ")} == tags
