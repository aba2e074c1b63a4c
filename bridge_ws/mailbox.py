"""What waits for one client, within a bound: when it is full, a host and feed falls back to its newest. Pure.

A mailbox holds frames (shared with every other client) and keys that are owed a snapshot. While a key is owed one,
its samples are not kept but counted: the snapshot, made when the client is ready for it, holds the newest, and a
`gap` names the others. So memory is bounded by `limit` bytes of frames and one small record a key.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from bridge_ws.protocol import Encoded, Gap, Key

FRAME_OVERHEAD: Final = 100
"""Bytes that a queued frame costs beside its text, which may be shared: a reference and its share of the deque."""


@dataclass(slots=True)
class Owed:
    """A snapshot that a key is owed, and the samples that were not kept in the meantime.

    `first`: the client has nothing of this key yet, so it misses nothing that the snapshot leaves out.
    """

    key: Key
    missed: int = 0
    first_seq: int | None = None
    last_seq: int | None = None
    unknown: bool = False
    first: bool = False

    def miss(self, seq: int) -> None:
        """Count a sample that is not kept."""
        self.missed += 1
        self.first_seq = seq if self.first_seq is None else min(self.first_seq, seq)
        self.last_seq = seq if self.last_seq is None else max(self.last_seq, seq)

    def gap(self, snapshot: Encoded | None) -> Gap | None:
        """Return the `gap` to send before a snapshot; None if the snapshot holds all that was not kept."""
        if self.unknown:
            return Gap(**self.key._asdict(), missed=None, first_seq=None, last_seq=None)
        # Whatever was not kept is no newer than the snapshot; its own sample is not missed.
        missed = self.missed - (1 if snapshot is not None and self.last_seq == snapshot.seq else 0)
        if missed == 0 or self.first:
            return None
        return Gap(**self.key._asdict(), missed=missed, first_seq=self.first_seq, last_seq=self.last_seq)


class Mailbox:
    """A client's queue. `limit` is in bytes of frames; a frame that alone is larger is owed as a snapshot."""

    __slots__ = ("_limit", "_owed", "_queue", "_waiting", "size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[Encoded | Owed] = deque()
        self._owed: dict[Key, Owed] = {}
        self._waiting: dict[Key, int] = {}  # how many frames of a key are in the queue
        self.size = 0

    def offer(self, frame: Encoded) -> None:
        """Queue a frame; a sample (or snapshot) that does not fit makes its key owed a snapshot instead.

        A frame without key (`error`) that does not fit is dropped: a client that is behind does without.
        """
        key = frame.key
        if key is not None and (owed := self._owed.get(key)) is not None:
            if frame.type == "sample":
                owed.miss(frame.seq)
            return
        cost = frame.size + FRAME_OVERHEAD
        if self.size + cost <= self._limit:
            self._queue.append(frame)
            self.size += cost
            if key is not None:
                self._waiting[key] = self._waiting.get(key, 0) + 1
        elif key is not None:
            self.owe(key)
            if frame.type == "sample":
                self._owed[key].miss(frame.seq)

    def owe(self, key: Key, *, unknown: bool = False, first: bool = False) -> None:
        """Replace what waits of a key by the newest at the time it is taken.

        `unknown`: nobody knows what is missed. `first`: the client has nothing of the key yet.
        """
        owed = self._owed.get(key)
        if owed is None:
            owed = self._owed[key] = Owed(key, first=first)
            if self._waiting.pop(key, 0):
                self._replace(key, owed)
            self._queue.append(owed)
        owed.unknown = owed.unknown or unknown

    def take(self) -> Encoded | Owed | None:
        """Return what to send next, or None."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        if isinstance(item, Owed):
            del self._owed[item.key]
        else:
            self.size -= item.size + FRAME_OVERHEAD
            if item.key is not None:
                self._leave(item.key)
        return item

    def __len__(self) -> int:
        """Return how many frames and owed snapshots wait."""
        return len(self._queue)

    def _replace(self, key: Key, owed: Owed) -> None:
        kept: deque[Encoded | Owed] = deque()
        for item in self._queue:
            if isinstance(item, Encoded) and item.key == key:
                self.size -= item.size + FRAME_OVERHEAD
                if item.type == "sample":
                    owed.miss(item.seq)
            else:
                kept.append(item)
        self._queue = kept

    def _leave(self, key: Key) -> None:
        left = self._waiting[key] - 1
        if left:
            self._waiting[key] = left
        else:
            del self._waiting[key]
