"""The bridge's protocol: JSON text frames, and what a client asked for. Pure: values in, text out, and back.

`asyncapi.yaml` beside this file is the description for clients; a test holds the two together. WebSocket itself is
RFC 6455, whose close codes (section 7.4.1) are used with the reasons listed in `Close`.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import Annotated, Final, Literal, NamedTuple
from urllib.parse import parse_qs

import msgspec
from msgspec import Meta, Raw, Struct

from ingest.contract.wire import CpuSample, Feed, Host, ProcesosSample, RamSample

VERSION: Final = 1
SUBPROTOCOL: Final = "latido.v1"
BEARER: Final = "latido.bearer."
"""A subprotocol that starts so carries a token: a browser cannot set headers, and a query would reach logs."""

MAX_MESSAGE_BYTES: Final = 64 << 10
"""The largest message of a client: 1,000 host names of 50 characters fit."""
MAX_HOSTS: Final = 1_000
"""The most host names in one message, and in what one client has asked for."""
MAX_TOKEN_LENGTH: Final = 4_096
MAX_ERRORS: Final = 10
"""Messages that a client may get wrong before it is closed."""
MAX_BACKFILL_MINUTES: Final = 60

WINDOW_BITS: Final = 12
"""Of permessage-deflate: a client that offers less memory than 4 KiB gets plain frames. More gains a few percent."""
DEFLATE_LEVEL: Final = 6
LEAST_DEFLATED_BYTES: Final = 200
"""Shorter frames are sent as they are: compression would save less than the packet that carries them."""

Api = Literal["raw", "orm"]
AnySample = RamSample | CpuSample | ProcesosSample


class Close(Enum):
    """Why the bridge closes a client: the code and the reason it sends."""

    SHUTDOWN = (1001, "the bridge stops", "shutdown")
    BINARY = (1003, "messages are JSON text", "binary")
    NOT_UTF8 = (1007, "text is UTF-8", "protocol")
    UNAUTHORIZED = (1008, "a valid token is required", "unauthorized")
    MISBEHAVED = (1008, "too many messages that are not of this protocol", "protocol")
    FRAGMENTS = (1009, "a message in too many fragments", "protocol")
    KEEPALIVE = (1011, "the client answers no ping", "keepalive")
    SLOW = (1013, "the client does not read", "slow")

    @property
    def code(self) -> int:
        """The close code."""
        return self.value[0]

    @property
    def reason(self) -> str:
        """The close reason."""
        return self.value[1]

    @property
    def metric(self) -> str:
        """The word for it in `latido_bridge_closed_total`."""
        return self.value[2]


class ErrorCode(StrEnum):
    """What an `error` frame says."""

    MALFORMED = "malformed"
    """The message is not JSON, or not one of this protocol."""
    TOO_MANY_HOSTS = "too-many-hosts"
    TOKEN_REQUIRED = "token-required"  # noqa: S105 - the name of an error
    """Sent first where the bridge wants a token and the client gave none: `authenticate` is the only answer."""
    DATABASE_UNAVAILABLE = "database-unavailable"
    """No sample can come until the database is back; the next one says that it is. To a `backfill`: it was not done."""
    BUSY = "busy"
    """A `backfill` was not taken: this client, or the bridge, has enough of them waiting. Ask again later."""


class Key(NamedTuple):
    """What has a newest sample of its own. A host whose spool was wiped is two streams under one name."""

    feed: Feed
    host: str
    stream: str


# --- from the bridge ---


class Hello(Struct, tag_field="type", tag="hello", frozen=True, kw_only=True):
    """The first frame: what this bridge speaks, and the hosts that it has seen lately (and the token may see).

    `resume` is the first resume token; null while the bridge has not reached its database.
    """

    version: int
    server: str
    feeds: list[Feed]
    hosts: list[str]
    resume: str | None


class Snapshot(Struct, tag_field="type", tag="snapshot", frozen=True, kw_only=True):
    """The newest of a host and feed; of `procesos` the whole table, rebuilt, as a keyframe without `exited`."""

    feed: Feed
    host: str
    stream: str
    api: Api
    late: bool
    sample: Raw


class Sample(Struct, tag_field="type", tag="sample", frozen=True, kw_only=True):
    """A sample as it was stored. `late`: a newer one of the same stream and feed was sent before it."""

    feed: Feed
    host: str
    stream: str
    api: Api
    late: bool
    sample: Raw


class Gap(Struct, tag_field="type", tag="gap", frozen=True, kw_only=True):
    """Samples of a host and feed that this client was not sent; a `snapshot` follows.

    `missed` counts them and `first_seq`, `last_seq` bound them; null where nobody can know (the bridge itself was cut
    off from the database for longer than it catches up).
    """

    feed: Feed
    host: str
    stream: str
    missed: int | None
    first_seq: int | None
    last_seq: int | None


class Resume(Struct, tag_field="type", tag="resume", frozen=True, kw_only=True):
    """The newest resume token: `/ws?resume=TOKEN` of any replica goes on from here. At most one a second."""

    token: str


class BackfillAnswer(Struct, tag_field="type", tag="backfill", frozen=True, kw_only=True):
    """Stored samples of a host and feed, one stream's, ascending by `seq`; the answer's final frame has `last`.

    `api` stored all of them; null: both had a share. `truncated`: the oldest that were asked for are left out, since
    an answer is bounded. Nothing stored: one frame without samples, `stream` and `api` null.
    """

    feed: Feed
    host: str
    stream: str | None
    api: Api | None
    samples: list[Raw]
    truncated: bool
    last: bool


class Error(Struct, tag_field="type", tag="error", frozen=True, kw_only=True):
    """What went wrong, for programs (`code`) and people (`detail`)."""

    code: ErrorCode
    detail: str


FRAMES: Final = (Hello, Snapshot, Sample, Gap, Resume, BackfillAnswer, Error)
AnyFrame = Hello | Snapshot | Sample | Gap | Resume | BackfillAnswer | Error

# --- from a client ---

Feeds = Annotated[list[Feed], Meta(max_length=len(Feed))]
Hosts = Annotated[list[Host], Meta(max_length=MAX_HOSTS)]


class Subscribe(Struct, tag_field="type", tag="subscribe", frozen=True, kw_only=True):
    """Ask for these feeds of these hosts beside what was asked for before. Empty or absent: all."""

    feeds: Feeds = msgspec.field(default_factory=list)
    hosts: Hosts = msgspec.field(default_factory=list)


class Unsubscribe(Struct, tag_field="type", tag="unsubscribe", frozen=True, kw_only=True):
    """Ask for no more of these feeds of these hosts. Empty or absent: all."""

    feeds: Feeds = msgspec.field(default_factory=list)
    hosts: Hosts = msgspec.field(default_factory=list)


class Authenticate(Struct, tag_field="type", tag="authenticate", frozen=True, kw_only=True):
    """Give a token as the first message."""

    token: Annotated[str, Meta(min_length=1, max_length=MAX_TOKEN_LENGTH)]

    def __repr__(self) -> str:
        """Show no secret: this may reach a log."""
        return "Authenticate(token=...)"


class Backfill(Struct, tag_field="type", tag="backfill", frozen=True, kw_only=True):
    """Ask for what is stored of a host and feed of the last minutes; the answer is one `backfill` frame or more.

    Of `procesos`, `processes` and `exited` are left empty unless `processes` asks for them.
    """

    feed: Feed
    host: Host
    minutes: Annotated[int, Meta(ge=1, le=MAX_BACKFILL_MINUTES)] = 10
    processes: bool = False


ClientMessage = Subscribe | Unsubscribe | Authenticate | Backfill
CLIENT_MESSAGES: Final = (Subscribe, Unsubscribe, Authenticate, Backfill)

_client_decoder: Final = msgspec.json.Decoder(ClientMessage)
_encoder: Final = msgspec.json.Encoder()


class ProtocolError(Exception):
    """A client's message or query that this protocol does not know; `code` and the text go into an `error` frame."""

    def __init__(self, code: ErrorCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def parse_message(text: str) -> ClientMessage:
    """Return what a client said. Raises ProtocolError."""
    try:
        message: ClientMessage = _client_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"not a message of this protocol: {error}") from None
    return message


