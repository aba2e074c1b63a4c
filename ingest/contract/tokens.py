"""Bearer tokens (RFC 6750), optionally bound to hosts, compared in constant time.

A token file holds a token a line, then, where it is bound, the hosts it may push for, parted by blanks; `#` starts
a comment line. It is parsed here and read by the programs.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from ingest.contract.problems import Problem, ProblemType


@dataclass(frozen=True)
class Token:
    """A secret, and the hosts it may push for (empty: any)."""

    secret: bytes
    hosts: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        """Show no secret: this may reach a log."""
        return f"Token(hosts={sorted(self.hosts)})"


@dataclass(frozen=True)
class Tokens:
    """The tokens that an API accepts. None at all means that every caller is accepted."""

    tokens: tuple[Token, ...] = ()

    def __bool__(self) -> bool:
        """Whether a token is asked for."""
        return bool(self.tokens)

    def authenticate(self, authorization: str | None) -> Token | None:
        """Return the token of an `Authorization` header, or None where none is asked for.

        Raises Problem (UNAUTHORIZED). Every token is compared whatever was found: time tells nothing.
        """
        if not self.tokens:
            return None
        scheme, _, secret = (authorization or "").partition(" ")
        given = secret.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
        found: Token | None = None
        for token in self.tokens:
            if hmac.compare_digest(token.secret, given):
                found = token
        if found is None:
            raise Problem(ProblemType.UNAUTHORIZED, "send `Authorization: Bearer TOKEN` with a token of this API")
        return found


def authorize(token: Token | None, host: str) -> None:
    """Raise Problem (FORBIDDEN) if the token is bound to other hosts than this one."""
    if token is not None and token.hosts and host not in token.hosts:
        raise Problem(ProblemType.FORBIDDEN, "this token may not push for the host that the body names", "/host")


def parse(lines: Iterable[str]) -> Tokens:
    """Return the tokens of a token file. Raises ValueError naming the line, never the token."""
    tokens = []
    for number, line in enumerate(lines, 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts[0]) < 16:  # noqa: PLR2004 - 16 characters of base64 are 96 bits: out of reach of guessing
            raise ValueError(f"line {number}: a token needs at least 16 characters; `openssl rand -hex 24` makes one")
        tokens.append(Token(parts[0].encode(), frozenset(parts[1:])))
    if not tokens:
        raise ValueError("no token in it")
    return Tokens(tuple(tokens))
