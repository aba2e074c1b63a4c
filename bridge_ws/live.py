"""The newest of every host and feed, kept current sample by sample: what a `snapshot` is made from. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto

from bridge_ws.protocol import AnySample, Api, Encoded, Key, encode_snapshot
from bridge_ws.tables import ProcessTable
from ingest.contract.wire import ProcesosSample


class Outcome(Enum):
    """What a sample was to what is known."""

    NEWEST = auto()
    """It came in order."""
    LATE = auto()
    """A newer one was known, and the table does not change by it."""
    LATE_IN_TABLE = auto()
    """A newer one was known, and the table must be rebuilt from the database."""
    UNKNOWN_BEFORE = auto()
    """It came in order, but of a stream that was not known: the table must be looked for in the database."""


@dataclass(slots=True)
class _Entry:
    sample: AnySample
    api: Api
    received_at: datetime
    table: ProcessTable | None = None
    snapshot: Encoded | None = None  # encoded once, for whoever asks before the next sample


class Live:
    """The newest samples and process tables. Memory: one sample a key, one table a stream of `procesos`."""

    def __init__(self, listen: Callable[[Key, AnySample], None] | None = None) -> None:
        """`listen` is told of every sample that is the newest of its key; it must not wait."""
        self._entries: dict[Key, _Entry] = {}
        self._listen = listen

    def apply(self, key: Key, sample: AnySample, api: Api, received_at: datetime) -> Outcome:
        """Take a sample in, and say what it was."""
        outcome = self._apply(key, sample, api, received_at)
        if self._listen is not None and outcome in {Outcome.NEWEST, Outcome.UNKNOWN_BEFORE}:
            self._listen(key, sample)
        return outcome

    def _apply(self, key: Key, sample: AnySample, api: Api, received_at: datetime) -> Outcome:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry(sample, api, received_at)
            if not isinstance(sample, ProcesosSample):
                return Outcome.NEWEST
            if not sample.keyframe:
                return Outcome.UNKNOWN_BEFORE
            entry.table = ProcessTable(sample)
            return Outcome.NEWEST
        entry.received_at = max(entry.received_at, received_at)
        if sample.seq <= entry.sample.seq:
            return Outcome.LATE_IN_TABLE if _changes(entry.table, sample) else Outcome.LATE
        entry.sample, entry.api, entry.snapshot = sample, api, None
        if isinstance(sample, ProcesosSample):
            if entry.table is not None:
                entry.table.apply(sample)
            elif sample.keyframe:
                entry.table = ProcessTable(sample)
        return Outcome.NEWEST

    def set_table(self, key: Key, table: ProcessTable | None) -> None:
        """Put the table that was rebuilt from the database, up to the newest sample known here."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.table, entry.snapshot = table, None

    def newest_seq(self, key: Key) -> int:
        """Return the newest `seq` of a key, 0 where it is not known."""
        entry = self._entries.get(key)
        return 0 if entry is None else entry.sample.seq

    def sampled_at(self, key: Key) -> int | None:
        """Return when the newest sample of a key was taken, in its host's milliseconds; None where it is not known."""
        entry = self._entries.get(key)
        return None if entry is None else entry.sample.sampled_at

    def snapshot(self, key: Key) -> Encoded | None:
        """Return the `snapshot` frame, or None where nothing is known: the host is gone, or no keyframe was seen."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.snapshot is None:
            sample = entry.sample
            if isinstance(sample, ProcesosSample):
                if entry.table is None:
                    return None
                sample = entry.table.sample()
            entry.snapshot = encode_snapshot(key, sample, entry.api)
        return entry.snapshot

    def ordered(self) -> Iterator[Key]:
        """Return every key, feeds together and hosts in order."""
        return iter(sorted(self._entries))

    def hosts(self) -> list[str]:
        """Return the names of the hosts, in order."""
        return sorted({key.host for key in self._entries})

    def forget(self, before: datetime) -> None:
        """Drop what has received nothing since a moment of the database's clock."""
        self._entries = {key: entry for key, entry in self._entries.items() if entry.received_at >= before}

    def clear(self) -> None:
        """Drop all."""
        self._entries.clear()


def _changes(table: ProcessTable | None, sample: AnySample) -> bool:
    if not isinstance(sample, ProcesosSample):
        return False
    # Before the table's keyframe nothing counts; without a table nothing but a keyframe.
    return sample.keyframe if table is None else sample.seq > table.keyframe_seq
