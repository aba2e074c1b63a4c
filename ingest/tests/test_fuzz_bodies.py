"""The fuzzer's short form, and the memory of both APIs while pushes of the largest size come all at once."""

from __future__ import annotations

import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dev.program import Start
from ingest.contract import limits, vectors
from ingest.contract.wire import Feed
from ingest.tests import fuzz
from ingest.tests.clients import JSON, now_ms, send
from ingest.tests.conftest import APIS

SEED = 20
REQUESTS = 120
SENDERS = 4


def test_odd_bodies_get_the_same_documented_answers_from_both(start: Start, tables: str) -> None:
    flags = (f"--web.read-timeout={fuzz.READ_TIMEOUT}",)
    programs = [start("ingest", api, flags=flags, dsn=tables) for api in APIS]
    report = fuzz.run((programs[0].port, programs[1].port), SEED, count=REQUESTS)
    assert [] == report.failures
    assert report.requests == REQUESTS
    # What was sent is no monoculture: the fuzzer reached storing, parsing, validation and inflating.
    assert {201, 400, 415, 422} <= report.statuses.keys()


@pytest.mark.parametrize("api", APIS)
def test_many_of_the_largest_pushes_at_once_take_no_more_memory_than_stated(
    start: Start, tables: str, api: str
) -> None:
    program = start("ingest", api, dsn=tables)
    body = json.dumps(vectors.base(Feed.PROCESOS, now_ms())).encode()
    packed = gzip.compress(body + b" " * (limits.MAX_INFLATED_BYTES - len(body)), 1)

    def push(_sender: int) -> int:
        headers = {**JSON, "Content-Encoding": "gzip"}
        return send(program.port, "POST", "/api/procesos", headers, packed).status

    with ThreadPoolExecutor(SENDERS) as pool:
        statuses = list(pool.map(push, range(SENDERS)))
    assert 201 in statuses
    assert {201, 429} >= set(statuses)  # those for whom there was no room come again
    assert fuzz.resident_mib(program.pid) < fuzz.RESIDENT_MIB[api]


def test_a_request_of_the_fuzzer_is_replayed_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = now_ms()
    first = [request for request, _ in zip(fuzz.requests(SEED, now), range(50), strict=False)]
    monkeypatch.setattr(time, "time", lambda: 1e9)  # a packer that writes the time of day into its header would differ
    assert [fuzz.make(SEED, number, now) for number in range(50)] == first
