"""The two validations hold to one another without a server: any body gets the same verdict from both."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from ingest.contract import body as contract_body
from ingest.contract import vectors, wire
from ingest.contract.problems import Problem
from ingest.contract.wire import Feed
from ingest.orm import schemas
from ingest.raw import decode as raw_decode

NOW = 1_795_000_000_000
MODELS: dict[Feed, type[schemas.Push]] = {
    Feed.RAM: schemas.RamPush,
    Feed.CPU: schemas.CpuPush,
    Feed.PROCESOS: schemas.ProcesosPush,
}

Verdict = tuple[int, str, str | None] | tuple[int, object]


def _raw(feed: Feed, body: bytes) -> Verdict:
    try:
        decoded = raw_decode.decode(feed, body)
    except Problem as problem:
        return (problem.type.status, problem.type.uri, problem.pointer)
    return (decoded.unknown_fields, json.loads(wire_json(decoded.push)))


def _orm(feed: Feed, body: bytes) -> Verdict:
    try:
        push, unknown = schemas.validate(MODELS[feed], body)  # type: ignore[type-var] # any of the three
    except Problem as problem:
        return (problem.type.status, problem.type.uri, problem.pointer)
    return (unknown, _known(push))


def wire_json(push: wire.Push) -> bytes:
    return msgspec.json.encode(push)


def _known(model: BaseModel) -> dict[str, object]:
    return {name: _plain(getattr(model, name)) for name in type(model).model_fields}


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return _known(value)
    return [_plain(item) for item in value] if isinstance(value, list) else value


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64, 10**30, NOW, 253402300800000]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=70),
    st.sampled_from(["web-1", "S", "web-1\n", "6f1c2a34-9b7d-4c1e-8f20-5a6b7c8d9e0f"]),
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner))


@st.composite
def bodies(draw: st.DrawFn) -> tuple[Feed, bytes]:
    """Good bodies with a few members changed, taken away, moved or added, at any depth."""
    feed = draw(st.sampled_from(list(Feed)))
    document: vectors.Json = vectors.base(feed, NOW)
    for _ in range(draw(st.integers(0, 3))):
        place = document
        while isinstance(place, (dict, list)) and place:
            keys: list[str | int] = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            child = place[key]  # type: ignore[index] # the key came from it
            if isinstance(child, (dict, list)) and child and draw(st.integers(0, 4)) > 0:
                place = child
                continue
            action = draw(st.sampled_from(["set", "remove", "add", "shuffle", "repeat"]))
            if action == "set":
                place[key] = draw(values)  # type: ignore[index] # the key came from it
            elif action == "remove":
                del place[key]  # type: ignore[arg-type] # the key came from it
            elif isinstance(place, list):
                place.append(draw(values) if action == "add" else child)
            elif action == "add":
                place[draw(st.text(max_size=5))] = draw(values)
            else:
                items = list(place.items())
                place.clear()
                place.update(draw(st.permutations(items)))
            break
    return feed, json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bodies())
def test_both_apis_judge_any_body_alike(case: tuple[Feed, bytes]) -> None:
    feed, body = case
    assert _raw(feed, body) == _orm(feed, body)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(Feed)), st.data())
def test_both_apis_judge_damaged_bytes_alike(feed: Feed, data: st.DataObject) -> None:
    body = bytearray(json.dumps(vectors.base(feed, NOW)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    assert _raw(feed, bytes(body)) == _orm(feed, bytes(body))


@pytest.mark.parametrize("feed", list(Feed))
def test_the_quick_way_and_the_slow_one_give_the_same_push(feed: Feed) -> None:
    body = json.dumps(vectors.base(feed, NOW)).encode()
    quick = raw_decode.decode(feed, body)
    slow = raw_decode.decode(feed, body[:-1] + b',"unknown":1}')
    assert quick.unknown_fields == 0
    assert slow.unknown_fields == 1
    assert wire_json(quick.push) == wire_json(slow.push)


def test_a_depth_at_the_limit_is_taken_and_one_beyond_is_not() -> None:
    def nested(depth: int) -> contract_body.Json:
        return contract_body.parse(b"[" * depth + b"]" * depth)

    contract_body.check_depth(nested(contract_body.MAX_DEPTH))
    with pytest.raises(Problem):
        contract_body.check_depth(nested(contract_body.MAX_DEPTH + 1))


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30), st.text(max_size=10))
def test_no_header_is_a_defect(parameters: str, encoding: str) -> None:
    """Whatever stands in a header, also bytes that no charset knows: it is taken or it is a 415."""
    try:
        contract_body.check_headers(f"application/json;{parameters}\udcff", encoding)
    except Problem as problem:
        refused = problem
    else:
        return
    assert refused.type.status == 415
    json.dumps(refused.document()).encode()
