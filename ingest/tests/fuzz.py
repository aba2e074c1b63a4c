"""A fuzzer on bodies and encodings: both APIs get each request, over a socket, and owe the same documented answer.

`python -m ingest.tests.fuzz --seconds 180 --seed 7` starts both over a database of its own and prints each failure
with its seed and number. A failure found becomes a vector in `ingest/contract/vectors/recorded.json`.

Framing that is no HTTP is the HTTP server's to refuse: there a 400 in its own words, or a closed connection, will do.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import zstandard

from dev.mariadb import Mariadb
from dev.program import Program
from ingest.contract import limits, vectors
from ingest.contract.problems import CONTENT_TYPE, ProblemType
from ingest.contract.vectors import Json
from ingest.contract.wire import Feed
from ingest.tests.clients import now_ms
from ingest.tests.conftest import make_tables

DOCUMENTED: Final = frozenset({201, 400, 408, 413, 415, 422, 429, 503})
ANSWER_SECONDS: Final = 60.0
READ_TIMEOUT: Final = "1s"
"""What the APIs fuzzed are told, so that a slow body costs a second."""
RESIDENT_MIB: Final = {"raw": 768, "orm": 1536}
"""The bound on each API's resident memory (VmHWM), with the default `--web.max-bytes`."""


@dataclass(frozen=True)
class Request:
    """A request: what is sent, and then perhaps nothing more though more was announced."""

    number: int
    kind: str
    feed: Feed
    headers: tuple[tuple[str, str], ...]
    body: bytes
    framing: str = "length"
    """length, chunked; short (ends early), stalled (stops early), long (announces less), broken (wrong chunks)."""


@dataclass(frozen=True)
class Got:
    """What came back: status 0 where the connection was closed without an answer."""

    status: int
    type: str = ""
    pointer: str | None = None
    samples: int = 0
    fault: str = ""
    """What is wrong with the answer in itself."""


def requests(seed: int, now: int) -> Iterator[Request]:
    """Yield requests for ever, the same ones for a seed and a time."""
    number = 0
    while True:
        yield make(seed, number, now)
        number += 1


def make(seed: int, number: int, now: int) -> Request:
    """Return one request of a seed by its number, the same one at whatever time it is packed."""
    rng = random.Random(f"{seed}/{number}")  # noqa: S311 - replayable, not secret
    feed = rng.choice(list(Feed))
    value = vectors.base(feed, now - rng.randrange(60_000))
    vectors.as_object(vectors.as_array(value["samples"])[0])["seq"] = number + 1
    kind = rng.choice(list(_KINDS))
    request = Request(number, kind, feed, (("Content-Type", "application/json"),), b"")
    return _KINDS[kind](rng, request, value)


# --- kinds of requests ---


def _good(_rng: random.Random, request: Request, value: Json) -> Request:
    return replace(request, body=_dump(value))


def _odd_value(rng: random.Random, request: Request, value: Json) -> Request:
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place, key = rng.choice(list(_places(value)))
        action = rng.randrange(8)
        if action == 0:
            _delete(place, key)
        elif action == 1 and isinstance(place, dict):
            place[rng.choice(("zone", "a/b~c", "", "\u0000", "__proto__", "é"))] = rng.choice(_ODD)
        else:
            _set(place, key, rng.choice(_ODD))
    return replace(request, body=_dump(value))


def _odd_text(rng: random.Random, request: Request, value: Json) -> Request:
    """Put what `json.dumps` would never write where a value stood."""
    place, key = rng.choice(list(_places(value)))
    _set(place, key, "@@")
    odd = rng.choice(_ODD_TEXTS)
    if callable(odd):
        odd = odd(rng)
    return replace(request, body=_dump(value).replace(b'"@@"', odd, 1))


def _bytes(rng: random.Random, request: Request, value: Json) -> Request:
    return replace(request, body=_mangle(rng, _dump(value)))


