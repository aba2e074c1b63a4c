"""Where the bridge is in the tables: which rows it has seen, and how far back it must look again. Pure.

`received_at` is written when a row is inserted, but the row shows only when its transaction commits, up to
`TRANSACTION_SECONDS` later; so rows do not show in the order of `received_at`. Each poll therefore reads again
what was received since the previous poll's moment less `OVERLAP`, and drops by key what it has seen. All times are
the database's: no other clock is compared with it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from ingest.contract import limits
from ingest.contract.wire import Feed

MARGIN: Final = timedelta(seconds=5)
"""For a commit that takes a moment after the API's own limit ended it, and for a small step of the clock."""
OVERLAP: Final = timedelta(seconds=limits.TRANSACTION_SECONDS) + MARGIN
MAX_CATCH_UP: Final = timedelta(minutes=5)
"""After a longer absence clients are told of a gap, and start anew: what was stored meanwhile is history."""


class RowKey(NamedTuple):
    """The primary key of a row of `ram`, `cpu` or `procesos`."""

    host_id: int
    sampled_at: datetime
    seq: int


class Cursor:
    """The window of one bridge, and the rows in it that were seen.

    Memory: one key for each row that was received within the window.
    """

    def __init__(self, now: datetime) -> None:
        self.start = now - OVERLAP
        self._seen: dict[tuple[Feed, RowKey], datetime] = {}

    def lost(self, now: datetime) -> bool:
        """Whether nothing but a new start helps: away for too long, or the database's clock was set back."""
        return not OVERLAP - MARGIN <= now - self.start <= OVERLAP + MAX_CATCH_UP

    def is_new(self, feed: Feed, key: RowKey) -> bool:
        """Whether a row was not seen yet."""
        return (feed, key) not in self._seen

    def mark(self, feed: Feed, key: RowKey, received_at: datetime) -> None:
        """Remember a row as seen."""
        self._seen[feed, key] = received_at

    def advance(self, now: datetime) -> None:
        """End a poll that began at `now`: move the window, and forget what lies before it."""
        self.start = max(self.start, now - OVERLAP)
        self._seen = {key: received for key, received in self._seen.items() if received >= self.start}

    def __len__(self) -> int:
        """Return how many rows are remembered."""
        return len(self._seen)
