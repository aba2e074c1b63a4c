"""Every vector of the contract, sent to both APIs as programs over a real database."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from dev.program import Program
from ingest.contract import vectors, wire
from ingest.contract.encoding import inflate
from ingest.contract.vectors import Vector
from ingest.raw.decode import decode
from ingest.tests.clients import Answer, Database, now_ms, send
from ingest.tests.conftest import APIS

Running = dict[tuple[str, bool], Program]

NOW = now_ms()
VECTORS = vectors.load(NOW)
BAD = [vector for vector in VECTORS if vector.expect.status != 201]
GOOD = [vector for vector in VECTORS if vector.expect.status == 201]


def _name(vector: Vector) -> str:
    return vector.name


def _send(running: Running, api: str, vector: Vector) -> Answer:
    port = running[(api, vector.tokens)].port
    return send(port, vector.method, vector.path, vector.headers, vector.body)


@pytest.mark.parametrize("vector", BAD, ids=_name)
@pytest.mark.parametrize("api", APIS)
def test_a_bad_request_gets_its_problem_and_stores_nothing(
    running: Running, database: Database, api: str, vector: Vector
) -> None:
    before = database.counts()
    answer = _send(running, api, vector)
    expect = vector.expect
    got = answer.json()
    assert (expect.status, f"urn:latido:problem:{expect.type}", expect.pointer) == (
        answer.status,
        got["type"],
        got.get("pointer"),
    ), got
    assert answer.headers.get("Content-Type", answer.headers.get("content-type")) == "application/problem+json"
    assert got["status"] == expect.status
    assert got.keys() >= {"title", "detail"}
    lowered = {name.lower(): value for name, value in answer.headers.items()}
    for name, value in expect.headers.items():
        assert lowered[name.lower()] == value
    assert database.counts() == before


@pytest.mark.parametrize("vector", GOOD, ids=_name)
@pytest.mark.parametrize("first", APIS)
def test_a_good_push_is_stored_once_whichever_api_gets_it_first(
    running: Running, database: Database, first: str, vector: Vector
) -> None:
    database.clear()
    second = "orm" if first == "raw" else "raw"
    feed = vector.feed.value
    before = database.counts()
    answer = _send(running, first, vector)
    accepted = vector.expect.accepted
    assert (201, {"accepted": accepted, "duplicates": 0}) == (answer.status, answer.json())
    after = database.counts()
    assert after[feed] - before[feed] == accepted
    again = _send(running, second, vector)
    assert (201, {"accepted": 0, "duplicates": accepted}) == (again.status, again.json())
    assert database.counts() == after


@pytest.mark.parametrize("vector", GOOD, ids=_name)
def test_a_good_vector_decodes_with_the_wire_types(vector: Vector) -> None:
    body = inflate(vector.body, vector.headers.get("Content-Encoding"))
    push = decode(vector.feed, body).push
    assert isinstance(push, wire.PUSH_TYPES[vector.feed])


def test_names_of_vectors_are_unique() -> None:
    names = [vector.name for vector in VECTORS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("api", APIS)
def test_promtool_has_nothing_to_say_about_the_metrics(running: Running, promtool: Path, api: str) -> None:
    status, text = running[(api, False)].get("/metrics")
    assert status == 200
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout + done.stderr)