class Encoded:
    """A frame as the bytes of the wire, made once and shared by every client that wants it.

    `plain` is the WebSocket frame of the text (RFC 6455, section 5.2); `deflated` the same for clients that negotiated
    permessage-deflate, made when the first of them wants it. Neither depends on what the client was sent before: the
    bridge says `server_no_context_takeover`.
    """

    __slots__ = ("_deflated", "_header", "key", "plain", "seq", "type")

    def __init__(self, type: str, text: bytes, key: Key | None = None, seq: int = 0) -> None:  # noqa: A002 - its tag
        self.type, self.key, self.seq = type, key, seq
        header = _header(_TEXT, len(text))
        self._header = len(header)
        self.plain = header + text
        self._deflated: bytes | None = None

    @property
    def text(self) -> bytes:
        """The JSON text."""
        return self.plain[self._header :]

    @property
    def size(self) -> int:
        """The bytes of the plain frame."""
        return len(self.plain)

    @property
    def deflated(self) -> bytes:
        """The compressed frame; the plain one where compression gains nothing (RFC 7692, section 6)."""
        if self._deflated is None:
            payload = deflate(self.text) if len(self.plain) > LEAST_DEFLATED_BYTES else self.plain
            worth = len(payload) < len(self.plain) - self._header
            self._deflated = _header(_TEXT_DEFLATED, len(payload)) + payload if worth else self.plain
        return self._deflated

    def __repr__(self) -> str:
        """Say which frame it is."""
        return f"Encoded({self.type!r}, {self.key!r}, seq={self.seq}, size={self.size})"


