"""What the hosts of a run know of their samples: which were acknowledged, and of which nobody can say. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec import Struct, field


class Account(Struct):
    """One feed of one host. `rows` are those of processes in acknowledged samples.

    `doubt` are the numbers of samples that were sent and not acknowledged: stored or not, the answer was lost.
    """

    acknowledged: int = 0
    rows: int = 0
    doubt: list[int] = field(default_factory=list)


class HostLedger(Struct):
    """One host's accounts by feed."""

    host: str
    stream: str
    feeds: dict[str, Account] = field(default_factory=dict)


def encode(hosts: Iterable[HostLedger]) -> bytes:
    """Return a process's ledger as a file holds it."""
    return msgspec.json.encode(list(hosts))


def decode(text: bytes) -> list[HostLedger]:
    """Return the ledger of a file."""
    return msgspec.json.decode(text, type=list[HostLedger])
