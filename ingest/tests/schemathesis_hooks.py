"""What Schemathesis is told beyond the OpenAPI document: four promises of the contract that JSON Schema cannot say.

`Content-Encoding` says how the body is encoded; integers have no fraction, not even `.0`; times lie within the
partitions that exist; numbers that identify something within a sample stand once in it. Loaded by Schemathesis itself
(SCHEMATHESIS_HOOKS). Nothing that is generated to be refused becomes good by it: values outside the schema's limits
are left as they are.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import Any, TypeGuard

import schemathesis
import zstandard
from schemathesis import Case, HookContext, SerializationContext

from ingest.contract import limits

_HOUR_MS = 3_600_000


@schemathesis.serializer("application/json")
def encode(context: SerializationContext, value: object) -> bytes:
    """Encode a body as its Content-Encoding says."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    headers = {str(name).lower(): str(text) for name, text in (context.case.headers or {}).items()}
    encoding = headers.get("content-encoding", "").strip().lower()
    if encoding == "gzip":
        return gzip.compress(body, 1)
    return zstandard.ZstdCompressor().compress(body) if encoding == "zstd" else body


@schemathesis.hook
def before_call(_context: HookContext, case: Case[Any], _kwargs: dict[str, Any]) -> None:
    """Write integers as such, move times into the partitions and part what may stand once."""
    body: Any = _plain(case.body)
    case.body = body
    if not isinstance(body, dict) or not isinstance(body.get("samples"), list):
        return
    now = time.time_ns() // 1_000_000
    seqs: set[tuple[int, ...]] = set()
    for sample in body["samples"]:
        if not isinstance(sample, dict):
            continue
        at = sample.get("sampled_at")
        if _is(at, limits.MAX_SAMPLED_AT) and not now - _HOUR_MS <= at <= now:
            sample["sampled_at"] = now - at % _HOUR_MS
        _part(sample, ("seq",), limits.INT64_MAX, seqs)
        cores: set[tuple[int, ...]] = set()
        for core in _objects(sample, "cores"):
            _part(core, ("cpu",), limits.INT32_MAX, cores)
        identities: set[tuple[int, ...]] = set()
        for process in _objects(sample, "processes"):
            if process.get("pid") == 0 and not isinstance(process["pid"], bool):
                process["pid"] = 1  # 0 stands in `exited` alone
            _part(process, ("start_ticks", "pid"), limits.INT64_MAX, identities)
        for process in _objects(sample, "exited"):
            _part(process, ("start_ticks", "pid"), limits.INT64_MAX, identities)


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever was generated
    """Return a value with each float that JSON Schema takes for an integer as an integer."""
    if isinstance(value, dict):
        return {name: _plain(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _objects(sample: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = sample.get(name)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _part(item: dict[str, Any], names: tuple[str, ...], high: int, seen: set[tuple[int, ...]]) -> None:
    """Change the first of the numbers `names` until no other item has the same ones."""
    values = [item.get(name) for name in names]
    if not all(_is(value, limits.INT64_MAX) for value in values) or not _is(values[0], high):
        return
    first, *rest = (int(str(value)) for value in values)
    while (first, *rest) in seen:
        first = (first + 1) % (high + 1)
    seen.add((first, *rest))
    item[names[0]] = first


def _is(value: object, high: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= high