_TEXT: Final = 0x81
_TEXT_DEFLATED: Final = 0xC1
"""The same with RSV1, "per-message compressed" (RFC 7692, section 6)."""
_SHORT: Final = 126
_DEFLATE_TAIL: Final = b"\x00\x00\xff\xff"


def _header(first: int, length: int) -> bytes:
    """Return the header of an unmasked frame (RFC 6455, section 5.2)."""
    if length < _SHORT:
        return struct.pack("!BB", first, length)
    if length < 1 << 16:
        return struct.pack("!BBH", first, _SHORT, length)
    return struct.pack("!BBQ", first, _SHORT + 1, length)


def deflate(text: bytes) -> bytes:
    """Return the payload of a compressed message (RFC 7692, section 7.2.1)."""
    compressor = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -WINDOW_BITS)
    return (compressor.compress(text) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_DEFLATE_TAIL)


def encode(frame: AnyFrame) -> Encoded:
    """Return a frame that belongs to no sample."""
    return Encoded(type=_tag(frame), text=_encoder.encode(frame))


def encode_sample(key: Key, sample: AnySample, api: Api, *, late: bool) -> Encoded:
    """Return the `sample` frame of a stored sample."""
    return _with_sample(Sample, key, sample, api, late=late)


def encode_snapshot(key: Key, sample: AnySample, api: Api) -> Encoded:
    """Return the `snapshot` frame of the newest sample (of `procesos`: of the rebuilt table)."""
    return _with_sample(Snapshot, key, sample, api, late=False)


def encode_body(sample: AnySample) -> bytes:
    """Return a sample alone, as it stands in a frame."""
    return _encoder.encode(sample)


def encode_backfill(
    asked: Backfill, stream: str | None, samples: Sequence[tuple[bytes, Api]], *, truncated: bool, last: bool
) -> Encoded:
    """Return a `backfill` frame of one stream's samples, each as `encode_body` gives it."""
    apis = {api for _, api in samples}
    return encode(
        BackfillAnswer(
            feed=asked.feed,
            host=asked.host,
            stream=stream,
            api=apis.pop() if len(apis) == 1 else None,
            samples=[Raw(body) for body, _ in samples],
            truncated=truncated,
            last=last,
        )
    )


def _with_sample(cls: type[Sample | Snapshot], key: Key, sample: AnySample, api: Api, *, late: bool) -> Encoded:
    frame = cls(
        feed=key.feed, host=key.host, stream=key.stream, api=api, late=late, sample=Raw(_encoder.encode(sample))
    )
    return Encoded(type=_tag(frame), text=_encoder.encode(frame), key=key, seq=sample.seq)


def _tag(frame: AnyFrame) -> str:
    return str(frame.__struct_config__.tag)


# --- what a client asked for ---


@dataclass(frozen=True, slots=True)
class HostSet:
    """Some hosts by name; or, `inverted`, all but these."""

    names: frozenset[str] = frozenset()
    inverted: bool = False

    def __contains__(self, host: str) -> bool:
        """Whether the set holds a host."""
        return (host in self.names) is not self.inverted

    def plus(self, hosts: frozenset[str]) -> HostSet:
        """Return the union. None named: every host."""
        if not hosts:
            return HostSet(inverted=True)
        return HostSet(self.names - hosts if self.inverted else self.names | hosts, self.inverted)

    def minus(self, hosts: frozenset[str]) -> HostSet:
        """Return the difference. None named: no host."""
        if not hosts:
            return HostSet()
        return HostSet(self.names | hosts if self.inverted else self.names - hosts, self.inverted)


