"""The bridge's protocol: JSON text frames, and what a client asked for. Pure: values in, text out, and back.

`asyncapi.yaml` beside this file is the description for clients; a test holds the two together. WebSocket itself is
RFC 6455, whose close codes (section 7.4.1) are used with the reasons listed in `Close`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

Api = Literal["raw", "orm"]
AnySample = RamSample | CpuSample | ProcesosSample


class Close(Enum):
    """Why the bridge closes a client: the code and the reason it sends."""

    SHUTDOWN = (1001, "the bridge stops")
    BINARY = (1003, "messages are JSON text")
    UNAUTHORIZED = (1008, "a valid token is required")
    MISBEHAVED = (1008, "too many messages that are not of this protocol")
    SLOW = (1013, "the client does not read")

    @property
    def code(self) -> int:
        """The close code."""
        return self.value[0]

    @property
    def reason(self) -> str:
        """The close reason."""
        return self.value[1]


class ErrorCode(StrEnum):
    """What an `error` frame says."""

    MALFORMED = "malformed"
    """The message is not JSON, or not one of this protocol."""
    TOO_MANY_HOSTS = "too-many-hosts"
    TOKEN_REQUIRED = "token-required"  # noqa: S105 - the name of an error
    """Sent first where the bridge wants a token and the client gave none: `authenticate` is the only answer."""
    DATABASE_UNAVAILABLE = "database-unavailable"
    """No sample can come until the database is back; the next one says that it is."""


class Key(NamedTuple):
    """What has a newest sample of its own. A host whose spool was wiped is two streams under one name."""

    feed: Feed
    host: str
    stream: str


# --- from the bridge ---


class Hello(Struct, tag_field="type", tag="hello", frozen=True, kw_only=True):
    """The first frame: what this bridge speaks, and the hosts that it has seen lately (and the token may see)."""

    version: int
    server: str
    feeds: list[Feed]
    hosts: list[str]


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


class Error(Struct, tag_field="type", tag="error", frozen=True, kw_only=True):
    """What went wrong, for programs (`code`) and people (`detail`)."""

    code: ErrorCode
    detail: str


FRAMES: Final = (Hello, Snapshot, Sample, Gap, Error)
AnyFrame = Hello | Snapshot | Sample | Gap | Error

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


ClientMessage = Subscribe | Unsubscribe | Authenticate
CLIENT_MESSAGES: Final = (Subscribe, Unsubscribe, Authenticate)

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


@dataclass(frozen=True, slots=True)
class Encoded:
    """A frame as text, made once and shared by every client that wants it."""

    type: str
    text: bytes
    key: Key | None = None
    seq: int = 0


def encode(frame: AnyFrame) -> Encoded:
    """Return a frame that belongs to no sample."""
    return Encoded(type=_tag(frame), text=_encoder.encode(frame))


def encode_sample(key: Key, sample: AnySample, api: Api, *, late: bool) -> Encoded:
    """Return the `sample` frame of a stored sample."""
    return _with_sample(Sample, key, sample, api, late=late)


def encode_snapshot(key: Key, sample: AnySample, api: Api) -> Encoded:
    """Return the `snapshot` frame of the newest sample (of `procesos`: of the rebuilt table)."""
    return _with_sample(Snapshot, key, sample, api, late=False)


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


def parse_query(query: str, visible: frozenset[str] | None = None) -> Subscription:
    """Return the subscription that a URL asks for: `feeds=ram,cpu&hosts=a,b`, each absent or empty for all.

    Raises ProtocolError.
    """
    try:
        fields = parse_qs(query, max_num_fields=8, errors="strict")
    except ValueError as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"the query cannot be read: {error}") from None
    if unknown := fields.keys() - {"feeds", "hosts"}:
        raise ProtocolError(ErrorCode.MALFORMED, f"unknown in the query: {sorted(unknown)}; expected feeds, hosts")
    try:
        message = msgspec.convert(
            {"type": "subscribe", "feeds": _words(fields.get("feeds")), "hosts": _words(fields.get("hosts"))}, Subscribe
        )
    except msgspec.ValidationError as error:
        raise ProtocolError(ErrorCode.MALFORMED, f"in the query: {error}") from None
    return Subscription(dict.fromkeys(Feed, HostSet()), visible).changed(message)


def _words(values: Sequence[str] | None) -> list[str]:
    return [word for value in values or () for word in value.split(",") if word]
