"""What the bridge sends, as values (`bridge_ws/asyncapi.yaml` describes it). Pure.

A frame of a type that this version does not know is passed over, so that a newer bridge can speak to an older terminal.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from ingest.contract.wire import CpuSample, Feed, Host, ProcesosSample, RamSample, Uuid

SUBPROTOCOL: Final = "latido.v1"
BEARER: Final = "latido.bearer."
"""A subprotocol that starts so carries the token: a query would reach logs."""

AnySample = RamSample | CpuSample | ProcesosSample


class Hello(Struct, frozen=True):
    """The first frame: which hosts there are, and where a client may go on after a break."""

    version: int
    hosts: list[Host]
    resume: str | None = None


class Resume(Struct, frozen=True):
    """Where a client that reconnects may go on."""

    token: str


class Gap(Struct, frozen=True):
    """Samples that this client was not sent; a snapshot follows."""

    feed: Feed
    host: Host
    stream: Uuid | None = None
    missed: int | None = None


class Trouble(Struct, frozen=True):
    """An `error` frame: `code` for programs, `detail` for people."""

    code: str
    detail: str


class Reading(Struct, frozen=True, kw_only=True):
    """A `snapshot` or a `sample`."""

    feed: Feed
    host: Host
    stream: Uuid
    late: bool
    snapshot: bool
    sample: AnySample


AnyFrame = Hello | Resume | Gap | Trouble | Reading


class FrameError(Exception):
    """What came is not this protocol."""


class _Head(Struct, frozen=True):
    type: str


class _Carried(Struct, frozen=True):
    type: str
    feed: Feed
    host: Host
    stream: Uuid
    sample: Raw
    late: bool = False


_head: Final = msgspec.json.Decoder(_Head)
_carried: Final = msgspec.json.Decoder(_Carried)
_PLAIN: Final[dict[str, type[Hello | Resume | Gap | Trouble]]] = {
    "hello": Hello,
    "resume": Resume,
    "gap": Gap,
    "error": Trouble,
}
_SAMPLES: Final[dict[Feed, type[AnySample]]] = {
    Feed.RAM: RamSample,
    Feed.CPU: CpuSample,
    Feed.PROCESOS: ProcesosSample,
}


def parse(text: str | bytes) -> AnyFrame | None:
    """Return what a text frame says, None for a type that is not known here. Raises FrameError."""
    try:
        kind = _head.decode(text).type
        if kind in _PLAIN:
            return msgspec.json.decode(text, type=_PLAIN[kind])
        if kind not in {"snapshot", "sample"}:
            return None
        carried = _carried.decode(text)
        return Reading(
            feed=carried.feed,
            host=carried.host,
            stream=carried.stream,
            late=carried.late,
            snapshot=kind == "snapshot",
            sample=msgspec.json.decode(carried.sample, type=_SAMPLES[carried.feed]),
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise FrameError(f"a frame is not of the bridge's protocol: {error}") from None


def subscription(kind: str, feed: Feed, host: str) -> str:
    """Return a `subscribe` or `unsubscribe` message for a feed of one host."""
    return msgspec.json.encode({"type": kind, "feeds": [feed], "hosts": [host]}).decode()
