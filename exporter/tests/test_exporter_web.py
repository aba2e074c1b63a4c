"""The exporter's HTTP side over real sockets: formats, health, and scrapes that take turns."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from html.parser import HTMLParser
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request
from prometheus_client import CollectorRegistry

from exporter.collectors.driver import MachineCollector, make_collectors
from exporter.collectors.settings import CollectorSettings
from exporter.sources.procfs import ProcfsSource
from exporter.web import WAITING, Format, accepts_gzip, choose_format, make_app, scraper

Client = TestClient[Request, Application]


@asynccontextmanager
async def serve(
    scrape: Callable[[Format], bytes] = lambda form: form.name.encode(), ready: Callable[[], str | None] = lambda: None
) -> AsyncIterator[Client]:
    async with TestClient(TestServer(make_app(scrape, ready, version="1.2.3"))) as client:
        yield client


@pytest.fixture
async def exporter() -> AsyncIterator[Client]:
    """Serve this machine."""
    with closing(ProcfsSource()) as source:
        chosen = CollectorSettings(procfs=Path("/proc"), ram=True, cpu=True, processes=True, max_groups=8)
        collector = MachineCollector(source, make_collectors(chosen))
        async with serve(scraper(collector, CollectorRegistry()), collector.waits_for) as client:
            yield client


async def test_metrics_are_text_for_whoever_asks_for_nothing(exporter: Client) -> None:
    async with exporter.get("/metrics", headers={"Accept-Encoding": "identity"}) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "Content-Encoding" not in response.headers
        assert response.headers["Vary"] == "Accept, Accept-Encoding"
        body = await response.text()
    assert body.startswith("# HELP latido_build_info ")
    assert 'latido_group_processes{group="other"}' in body


async def test_metrics_are_openmetrics_when_asked_for(exporter: Client) -> None:
    async with exporter.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert (await response.text()).endswith("# EOF\n")


async def test_metrics_are_compressed_when_asked_for(exporter: Client) -> None:
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.get(exporter.make_url("/metrics"), headers={"Accept-Encoding": "gzip"}) as response,
    ):
        assert response.headers["Content-Encoding"] == "gzip"
        body = await response.read()
    assert b"latido_memory_total_bytes" in gzip.decompress(body)


async def test_counters_count_from_the_start_of_the_program(exporter: Client) -> None:
    """The first scrape that anyone makes is not the first read: what was used since then is in it."""
    async with exporter.get("/metrics") as response:
        assert 'latido_group_exits_total{group="other"}' in await response.text()
    async with exporter.get("/-/ready") as response:
        assert (response.status, await response.text()) == (200, "ready\n")


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/-/ready"])
async def test_head_is_get_without_a_body(path: str) -> None:
    async with serve() as client:
        async with client.get(path, headers={"Accept-Encoding": "identity"}) as response:
            length = len(await response.read())
        async with client.head(path, headers={"Accept-Encoding": "identity"}) as response:
            assert response.status == 200
            assert int(response.headers["Content-Length"]) == length
            assert await response.read() == b""


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/metrics", 405), ("GET", "/none", 404)])
async def test_what_is_not_served(method: str, path: str, status: int) -> None:
    async with serve() as client, client.request(method, path) as response:
        assert response.status == status
        assert response.headers["Server"] == "latido"


async def test_not_ready_says_why_and_reads_again() -> None:
    """A probe itself brings the next read about: whoever is not ready may get no scrape."""
    reads: list[Format] = []

    def scrape(form: Format) -> bytes:
        reads.append(form)
        return b""

    def ready() -> str | None:
        return None if len(reads) >= 3 else "no read has worked yet for: cpu"

    async with serve(scrape, ready) as client:
        assert len(reads) == 1
        async with client.get("/-/ready") as response:
            assert (response.status, await response.text()) == (503, "no read has worked yet for: cpu\n")
        async with client.get("/-/healthy") as response:
            assert (response.status, await response.text()) == (200, "healthy\n")
        async with client.get("/-/ready") as response:
            assert (response.status, await response.text()) == (200, "ready\n")
        async with client.get("/-/ready") as response:
            assert response.status == 200
    assert len(reads) == 3


async def test_defect_in_a_scrape_shows_nothing_of_the_inside() -> None:
    def scrape(form: Format) -> bytes:
        raise ZeroDivisionError(f"secret {form}")

    async with serve(scrape, lambda: None) as client:
        async with client.get("/metrics") as response:
            assert response.status == 500
            assert await response.text() == "the exporter has a defect; its log says more\n"
        async with client.get("/-/healthy") as response:
            assert response.status == 200


class SlowScrape:
    """Scrapes that wait to be let through, and note how many run at once."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.running = 0
        self.most = 0
        self.done = 0

    def __call__(self, form: Format) -> bytes:
        if self.done == 0:  # the one at the start
            self.done = 1
            return b""
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go.wait(30)
        self.running -= 1
        self.done += 1
        return form.name.encode()


