"""Content-Encoding within the contract's limits: bytes in, bytes out, and never more memory than the limit allows."""

from __future__ import annotations

import zlib
from typing import Final

import zstandard

from ingest.contract import limits
from ingest.contract.problems import Problem, ProblemType

ENCODINGS: Final = frozenset({"identity", "", "gzip", "zstd"})


def inflate(body: bytes, encoding: str | None) -> bytes:
    """Return the body as it was before `Content-Encoding`: gzip (RFC 1952), zstd (RFC 8878) or none.

    Raises Problem: UNSUPPORTED_ENCODING, MALFORMED_ENCODING, or TOO_LARGE as soon as the limit is passed.
    """
    name = (encoding or "identity").strip().lower()
    if name in {"identity", ""}:
        return body
    if name == "gzip":
        return _gunzip(body)
    if name == "zstd":
        return _unzstd(body)
    raise Problem(ProblemType.UNSUPPORTED_ENCODING, f"got Content-Encoding {encoding!r}")


def _gunzip(body: bytes) -> bytes:
    decoder = zlib.decompressobj(wbits=31)  # 31: a gzip header, the largest window
    try:
        inflated = decoder.decompress(body, limits.MAX_INFLATED_BYTES + 1)
    except zlib.error as error:
        raise Problem(ProblemType.MALFORMED_ENCODING, f"not gzip: {error}") from None
    if len(inflated) > limits.MAX_INFLATED_BYTES:
        raise _too_large()
    if not decoder.eof or decoder.unused_data:
        raise Problem(ProblemType.MALFORMED_ENCODING, "expected one whole gzip member and nothing after it")
    return inflated


def _unzstd(body: bytes) -> bytes:
    # The window is bounded too: a frame of few bytes may ask for gigabytes of it.
    decoder = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj(read_across_frames=False)
    chunks, total = [], 0
    # decompressobj yields all output of its input: small pieces of input bound each step's output
    # (a block inflates to at most 128 KiB, RFC 8878 section 3.1.1.2.3; the smallest has 4 bytes).
    try:
        for start in range(0, len(body), 256):
            chunk = decoder.decompress(body[start : start + 256])
            total += len(chunk)
            if total > limits.MAX_INFLATED_BYTES:
                raise _too_large()
            chunks.append(chunk)
            if decoder.eof:
                if decoder.unused_data or start + 256 < len(body):
                    raise Problem(ProblemType.MALFORMED_ENCODING, "expected one zstd frame and nothing after it")
                return b"".join(chunks)
    except zstandard.ZstdError as error:
        raise Problem(ProblemType.MALFORMED_ENCODING, f"not zstd: {error}") from None
    raise Problem(ProblemType.MALFORMED_ENCODING, "the zstd frame ends early")


def _too_large() -> Problem:
    return Problem(ProblemType.TOO_LARGE, f"the body inflates to more than {limits.MAX_INFLATED_BYTES} bytes")
