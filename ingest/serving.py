"""What both ingest APIs take on the command line, and how they get their socket and tokens."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingest.contract import limits, tokens
from ingest.contract.encoding import Take
from ingest.contract.problems import Problem, ProblemType
from latido import settings
from latido.settings import Address, DatabaseSettings, LogSettings, SettingsError, group, setting

BACKLOG: Final = 1024
MAX_TOKEN_FILE: Final = 16 << 20
RETRY_AFTER_BUSY: Final = 1
KEEP_ALIVE_SECONDS: Final = 75
"""How long a connection may be idle. Longer than any sender keeps one: whoever closes first must be the sender, since a
request that meets a closing connection is lost. (uvicorn's own 5 s is the very interval at which exporters push.)"""
STOP_SECONDS: Final = 2.5
"""After SIGTERM: time for requests in flight. With the rest of the way down it stays below 4 s."""


def _room(value: str) -> int:
    """Return a size in which the largest body has room, as sent and inflated."""
    number = settings.size(value)
    least = limits.MAX_COMPRESSED_BYTES + limits.MAX_INFLATED_BYTES
    if number < least:
        raise ValueError(f"expected {least >> 20}MiB or more, which the largest push takes, got {value!r}")
    return number


@dataclass(frozen=True)
class ServingSettings:
    """Settings of an ingest API but for its address, whose default differs."""

    token_file: Path | None = setting(
        "auth.token-file",
        settings.path,
        None,
        "file of bearer tokens, one a line, each followed by the hosts it may push for (none: any)",
        metavar="FILE",
    )
    tls_certificate: Path | None = setting(
        "web.tls-cert-file", settings.path, None, "serve HTTPS with this certificate chain, PEM", metavar="FILE"
    )
    tls_key: Path | None = setting(
        "web.tls-key-file", settings.path, None, "key of the certificate, PEM without password", metavar="FILE"
    )
    tls_client_ca: Path | None = setting(
        "web.tls-client-ca-file",
        settings.path,
        None,
        "take only clients with a certificate of these authorities, PEM",
        metavar="FILE",
    )
    insecure: bool = setting("insecure", settings.boolean, "false", "allow listening beyond loopback without a token")
    max_requests: int = setting(
        "web.max-requests",
        settings.integer(1, 10_000),
        "128",
        "pushes taken at the same time; more are answered 429",
        metavar="N",
    )
    max_bytes: int = setting(
        "web.max-bytes",
        _room,
        "128MiB",
        "size of the bodies, inflated, of pushes taken at the same time; more are answered 429",
        metavar="SIZE",
    )
    read_timeout: float = setting(
        "web.read-timeout", settings.positive_duration, "20s", "time for a body to arrive", metavar="DURATION"
    )
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


def without_memory(error: BaseException) -> Problem | None:
    """Return the problem of a push for which there was no memory, or no thread; None for any other error.

    Nothing of it was committed: MySQL has a transaction that nobody commits rolled back.
    """
    # CPython says in no other way that pthread_create(3) failed.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't start new thread" in str(error)):
        return Problem(ProblemType.OVERLOADED, "there is no memory for it now", retry_after=RETRY_AFTER_BUSY)
    return None


class Room:
    """`--web.max-bytes`: what pushes in flight hold of bodies, so that many large ones cannot take all memory.

    The oldest of them is never refused, whatever the others hold: of many that come at once each would otherwise be
    refused with a part of its body read, and none get through. So what it holds may come on top.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held: dict[Place, int] = {}
        """Bytes of each push that holds any, the oldest first."""
        self._total = 0
        self._lock = threading.Lock()  # one API inflates on worker threads

    def place(self) -> Place:
        """Give a push a place, for the time of a block."""
        return Place(self)

    def take(self, place: Place, size: int) -> None:
        """Let a push hold so many bytes more. Raises Problem (OVERLOADED)."""
        with self._lock:
            mine = self._held.setdefault(place, 0)
            counts = mine if next(iter(self._held)) is place else self._total
            if counts + size > self._max_bytes:
                raise Problem(
                    ProblemType.OVERLOADED, f"{self._total} bytes are in flight", retry_after=RETRY_AFTER_BUSY
                )
            self._held[place] = mine + size
            self._total += size

    def leave(self, place: Place) -> None:
        """Let go of what a push holds."""
        with self._lock:
            self._total -= self._held.pop(place, 0)


class Place:
    """A push's place in a room: what the block is given takes room for so many more bytes, or raises Problem."""

    __slots__ = ("_room",)

    def __init__(self, room: Room) -> None:
        self._room = room

    def __enter__(self) -> Take:
        """Begin; nothing is held yet."""
        return self._take

    def __exit__(self, *_: object) -> None:
        """End, and hold nothing."""
        self._room.leave(self)

    def _take(self, size: int) -> None:
        self._room.take(self, size)


def read_tokens(path: Path | None) -> tokens.Tokens:
    """Return the tokens of `--auth.token-file`, none without one. Raises SettingsError."""
    if path is None:
        return tokens.Tokens()
    try:
        with path.open(encoding="utf-8") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & stat.S_IROTH:
                raise SettingsError(f"--auth.token-file: {path} is readable by every user; `chmod o-r {path}`")
            return tokens.parse(file.read(MAX_TOKEN_FILE).splitlines())
    except OSError as error:
        raise SettingsError(f"--auth.token-file: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"--auth.token-file: {path} is not text") from None
    except ValueError as error:
        raise SettingsError(f"--auth.token-file: {path}: {error}") from None


def tls(given: ServingSettings) -> ssl.SSLContext | None:
    """Return how connections are encrypted, None without `--web.tls-cert-file`. Raises SettingsError."""
    if given.tls_certificate is None:
        for flag, file in (("web.tls-key-file", given.tls_key), ("web.tls-client-ca-file", given.tls_client_ca)):
            if file is not None:
                raise SettingsError(f"--{flag} needs --web.tls-cert-file")
        return None
    if given.tls_key is None:
        raise SettingsError("--web.tls-cert-file needs --web.tls-key-file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    settings.load_pair(context, given.tls_certificate, given.tls_key, flags=("web.tls-cert-file", "web.tls-key-file"))
    if given.tls_client_ca is not None:
        settings.load_authorities(context, given.tls_client_ca, flag="web.tls-client-ca-file")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def listen(address: Address) -> socket.socket:
    """Return a listening TCP socket. Raises SettingsError naming the address and the flag."""
    (listener,) = listen_often(address, 1)
    return listener


def listen_often(address: Address, count: int) -> list[socket.socket]:
    """Return so many listening TCP sockets on one address, among which the kernel spreads connections.

    Raises SettingsError naming the address and the flag.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        first = socket.create_server(where, family=family, backlog=BACKLOG, reuse_port=False)
        if count == 1:
            return [first]
        # Another program's address was refused to the first socket; to those that share theirs it would not be.
        where = first.getsockname()
        first.close()
        return [socket.create_server(where, family=family, backlog=BACKLOG, reuse_port=True) for _ in range(count)]
    except OSError as error:
        why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise SettingsError(f"{address} {why}; choose another with --web.listen-address") from None


def bound(listener: socket.socket) -> Address:
    """Return where a socket listens: the port that port 0 became."""
    host, port = listener.getsockname()[:2]
    return Address(str(host), int(port))
