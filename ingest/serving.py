"""What both ingest APIs take on the command line, and how they get their socket and tokens."""

from __future__ import annotations

import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingest.contract import tokens
from latido import settings
from latido.settings import Address, DatabaseSettings, LogSettings, SettingsError, group, setting

BACKLOG: Final = 1024
MAX_TOKEN_FILE: Final = 16 << 20
STOP_SECONDS: Final = 2.5
"""After SIGTERM: time for requests in flight. With the rest of the way down it stays below 4 s."""


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
    insecure: bool = setting("insecure", settings.boolean, "false", "allow listening beyond loopback without a token")
    max_requests: int = setting(
        "web.max-requests",
        settings.integer(1, 10_000),
        "128",
        "pushes taken at the same time; more are answered 429",
        metavar="N",
    )
    read_timeout: float = setting(
        "web.read-timeout", settings.positive_duration, "20s", "time for a body to arrive", metavar="DURATION"
    )
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


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


def listen(address: Address) -> socket.socket:
    """Return a listening TCP socket. Raises SettingsError naming the address and the flag."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = found[0]
        return socket.create_server(where, family=family, backlog=BACKLOG, reuse_port=False)
    except OSError as error:
        why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise SettingsError(f"{address} {why}; choose another with --web.listen-address") from None


def bound(listener: socket.socket) -> Address:
    """Return where a socket listens: the port that port 0 became."""
    host, port = listener.getsockname()[:2]
    return Address(str(host), int(port))
