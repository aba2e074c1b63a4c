"""What the wire carried: every sample that an exporter sent, and what an API answered to it.

It is written by the proxies between the two, so it knows of an acknowledgement that its receiver never read, and is
independent of what either side says of itself.
"""

from __future__ import annotations

import gzip
import json
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

CREATED: Final = 201


class Key(NamedTuple):
    """The identity of a sample."""

    host: str
    stream: str
    feed: str
    seq: int


class Told(NamedTuple):
    """What a sample says: its time, and one figure of each feed that any change of it would show.

    `ram`: free bytes. `cpu`: context switches. `procesos`: the sum of `cpu_delta_ns`.
    """

    sampled_at: int
    figure: int


@dataclass
class Ledger:
    """Samples sent and acknowledged, and answers by API and status. Its methods are for any thread."""

    sent: dict[Key, Told] = field(default_factory=dict)
    acknowledged: dict[Key, set[str]] = field(default_factory=dict)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    contradictions: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def push(self, feed: str, body: bytes) -> dict[Key, Told]:
        """Note a request's samples and return them."""
        document = json.loads(gzip.decompress(body))
        found = {
            Key(document["host"], document["stream"], feed, sample["seq"]): Told(
                sample["sampled_at"], _figure(feed, sample)
            )
            for sample in document["samples"]
        }
        with self._lock:
            for key, told in found.items():
                before = self.sent.setdefault(key, told)
                if before != told:
                    self.contradictions.append(f"{key} was sent as {before} and as {told}: a number was used twice")
        return found

    def answer(self, api: str, status: int, samples: dict[Key, Told]) -> None:
        """Note an API's answer to a request."""
        with self._lock:
            self.answers[(api, status)] += 1
            if status == CREATED:
                for key in samples:
                    self.acknowledged.setdefault(key, set()).add(api)


def _figure(feed: str, sample: dict[str, Any]) -> int:
    if feed == "ram":
        return int(sample["free_bytes"])
    if feed == "cpu":
        return int(sample["context_switches"])
    return sum(int(process["cpu_delta_ns"]) for process in [*sample["processes"], *sample["exited"]])


class Conversation:
    """One HTTP/1.1 connection (RFC 9112) as both directions pass by: pure, bytes in, the ledger told.

    It knows what our client and servers send: bodies with Content-Length, answers in the order of the requests.
    """

    def __init__(self, api: str, ledger: Ledger) -> None:
        self._api = api
        self._ledger = ledger
        self._up = bytearray()
        self._down = bytearray()
        self._waiting: list[dict[Key, Told]] = []

    def sent(self, data: bytes) -> None:
        """Take bytes of the exporter."""
        self._up += data
        while (message := _take(self._up)) is not None:
            line, body = message
            method, path, _ = line.split(" ", 2)
            if method == "POST":
                self._waiting.append(self._ledger.push(path.removeprefix("/api/"), body))

    def answered(self, data: bytes) -> None:
        """Take bytes of the API."""
        self._down += data
        while (message := _take(self._down)) is not None:
            line, _ = message
            status = int(line.split(" ", 2)[1])
            # An answer may come before the end of a body that the API does not want to read.
            samples = self._waiting.pop(0) if self._waiting else {}
            self._ledger.answer(self._api, status, samples)


def _take(buffer: bytearray) -> tuple[str, bytes] | None:
    """Cut the first whole message off the buffer: its first line and its body."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    line, *headers = bytes(buffer[:end]).decode("latin-1").split("\r\n")
    length = 0
    for header in headers:
        name, _, value = header.partition(":")
        if name.lower() == "content-length":
            length = int(value)
        if name.lower() == "transfer-encoding":
            raise ValueError(f"a body in chunks is not expected here: {line}")
    if len(buffer) < end + 4 + length:
        return None
    body = bytes(buffer[end + 4 : end + 4 + length])
    del buffer[: end + 4 + length]
    return line, body