def _encoded(rng: random.Random, request: Request, value: Json) -> Request:
    name, packed = _pack(rng, _dump(value))
    action = rng.randrange(6)
    if action == 0:
        packed = packed[: rng.randrange(len(packed))]
    elif action == 1:
        packed = _mangle(rng, packed)
    elif action == 2:
        packed += rng.choice((b"\0", packed, b"x" * 300))
    elif action == 3:
        name = rng.choice(("br", "deflate", "gzip, gzip", "GZIP", " zstd ", "identity", "", "x" * 200))
    return _with(replace(request, body=packed), "Content-Encoding", name)


def _bomb(rng: random.Random, request: Request, _value: Json) -> Request:
    name = rng.choice(("gzip", "zstd"))
    size = rng.choice((limits.MAX_INFLATED_BYTES - 1, limits.MAX_INFLATED_BYTES + 1, 3 * limits.MAX_INFLATED_BYTES))
    unit = rng.choice((b" ", b"[", b'{"a":', b"9", b'"'))
    plain = unit * (size // len(unit))
    packed = gzip.compress(plain, 1, mtime=0) if name == "gzip" else zstandard.ZstdCompressor().compress(plain)
    return _with(replace(request, body=packed), "Content-Encoding", name)


def _window(rng: random.Random, request: Request, value: Json) -> Request:
    """Make a frame that asks for a large window (RFC 8878 section 3.1.1.1.2)."""
    parameters = zstandard.ZstdCompressionParameters(window_log=rng.choice((20, 23, 24, 27)), compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(_dump(value)) + packer.flush()
    return _with(replace(request, body=packed), "Content-Encoding", "zstd")


def _many(rng: random.Random, request: Request, value: Json) -> Request:
    """Make a body of more values than bytes would tell, under a field that is not known."""
    unit = rng.choice((b"[],", b"{},", b'{"a":[]},', b"1,", b'"ab",', b'{"ab":1.5},'))
    times = limits.MAX_VALUES * rng.choice((1, 1, 4)) // (4 * sum(unit.count(part) for part in (b",", b"[", b"{")))
    body = _dump(value).removesuffix(b"}") + b',"zone":[' + unit * times + b"0]}"
    return _with(replace(request, body=gzip.compress(body, 1, mtime=0)), "Content-Encoding", "gzip")


def _large(rng: random.Random, request: Request, value: Json) -> Request:
    size = limits.MAX_COMPRESSED_BYTES + rng.choice((-1, 0, 1, 4096))
    body = _dump(value)
    return replace(request, body=body + b" " * (size - len(body)), framing=rng.choice(("length", "chunked")))


def _media_type(rng: random.Random, request: Request, value: Json) -> Request:
    names = ("text/plain", "", "application/json; charset=utf-16", "application/json;charset=UTF-8", "Application/JSON")
    return replace(request, headers=(("Content-Type", rng.choice(names)),), body=_dump(value))


def _framed(rng: random.Random, request: Request, value: Json) -> Request:
    framing = rng.choice(("chunked", "chunked", "short", "long", "broken"))
    return replace(request, body=_dump(value), framing=framing)


def _slow(_rng: random.Random, request: Request, value: Json) -> Request:
    return replace(request, body=_dump(value), framing="stalled")


Make = Callable[[random.Random, Request, Json], Request]
_KINDS: Final[dict[str, Make]] = {
    f"{name} {index}": make_it
    for name, make_it, weight in (
        ("good", _good, 4),
        ("odd value", _odd_value, 24),
        ("odd text", _odd_text, 16),
        ("mangled bytes", _bytes, 12),
        ("encoded", _encoded, 16),
        ("bomb", _bomb, 1),
        ("many", _many, 1),
        ("window", _window, 2),
        ("large", _large, 2),
        ("media type", _media_type, 4),
        ("framed", _framed, 8),
        ("slow", _slow, 1),
    )
    for index in range(weight)
}

_NESTED: Final[tuple[Json, ...]] = ([], {}, [[]], {"": None})
_ODD: Final[tuple[Json, ...]] = (
    *_NESTED,
    *(None, True, False, "", "0", "-1", 0, -1, 1.5, -0.0, 1e300),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**40),
    *(
        "\u0000",
        "\ud7ff",
        "\U0010ffff",
        "a\n",
        "'; --",
        "\\",
        "%s",
        "é" * 64,
        "é" * 65,
        "x" * 1024,
        "x" * 1025,
        "x" * 70_000,
    ),
)
OddText = bytes | Callable[[random.Random], bytes]
_ODD_TEXTS: Final[tuple[OddText, ...]] = (
    *(b"NaN", b"-Infinity", b"1e999", b"-1e-999", b"1.0", b"1e0", b"-0", b"01", b"+1", b".5", b"0x1", b"1_000", b"nul"),
    *(
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'"\\ud83d\\ude00"',
        b'"\\u0000"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
    ),
    *(b'"\n"', b'"\\x"', b"'a'", b"1 /* c */", b"[1,]", b'{"a":1,"a":2}', b'{"a":1,}', b"\xef\xbb\xbf1", b""),
    lambda rng: b"9" * rng.choice((19, 20, 400, 4300, 4301, 100_000)),
    lambda rng: b"1." + b"0" * rng.choice((20, 5000)),
    lambda rng: b"[" * (depth := rng.choice((27, 28, 31, 33, 500, 5000, 200_000))) + b"]" * depth,
    lambda rng: b'{"a":' * (depth := rng.choice((28, 33, 900, 50_000))) + b"1" + b"}" * depth,
)


def _pack(rng: random.Random, body: bytes) -> tuple[str, bytes]:
    if rng.random() < 0.5:
        return "gzip", gzip.compress(body, rng.randrange(10), mtime=0)
    packer = zstandard.ZstdCompressor(level=rng.randrange(1, 6), write_checksum=rng.random() < 0.5)
    return "zstd", packer.compress(body)


def _mangle(rng: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed) + 1)
        action = rng.randrange(4)
        if action == 0:
            changed[at : at + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            del changed[at : at + rng.randrange(1, 20)]
        elif action == 2:
            changed[at:at] = rng.choice((b"{", b"[", b'"', b",", b":", b"\\", b"\0", b"\xff", b"1", b"-", b"e"))
        else:
            piece = changed[at : at + rng.randrange(1, 60)]
            changed[at:at] = piece
    return bytes(changed)


def _with(request: Request, name: str, value: str) -> Request:
    return replace(request, headers=(*request.headers, (name, value)))


def _dump(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _places(value: Json) -> Iterator[tuple[dict[str, Json] | list[Json], str | int]]:
    if isinstance(value, dict):
        for name, member in value.items():
            yield value, name
            yield from _places(member)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index
            yield from _places(item)


def _set(place: dict[str, Json] | list[Json], key: str | int, new: Json) -> None:
    if isinstance(place, dict):
        place[str(key)] = new
    elif isinstance(key, int) and key < len(place):
        place[key] = new


def _delete(place: dict[str, Json] | list[Json], key: str | int) -> None:
    if isinstance(place, dict):
        place.pop(str(key), None)
    elif isinstance(key, int) and key < len(place):
        del place[key]


# --- over the wire ---


def send(port: int, request: Request) -> Got:
    """Send a request as it is and return the answer."""
    head = [f"POST /api/{request.feed.value} HTTP/1.1", "Host: 127.0.0.1", "Connection: close"]
    head += [f"{name}: {value}" for name, value in request.headers]
    body = request.body
    if request.framing in {"chunked", "broken"}:
        head.append("Transfer-Encoding: chunked")
        middle = len(body) // 2
        parts = [b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:middle], body[middle:]) if part]
        body = b"".join(parts) + b"0\r\n\r\n"
        if request.framing == "broken":
            body = parts[0] + b"zz\r\n" + b"".join(parts[1:])
    else:
        announced = {"short": len(body) + 10, "stalled": len(body) + 10, "long": max(len(body) - 10, 0)}
        head.append(f"Content-Length: {announced.get(request.framing, len(body))}")
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
        received = b""
        try:
            connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + body)
            if request.framing == "short":
                connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass  # answered before the end of the body: the answer is read
        try:
            while chunk := connection.recv(1 << 16):
                received += chunk
        except ConnectionResetError:
            pass
    return _understand(received)