EVERY_HOST: Final = HostSet(inverted=True)


@dataclass(frozen=True)
class Subscription:
    """Which hosts of each feed a client wants. A token bound to hosts narrows it (`visible`, None: every host)."""

    hosts: Mapping[Feed, HostSet]
    visible: frozenset[str] | None = None

    def __hash__(self) -> int:
        """Hash by value, so that clients that want the same are found together."""
        return hash((tuple(self.hosts[feed] for feed in Feed), self.visible))

    def wants(self, key: Key) -> bool:
        """Whether a frame of this key goes to the client."""
        return key.host in self.hosts[key.feed] and self.may_see(key.host)

    def may_see(self, host: str) -> bool:
        """Whether the client's token allows the host."""
        return self.visible is None or host in self.visible

    def changed(self, message: Subscribe | Unsubscribe) -> Subscription:
        """Return the subscription after a message. Raises ProtocolError (TOO_MANY_HOSTS)."""
        names = frozenset(message.hosts)
        hosts = dict(self.hosts)
        for feed in message.feeds or Feed:
            after = hosts[feed].plus(names) if isinstance(message, Subscribe) else hosts[feed].minus(names)
            if len(after.names) > MAX_HOSTS:
                raise ProtocolError(ErrorCode.TOO_MANY_HOSTS, f"at most {MAX_HOSTS} hosts can be named; or ask for all")
            hosts[feed] = after
        return Subscription(hosts, self.visible)


def everything(visible: frozenset[str] | None = None) -> Subscription:
    """Return the subscription to every feed of every host."""
    return Subscription(dict.fromkeys(Feed, EVERY_HOST), visible)


@dataclass(frozen=True)
class Query:
    """What a URL asks for: the subscription, and the position from which to resume."""

    subscription: Subscription
    resume: datetime | None


def parse_query(query: str, visible: frozenset[str] | None = None) -> Query:
    """Return what `feeds=ram,cpu&hosts=a,b&resume=TOKEN` asks for, each absent or empty for all or none.

    Raises ProtocolError.
    """
    try:
        fields = parse_qs(query, max_num_fields=8, errors="strict")
    except ValueError as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"the query cannot be read: {error}") from None
    if unknown := fields.keys() - {"feeds", "hosts", "resume"}:
        detail = f"unknown in the query: {sorted(unknown)}; expected feeds, hosts, resume"
        raise ProtocolError(ErrorCode.MALFORMED, detail)
    try:
        message = msgspec.convert(
            {"type": "subscribe", "feeds": _words(fields.get("feeds")), "hosts": _words(fields.get("hosts"))}, Subscribe
        )
    except (msgspec.ValidationError, UnicodeError) as error:  # bytes of a query that are no text become surrogates
        raise ProtocolError(ErrorCode.MALFORMED, f"in the query: {error}") from None
    subscription = Subscription(dict.fromkeys(Feed, HostSet()), visible).changed(message)
    tokens = fields.get("resume", [])
    if len(tokens) > 1:
        raise ProtocolError(ErrorCode.MALFORMED, "in the query: more than one resume")
    return Query(subscription, parse_resume_token(tokens[0]) if tokens else None)


# --- resume tokens ---

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - the database's DATETIME has no zone
_RESUME_TOKEN: Final = re.compile(r"1-([0-9]{13})", re.ASCII)
"""Its version, and milliseconds of the database's clock. No secret: what it opens is what the client may see anyway."""


def resume_token(position: datetime) -> str:
    """Return the token of a moment of the database's clock."""
    return f"1-{(position - _EPOCH) // timedelta(milliseconds=1):013d}"


def parse_resume_token(token: str) -> datetime:
    """Return the moment that a token names. Raises ProtocolError."""
    match = _RESUME_TOKEN.fullmatch(token)
    if match is None:
        raise ProtocolError(ErrorCode.MALFORMED, "in the query: resume is no token of a bridge; connect without")
    return _EPOCH + timedelta(milliseconds=int(match[1]))


def _words(values: Sequence[str] | None) -> list[str]:
    return [word for value in values or () for word in value.split(",") if word]
