"""Scrapers, however many and however slow, delay neither what the exporter pushes nor its health."""

from __future__ import annotations

import socket
import threading
import urllib.request
from pathlib import Path

from dev.program import Program, Start
from dev.waiting import wait_for
from tests import history

SCRAPERS = 20
FEEDS = ("ram", "cpu", "procesos")


class Storm:
    """Scrapers that ask again as soon as they are answered, until told to end."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._url = url
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._scrape) for _ in range(SCRAPERS)]
        for thread in self._threads:
            thread.start()

    def _scrape(self) -> None:
        while not self._end.is_set():
            try:
                with urllib.request.urlopen(f"{self._url}/metrics", timeout=60) as answer:
                    body = answer.read()
                if b"latido_group_processes" not in body:
                    self.failed.append("a scrape without groups")
            except OSError as error:
                self.failed.append(str(error))
            self.answered += 1

    def end(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(60)


class SlowReader:
    """A client that asks for `/metrics` and takes one byte a second of the answer, which is larger than its buffer."""

    def __init__(self, port: int) -> None:
        self.taken = 0
        self._end = threading.Event()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(b"GET /metrics HTTP/1.1\r\nHost: exporter\r\nAccept-Encoding: identity\r\n\r\n")
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while self._socket.recv(1):
            self.taken += 1
            if self._end.wait(1.0):
                return

    def end(self) -> None:
        self._end.set()
        self._thread.join(30)
        self._socket.close()


def stored(api: Program, feed: str) -> float:
    """Return what the API says: to ask the exporter itself is to stand in line with its scrapers."""
    return api.metric(f'latido_ingest_samples_total{{feed="{feed}"}}')


def test_twenty_scrapers_and_a_slow_one_delay_neither_push_nor_health(
    database: str, start: Start, tmp_path: Path
) -> None:
    api = start("ingest", "raw", dsn=database)
    flags = (f"--push.url={api.url}", "--push.interval=200ms", f"--spool.path={tmp_path}/spool.sqlite")
    exporter = start("exporter", flags=(*flags, "--push.host=web-1"))
    wait_for(lambda: all(stored(api, feed) >= 1 for feed in FEEDS), "samples are pushed")
    slow, storm = SlowReader(exporter.port), Storm(exporter.url)
    try:
        before = {feed: stored(api, feed) for feed in FEEDS}
        wait_for(lambda: slow.taken >= 2, "the slow one has its first bytes")
        for _ in range(10):
            assert (200, "healthy\n") == exporter.get("/-/healthy")
            assert 200 == exporter.get("/-/ready")[0]
        wait_for(lambda: storm.answered >= 2 * SCRAPERS, "every scraper has been answered a few times", 120)
        enough = {feed: before[feed] + 10 for feed in FEEDS}
        wait_for(lambda: all(stored(api, feed) >= enough[feed] for feed in FEEDS), "all feeds go on being pushed", 120)
        assert slow.taken < 1000  # it was still there, and not served
    finally:
        storm.end()
        slow.end()
    assert [] == storm.failed
    for feed in FEEDS:
        assert 0 == exporter.metric(f'latido_push_samples_failed_total{{feed="{feed}"}}')
    assert 0 == exporter.stop()
    for feed in FEEDS:
        seqs = history.seqs(database, feed)
        assert list(range(1, len(seqs) + 1)) == seqs
