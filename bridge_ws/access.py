"""Who may connect: by origin (RFC 6454) and by token. Pure decisions; the server acts on them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from bridge_ws.protocol import BEARER
from ingest.contract.problems import Problem
from ingest.contract.tokens import Token, Tokens


def origin(value: str) -> str:
    """Return an origin as browsers write it (`https://host[:port]`); a parser of settings."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f"expected an origin such as https://latido.example.org, got {value!r}")
    return f"{parts.scheme}://{parts.netloc}".lower()


@dataclass(frozen=True)
class OriginPolicy:
    """Which pages may connect. What is no browser sends no origin, and passes.

    `extra` are allowed beside the bridge's own. `private` is a bridge on loopback without token: there the address
    must also be one that no foreign name server can point here, or a page could make its own name mean 127.0.0.1
    and read this machine's processes (DNS rebinding).
    """

    extra: frozenset[str]
    private: bool

    def allows(self, origins: Sequence[str], hosts: Sequence[str]) -> bool:
        """Whether a handshake with these `Origin` and `Host` headers may go on."""
        if not origins:
            return True
        if len(origins) > 1 or len(hosts) != 1:
            return False
        given = origins[0].lower()
        if given in self.extra:
            return True
        parts = _split(given)
        if parts is None or parts != _split(f"{given.partition('://')[0]}://{hosts[0].lower()}"):
            return False
        return not self.private or _is_local(parts[0])


def _split(value: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(value)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        port = parts.port or default
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True  # an address is not looked up by name


class UnauthorizedError(Exception):
    """The token is none of the bridge's."""


def check_token(tokens: Tokens, secret: str) -> Token:
    """Return the token that a secret is. Raises UnauthorizedError."""
    try:
        token = tokens.authenticate(f"Bearer {secret}")
    except Problem:
        raise UnauthorizedError from None
    if token is None:
        raise UnauthorizedError
    return token


def bearer(offered: Sequence[str]) -> str | None:
    """Return the secret among the offered subprotocols, or None."""
    for name in offered:
        if name.startswith(BEARER):
            return name.removeprefix(BEARER)
    return None


def visible_hosts(token: Token | None) -> frozenset[str] | None:
    """Return the hosts that a token is bound to; None: every host."""
    return token.hosts if token is not None and token.hosts else None