def _understand(received: bytes) -> Got:
    if not received:
        return Got(0)
    head, _, body = received.partition(b"\r\n\r\n")
    line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in lines)}
    status = int(line.split()[1])
    kind = headers.get("content-type", "")
    if kind not in {"application/json", CONTENT_TYPE}:
        return Got(status, fault=f"content type {kind!r}")
    value = json.loads(body)
    if status == 201:
        return Got(status, samples=value["accepted"] + value["duplicates"])
    known = {problem.uri: problem.status for problem in ProblemType}
    fault = "" if (known.get(value["type"]), kind) == (status, CONTENT_TYPE) else f"not a documented problem: {value}"
    return Got(status, value["type"], value.get("pointer"), fault=fault)


def judge(request: Request, raw: Got, orm: Got) -> str:
    """Return what is wrong with a pair of answers, or ""."""
    if request.framing in {"broken", "short", "long"}:
        if all(got.status in {0, 201, 400, 408, 422} for got in (raw, orm)):
            return ""
        return "framing that is no HTTP got an answer of another kind"
    for name, got in (("raw", raw), ("orm", orm)):
        if got.fault:
            return f"{name}: {got.fault}"
        if got.status not in DOCUMENTED:
            return f"{name}: not a documented answer"
    if request.framing == "stalled" and raw.status == 201:
        return "a body that never ended was stored"
    return "" if raw == orm else "the answers differ"


