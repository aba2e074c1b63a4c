"""Senders of samples that keep a program busy, and what the tables then say of each sample."""

from __future__ import annotations

import http.client
import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from dev.waiting import wait_for
from ingest.contract import vectors
from ingest.contract.vectors import as_array, as_object
from ingest.contract.wire import Feed
from ingest.tests.clients import JSON, now_ms
from tests import history

SENDERS = 8


class Senders:
    """Threads that each post one `cpu` sample of a host after the other, until `limit` or `end`.

    Each has a connection of its own. One that fails ends its thread, which `wait_for` raises; with `until_refused`
    that is the end that was waited for, and the sample has no answer.
    """

    def __init__(
        self, url: str, limit: int | None = None, *, host: str = "web-1", token: str = "", until_refused: bool = False
    ) -> None:
        self.answers: dict[int, int] = {}
        """The status that each number's post was answered with."""
        self._headers = {**JSON, **({"Authorization": f"Bearer {token}"} if token else {})}
        self._until_refused = until_refused
        self._address = urlsplit(url).netloc
        self._limit = limit
        self._lock = threading.Lock()
        self._taken = 0
        self._end = threading.Event()
        self._body = {**vectors.base(Feed.CPU, now_ms()), "host": host, "stream": str(uuid.uuid4())}
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
        try:
            while (seq := self._next()) is not None:
                numbered = {**self._body, "samples": [{**as_object(sample), "seq": seq, "sampled_at": now_ms()}]}
                connection.request("POST", "/api/cpu", json.dumps(numbered), self._headers)
                response = connection.getresponse()
                response.read()
                with self._lock:
                    self.answers[seq] = response.status
        except (OSError, http.client.HTTPException):
            if not self._until_refused:
                raise
        finally:
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


def apis_by_seq(dsn: str, host: str = "%") -> dict[int, str]:
    """Return who stored each `cpu` sample of a host; a sample that stands there twice fails."""
    rows = history.query(dsn, "SELECT seq, api FROM cpu JOIN hosts ON id = host_id WHERE name LIKE %s", host)
    assert len(rows) == len({seq for seq, _ in rows})
    return dict(rows)
