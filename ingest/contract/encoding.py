"""Content-Encoding within the contract's limits: bytes in, bytes out, and never more memory than the limit allows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Final

import zstandard

from ingest.contract import limits
from ingest.contract.problems import Problem, ProblemType

ENCODINGS: Final = frozenset({"identity", "", "gzip", "zstd"})
GZIP_INPUT: Final = 64 << 10
GZIP_OUTPUT: Final = 1 << 20
"""Of one step. The output left over waits in zlib; the input of a step is copied when it was not used up."""
ZSTD_INPUT: Final = 256

Take = Callable[[int], None]


def _unbounded(_size: int) -> None:
    """Take any size."""


def inflate(body: bytes, encoding: str | None, take: Take = _unbounded) -> bytes:
    """Return the body as it was before `Content-Encoding`: gzip (RFC 1952), zstd (RFC 8878) or none.

    `take` is told of each piece's size as it is made, and what it raises ends the work. Raises Problem:
    UNSUPPORTED_ENCODING, MALFORMED_ENCODING, or TOO_LARGE as soon as the limit is passed.
    """
    name = (encoding or "identity").strip().lower()
    if name in {"identity", ""}:
        return body
    if name not in ENCODINGS:
        raise Problem(ProblemType.UNSUPPORTED_ENCODING, f"got Content-Encoding {encoding!r}")
    chunks: list[bytes] = []
    total = 0
    for chunk in (_gunzip if name == "gzip" else _unzstd)(body):
        total += len(chunk)
        if total > limits.MAX_INFLATED_BYTES:
            raise Problem(ProblemType.TOO_LARGE, f"the body inflates to more than {limits.MAX_INFLATED_BYTES} bytes")
        take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def _gunzip(body: bytes) -> Iterator[bytes]:
    decoder = zlib.decompressobj(wbits=31)  # 31: a gzip header, the largest window
    try:
        for start in range(0, len(body), GZIP_INPUT):
            rest = body[start : start + GZIP_INPUT]
            while rest and not decoder.eof:
                yield decoder.decompress(rest, GZIP_OUTPUT)
                rest = decoder.unconsumed_tail
            if decoder.eof:
                if decoder.unused_data or start + GZIP_INPUT < len(body):
                    raise Problem(ProblemType.MALFORMED_ENCODING, "expected one whole gzip member and nothing after it")
                return
    except zlib.error as error:
        raise Problem(ProblemType.MALFORMED_ENCODING, f"not gzip: {error}") from None
    raise Problem(ProblemType.MALFORMED_ENCODING, "the gzip member ends early")


def _unzstd(body: bytes) -> Iterator[bytes]:
    # The window is bounded too: a frame of few bytes may ask for gigabytes of it.
    decoder = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj(read_across_frames=False)
    # decompressobj yields all output of its input: small pieces of input bound each step's output
    # (a block inflates to at most 128 KiB, RFC 8878 section 3.1.1.2.3; the smallest has 4 bytes).
    try:
        for start in range(0, len(body), ZSTD_INPUT):
            yield decoder.decompress(body[start : start + ZSTD_INPUT])
            if decoder.eof:
                if decoder.unused_data or start + ZSTD_INPUT < len(body):
                    raise Problem(ProblemType.MALFORMED_ENCODING, "expected one zstd frame and nothing after it")
                return
    except zstandard.ZstdError as error:
        raise Problem(ProblemType.MALFORMED_ENCODING, f"not zstd: {error}") from None
    raise Problem(ProblemType.MALFORMED_ENCODING, "the zstd frame ends early")
