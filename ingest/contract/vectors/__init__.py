"""The contract's vectors: requests with the answers that both APIs owe them, as data (`*.json`), read by any test.

A vector in a file is an object with `name`, `feed`, what differs from a plain `POST` of a good body, and `expect`:

- `method`, `path`: default `POST` and `/api/FEED`.
- `headers`: beside `Content-Type: application/json`; null takes one away.
- `tokens`: true for an API with the token file `TOKEN_FILE`; otherwise one without tokens.
- `body`: one source, `base` (a body of `bases.json`, default the feed's; `set` and `remove` change it by JSON pointer,
  `-` appends to an array), `text` (UTF-8), `base64`, or `repeat` (`{"text", "times"}`); then `before` and `after`
  (a `repeat` each), `samples` (that many, seq counting up), `processes` and `exited` (that many of each, pids counting
  up), `encode` (`gzip`, `zstd`), `cut` (bytes taken off the end) and `append` (base64).
- `expect`: `status`; `accepted` and `duplicates` of a 201, or `type` and `pointer` of a problem; `headers`.

`"$now"` stands for the current time in milliseconds.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Final

import zstandard

from ingest.contract.wire import Feed

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

TOKEN_ANY: Final = "vector-token-for-any-host"  # noqa: S105 - of the tests alone
TOKEN_BOUND: Final = "vector-token-for-web-2-only"  # noqa: S105 - of the tests alone
TOKEN_FILE: Final = f"# of the contract's vectors\n{TOKEN_ANY}\n{TOKEN_BOUND} web-2 web-3\n"

FILES: Final = ("valid.json", "invalid.json", "requests.json", "recorded.json")


@dataclass(frozen=True)
class Expect:
    """The answer. `type` is a problem's name without `urn:latido:problem:`."""

    status: int
    accepted: int | None = None
    duplicates: int | None = None
    type: str | None = None
    pointer: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Vector:
    """A request and its answer."""

    name: str
    feed: Feed
    method: str
    path: str
    headers: Mapping[str, str]
    tokens: bool
    body: bytes = field(repr=False)
    expect: Expect


def load(now_ms: int) -> list[Vector]:
    """Return every vector, with `now_ms` as the time of its samples."""
    bases = _read("bases.json")
    vectors: list[Vector] = []
    for name in FILES:
        cases = _read(name)
        if not isinstance(cases, list):
            raise TypeError(f"{name}: expected an array of vectors")
        vectors.extend(_vector(as_object(case), as_object(bases), now_ms) for case in cases)
    return vectors


def base(feed: Feed, now_ms: int) -> dict[str, Json]:
    """Return the good body of a feed, as a value."""
    return as_object(_timed(as_object(_read("bases.json"))[feed.value], now_ms))


def _read(name: str) -> Json:
    value: Json = json.loads((files(__name__) / name).read_text(encoding="utf-8"))
    return value


def _vector(case: dict[str, Json], bases: dict[str, Json], now_ms: int) -> Vector:
    feed = Feed(str(case["feed"]))
    headers: dict[str, str] = {"Content-Type": "application/json"}
    for name, value in as_object(case.get("headers", {})).items():
        if value is None:
            del headers[name]
        else:
            headers[name] = str(value)
    expect = as_object(case["expect"])
    return Vector(
        name=str(case["name"]),
        feed=feed,
        method=str(case.get("method", "POST")),
        path=str(case.get("path", f"/api/{feed.value}")),
        headers=headers,
        tokens=bool(case.get("tokens", False)),
        body=_body(as_object(case.get("body", {})), bases, feed, now_ms),
        expect=Expect(
            status=_integer(expect["status"]),
            accepted=_optional_integer(expect.get("accepted")),
            duplicates=_optional_integer(expect.get("duplicates")),
            type=_optional_text(expect.get("type")),
            pointer=_optional_text(expect.get("pointer")),
            headers={name: str(value) for name, value in as_object(expect.get("headers", {})).items()},
        ),
    )


def _body(spec: dict[str, Json], bases: dict[str, Json], feed: Feed, now_ms: int) -> bytes:
    if "text" in spec:
        body = str(spec["text"]).replace("$now", str(now_ms)).encode()
    elif "base64" in spec:
        body = base64.b64decode(str(spec["base64"]))
    elif "repeat" in spec:
        body = _repeat(spec["repeat"])
    else:
        value = copy.deepcopy(bases[str(spec.get("base", feed.value))])
        for pointer in as_array(spec.get("remove", [])):
            _change(value, str(pointer), remove=True)
        for pointer, new in as_object(spec.get("set", {})).items():
            _change(value, pointer, new)
        _multiply(value, spec)
        body = json.dumps(_timed(value, now_ms), ensure_ascii=False, separators=(",", ":")).encode()
    body = _repeat(spec.get("before")) + body + _repeat(spec.get("after"))
    encode = spec.get("encode")
    if encode == "gzip":
        body = gzip.compress(body, mtime=0)
    elif encode == "zstd":
        body = zstandard.ZstdCompressor().compress(body)
    cut = _integer(spec.get("cut", 0))
    return (body[:-cut] if cut else body) + base64.b64decode(str(spec.get("append", "")))


def _repeat(spec: Json) -> bytes:
    if spec is None:
        return b""
    given = as_object(spec)
    return str(given["text"]).encode() * _integer(given["times"])


def _multiply(value: Json, spec: dict[str, Json]) -> None:
    """Fill arrays with copies of their first item: samples, or the first sample's processes."""
    if "samples" in spec:
        push = as_object(value)
        one = as_object(as_array(push["samples"])[0])
        push["samples"] = [one | {"seq": seq} for seq in range(1, _integer(spec["samples"]) + 1)]
    pid = 0
    for name in ("processes", "exited"):
        if name in spec:
            sample = as_object(as_array(as_object(value)["samples"])[0])
            first = as_object(as_array(sample[name])[0])
            count = _integer(spec[name])
            sample[name] = [first | {"pid": pid + index} for index in range(1, count + 1)]
            pid += count


def _change(document: Json, pointer: str, new: Json = None, *, remove: bool = False) -> None:
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    place = document
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else as_object(place)[part]
    if isinstance(place, list):
        if remove:
            del place[int(last)]
        elif last == "-":
            place.append(new)
        else:
            place[int(last)] = new
    elif remove:
        del as_object(place)[last]
    else:
        as_object(place)[last] = new


def _timed(value: Json, now_ms: int) -> Json:
    if isinstance(value, dict):
        return {name: _timed(member, now_ms) for name, member in value.items()}
    if isinstance(value, list):
        return [_timed(item, now_ms) for item in value]
    return now_ms if value == "$now" else value


def as_object(value: Json) -> dict[str, Json]:
    """Return a value that is an object. Raises TypeError."""
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {value!r:.100}")
    return value


def as_array(value: Json) -> list[Json]:
    """Return a value that is an array. Raises TypeError."""
    if not isinstance(value, list):
        raise TypeError(f"expected an array, got {value!r:.100}")
    return value


def _integer(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer, got {value!r:.100}")
    return value


def _optional_integer(value: Json) -> int | None:
    return None if value is None else _integer(value)


def _optional_text(value: Json) -> str | None:
    return None if value is None else str(value)
