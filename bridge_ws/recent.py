"""What was published lately, in its order: from here a client that reconnects is sent what it missed. Pure.

Every replica publishes the same rows, so a client may leave one and go on at another. Its token is a moment T of the
database's clock at which the bridge that it left had sent all that had committed; what it may lack are the rows that
were received since T less `OVERLAP` (see `cursor`). Memory: at most `limit` bytes of frames, which the clients share.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Final

from bridge_ws.cursor import MARGIN, MAX_CATCH_UP, OVERLAP
from bridge_ws.protocol import Encoded

KEPT: Final = MAX_CATCH_UP + OVERLAP
"""How long a frame is kept: the oldest token that is honoured looks so far back."""
SLACK: Final = 64
"""Frames that may stay in memory after they were dropped: taking each off the front would cost the list's length."""


@dataclass(frozen=True, slots=True)
class Published:
    """A `sample` frame, when its row was received, and a moment not before that which ascends from frame to frame."""

    at: datetime
    received_at: datetime
    frame: Encoded


class Recent:
    """The frames, numbered in the order in which they were published; numbers go on over what was dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: list[Published] = []
        self._dropped = 0  # at the front of the list, which is shortened now and then
        self._size = 0
        self._number = 0  # of the list's first
        self.since: datetime | None = None

    @property
    def first(self) -> int:
        """The number of the oldest frame that is kept."""
        return self._number + self._dropped

    @property
    def end(self) -> int:
        """The number that the next frame will have."""
        return self._number + len(self._frames)

    @property
    def limit(self) -> int:
        """The bound, in bytes of frames."""
        return self._limit

    def start(self, now: datetime) -> None:
        """Begin anew: everything received after `now` will be published."""
        self._number, self._dropped, self._size = self.end, 0, 0
        self._frames = []
        self.since = now + timedelta(milliseconds=1)

    def append(self, at: datetime, received_at: datetime, frame: Encoded) -> None:
        """Take in what is published in the poll of moment `at`."""
        self._frames.append(Published(at, received_at, frame))
        self._size += frame.size
        while self._size > self._limit:
            self._drop_first()

    def prepend(self, since: datetime, frames: Iterable[Published]) -> None:
        """Put what was received since a moment, and was published by another bridge, before all else.

        Whoever replays now goes on where it was: numbers stay. Raises ValueError where that has no room.
        """
        added = list(frames)
        size = sum(one.frame.size for one in added)
        if self._size + size > self._limit:
            raise ValueError("more than the buffer holds")
        self._frames = [*added, *self._frames[self._dropped :]]
        self._number = self.first - len(added)
        self._dropped = 0
        self._size += size
        self.since = since

    def forget(self, now: datetime) -> None:
        """Drop what is too old for any token."""
        before = now - KEPT
        while self._dropped < len(self._frames) and self._frames[self._dropped].at < before:
            self._drop_first()

    def position(self, token: datetime) -> int | None:
        """Return the number from which to replay for a token, None where that was dropped or was never here."""
        bound = token - OVERLAP
        if self.since is None or bound < self.since:
            return None
        return self._number + bisect_left(self._frames, bound, lo=self._dropped, key=attrgetter("at"))

    def __getitem__(self, number: int) -> Published:
        """Return a frame by number, from `first` to before `end`."""
        if not self.first <= number < self.end:
            raise IndexError(number)
        return self._frames[number - self._number]

    def _drop_first(self) -> None:
        one = self._frames[self._dropped]
        self._dropped += 1
        self._size -= one.frame.size
        self.since = one.at + timedelta(milliseconds=1)
        if self._dropped >= SLACK or self._dropped == len(self._frames):
            del self._frames[: self._dropped]
            self._number += self._dropped
            self._dropped = 0


def is_too_old(token: datetime, now: datetime) -> bool:
    """Whether a client starts anew: away for longer than a bridge catches up, or the database's clock was set back."""
    return not now - MAX_CATCH_UP <= token <= now + MARGIN