async def test_scrapes_take_turns_and_more_than_may_wait_are_refused() -> None:
    slow = SlowScrape()
    async with serve(slow) as client:
        statuses: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()

        async def fetch() -> None:
            async with client.get("/metrics") as response:
                await statuses.put((response.status, response.headers.get("Retry-After")))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(WAITING + 3):
                tasks.create_task(fetch())
            # Those beyond the bound are answered while the others still wait.
            refused = [await statuses.get() for _ in range(3)]
            assert refused == [(503, "5")] * 3
            async with client.get("/-/healthy") as response:
                assert response.status == 200
            slow.go.set()
        served = [statuses.get_nowait() for _ in range(WAITING)]
    assert served == [(200, None)] * WAITING
    assert slow.most == 1


async def test_client_that_leaves_frees_its_place_when_its_scrape_has_ended() -> None:
    slow = SlowScrape()
    async with serve(slow) as client:
        for _ in range(WAITING):
            with pytest.raises(asyncio.TimeoutError):
                await client.get("/metrics", timeout=aiohttp.ClientTimeout(total=0.05))
        slow.go.set()
        async with client.get("/metrics") as response:
            assert response.status in {200, 503}
        # One of them ran; the others were taken back or have run by now: there is room again.
        async with asyncio.timeout(30):
            while True:
                async with client.get("/metrics") as response:
                    if response.status == 200:
                        break
    assert slow.most == 1


class Outline(HTMLParser):
    """Collects tags, links and the style, and holds that every tag that opens is closed, in order."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name == "href" and value]
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_landing_page_leads_everywhere_and_allows_nothing_else() -> None:
    async with serve() as client:
        async with client.get("/") as response:
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"
            policy = response.headers["Content-Security-Policy"]
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            page = await response.text()
        outline = Outline()
        outline.feed(page)
        assert outline.open == []
        assert page.startswith("<!DOCTYPE html>\n<html lang=")
        assert {"title", "h1"} <= set(outline.seen)
        assert "script" not in outline.seen
        assert "1.2.3" in page
        assert outline.links == ["/metrics", "/-/healthy", "/-/ready"]
        for link in outline.links:
            async with client.get(link) as response:
                assert response.status == 200
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, Format.TEXT),
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("application/openmetrics-text", Format.OPENMETRICS),
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            Format.OPENMETRICS,
        ),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", Format.TEXT),
        ("application/openmetrics-text;q=0, */*", Format.TEXT),
        ("application/openmetrics-text;q=x", Format.TEXT),
        ("application/openmetrics-text;version=junk", Format.OPENMETRICS),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Format.TEXT),
    ],
)
def test_choice_of_format(accept: str | None, expected: Format) -> None:
    assert choose_format(accept) is expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ("gzip", True),
        ("GZIP;q=0.1, br", True),
        ("gzip;q=0", False),
        ("*", True),
        ("identity", False),
        ("br, zstd", False),
        ("gzip;q=0, *", False),
    ],
)
def test_choice_of_compression(header: str | None, expected: bool) -> None:  # noqa: FBT001 - a table's column
    assert accepts_gzip(header) is expected