@dataclass
class Report:
    """What a run found."""

    failures: list[str]
    statuses: Counter[int]
    requests: int = 0


def run(ports: tuple[int, int], seed: int, *, seconds: float = 0.0, count: int = 0) -> Report:
    """Send requests for so many seconds, or so many requests, to raw and then to orm."""
    report = Report([], Counter())
    until = time.monotonic() + seconds
    for request in requests(seed, now_ms()):
        if (count and request.number >= count) or (not count and time.monotonic() > until):
            break
        raw, orm = (send(port, request) for port in ports)
        fault = judge(request, raw, orm)
        report.requests += 1
        report.statuses[raw.status] += 1
        if fault:
            what = f"{request.kind}, {request.framing}, {request.feed.value}, {request.headers}"
            report.failures.append(f"{seed}/{request.number}: {fault}: {raw} {orm}: {what}: {request.body[:300]!r}")
    return report


def resident_mib(pid: int) -> float:
    """Return the most memory that a process has had (VmHWM of proc(5))."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@contextmanager
def _own() -> Iterator[tuple[Program, Program]]:
    with tempfile.TemporaryDirectory(prefix="latido-fuzz-") as folder, ExitStack() as stack:
        server = Mariadb(Path(folder) / "mariadb", options=("--innodb-flush-log-at-trx-commit=2",))
        stack.callback(server.stop)
        server.start()
        dsn = server.create_database("fuzz")
        make_tables(dsn)
        flags = (f"--web.read-timeout={READ_TIMEOUT}",)
        programs = tuple(Program(("ingest", api), flags, {"LATIDO_DB_DSN": dsn}) for api in ("raw", "orm"))
        for program in programs:
            stack.callback(program.stop)
            program.start()
        yield programs[0], programs[1]


def main(argv: Sequence[str]) -> int:
    """Fuzz both APIs, started for it over a database of their own; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m ingest.tests.fuzz", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long (default 180)")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of an earlier run, to replay it")
    given = parser.parse_args(argv)
    sys.stdout.write(f"seed {given.seed}\n")
    with _own() as (raw, orm):
        report = run((raw.port, orm.port), given.seed, seconds=given.seconds)
        memory = {"raw": resident_mib(raw.pid), "orm": resident_mib(orm.pid)}
    for failure in report.failures:
        sys.stdout.write(f"{failure}\n")
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(report.statuses.items()))
    sys.stdout.write(f"{report.requests} requests to each; answers {statuses}; {len(report.failures)} failures\n")
    for api, mib in memory.items():
        sys.stdout.write(f"{api}: at most {mib:.0f} MiB resident; the bound is {RESIDENT_MIB[api]} MiB\n")
    return int(bool(report.failures) or any(mib > RESIDENT_MIB[api] for api, mib in memory.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
