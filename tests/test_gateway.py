"""The gateway of compose.yaml, a real nginx by its own file: it splits by weight; an API that goes costs nothing."""

from __future__ import annotations

import http.client
import json
import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dev import nginx
from dev.program import Program, Start
from dev.waiting import wait_for
from ingest.contract import vectors
from ingest.contract.vectors import as_array, as_object
from ingest.contract.wire import Feed
from ingest.tests.clients import JSON, now_ms
from tests import history

POSTS = 2000
SENDERS = 8
TOLERANCE = 0.03
BEFORE, AFTER = 300, 600
"""Posts that are answered before an API is taken away, and after it."""


class Senders:
    """Threads that each post one `cpu` sample after the other on a connection of their own, until `limit` or `end`."""

    def __init__(self, url: str, limit: int | None = None) -> None:
        self.answers: dict[int, int] = {}
        """The status that each number's post was answered with."""
        self._address = urlsplit(url).netloc
        self._limit = limit
        self._lock = threading.Lock()
        self._taken = 0
        self._end = threading.Event()
        self._body = vectors.base(Feed.CPU, now_ms())
        self._pool = ThreadPoolExecutor(SENDERS)
        self._running = [self._pool.submit(self._send) for _ in range(SENDERS)]

    def _next(self) -> int | None:
        with self._lock:
            if self._end.is_set() or self._taken == self._limit:
                return None
            self._taken += 1
            return self._taken

    def _send(self) -> None:
        (sample,) = as_array(self._body["samples"])
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while (seq := self._next()) is not None:
            numbered = {**self._body, "samples": [{**as_object(sample), "seq": seq, "sampled_at": now_ms()}]}
            connection.request("POST", "/api/cpu", json.dumps(numbered), dict(JSON))
            response = connection.getresponse()
            response.read()
            with self._lock:
                self.answers[seq] = response.status
        connection.close()

    def begun(self) -> int:
        """Return the highest number that was given to a post."""
        with self._lock:
            return self._taken

    def answered(self) -> set[int]:
        """Return the numbers whose posts are over."""
        with self._lock:
            return set(self.answers)

    def wait_for(self, answers: int) -> None:
        """Wait until this many posts were answered, whatever with; what ended a sender is raised here."""

        def enough() -> bool:
            for each in self._running:
                if each.done():
                    each.result()
            return len(self.answers) >= answers

        wait_for(enough, f"{answers} answers", 300)

    def end(self) -> None:
        """Let each finish the post that it is at."""
        self._end.set()
        self._pool.shutdown()


def apis_by_seq(dsn: str) -> dict[int, str]:
    """Return who stored each sample; a sample that stands there twice fails."""
    rows = history.query(dsn, "SELECT seq, api FROM cpu")
    assert len(rows) == len({seq for seq, _ in rows})
    return dict(rows)


@pytest.fixture
def apis(database: str, start: Start) -> dict[str, Program]:
    """Both APIs over one database."""
    return {f"ingest-{name}": start("ingest", name, dsn=database) for name in ("raw", "orm")}


def ports(apis: Mapping[str, Program]) -> dict[str, int]:
    return {name: api.port for name, api in apis.items()}


@pytest.mark.parametrize(("raw", "orm"), [(4, 1), (1, 1)], ids=["80/20", "50/50"])
def test_posts_are_split_by_weight(database: str, apis: dict[str, Program], tmp_path: Path, raw: int, orm: int) -> None:
    with nginx.gateway(ports(apis), {"ingest-raw": raw, "ingest-orm": orm}, tmp_path) as url:
        senders = Senders(url, POSTS)
        try:
            senders.wait_for(POSTS)
        finally:
            senders.end()
    assert {201: POSTS} == Counter(senders.answers.values())
    stored = apis_by_seq(database)
    assert set(range(1, POSTS + 1)) == stored.keys()
    counts = Counter(stored.values())
    assert {"raw", "orm"} == counts.keys()
    assert raw / (raw + orm) == pytest.approx(counts["raw"] / POSTS, abs=TOLERANCE)


@pytest.mark.parametrize(("victim", "how"), [("raw", "kill"), ("orm", "stop")])
def test_an_api_that_is_taken_away_costs_no_sample_and_no_error(
    database: str, apis: dict[str, Program], tmp_path: Path, victim: str, how: str
) -> None:
    gone = apis[f"ingest-{victim}"]
    (other,) = {"raw", "orm"} - {victim}
    with nginx.gateway(ports(apis), {"ingest-raw": 1, "ingest-orm": 1}, tmp_path) as url:
        senders = Senders(url)
        try:
            senders.wait_for(BEFORE)
            assert {"raw", "orm"} == set(apis_by_seq(database).values())
            if how == "kill":
                gone.kill()
            else:
                assert 0 == gone.stop()
            first = senders.begun() + 1
            senders.wait_for(len(senders.answered()) + SENDERS + AFTER)
            meanwhile = {seq for seq in senders.answered() if seq >= first}
            gone.start()
            # nginx asks it again when fail_timeout is over.
            since = senders.begun()
            returned = f"SELECT COUNT(*) FROM cpu WHERE api = '{victim}' AND seq > {since}"  # noqa: S608 - ours
            wait_for(lambda: history.query(database, returned)[0][0] > 0, f"{victim} gets posts again", 60)
        finally:
            senders.end()
    assert {201} == set(senders.answers.values())
    stored = apis_by_seq(database)
    assert senders.answers.keys() == stored.keys()
    assert len(meanwhile) >= AFTER
    assert {other} == {stored[seq] for seq in meanwhile}
