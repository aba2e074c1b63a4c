"""Processes to bounded groups: gauges at each table, counters that never go backwards, and `other` for the rest.

Pure: tables and the time go in, groups come out. Three sums are held exactly, in integers:

- the groups' gauges add up to the table's;
- the groups' counters rise together by what all processes' counters rose, between any two tables;
- no counter of a group is ever below its last value, whatever becomes of its members or its name.

A group's own count rises only while it has its name. What it uses while it is part of `other` is `other`'s; when it
gets its name back it goes on from its own count, so neither shows a spike. An increase between two tables belongs
to where the group stood at the first, unless it lost its name at the second: then to `other`, which is seen at both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.group_names import Candidate, choose
from exporter.group_rows import Rows, identities, match_missed, rows_of
from exporter.group_sums import COUNTERS, CPU, GAUGES, STATE_NAMES, Matrix, Sums, sum_by_label
from exporter.grouping import OTHER, Grouped, Rule, by_command
from exporter.model import UNKNOWN, ProcessTable, Records

MAX_GROUPS: Final = 64
"""In all, `other` included."""

FORGET_SECONDS: Final = 3600.0
"""A group without a member for so long disappears, and its count with it."""

HALF_LIFE_SECONDS: Final = 300.0
"""Of the CPU time that counts as activity: two evaluations of a usual dashboard's window."""

AWAIT_END_SECONDS: Final = 120.0
"""How long the record of a process that is gone is waited for; the kernel takes a grace period of RCU, milliseconds."""

_RETAINED_PER_GROUP: Final = 16
"""Bounds the counts kept for groups that lost their name, where someone renames processes without end."""


@dataclass(frozen=True, slots=True)
class Group:
    """One group at one table. Counters count from the exporter's start; what no source could read is absent or None."""

    name: str
    processes: int
    threads: int
    rss_bytes: int
    virtual_bytes: int
    swap_bytes: int | None
    oldest_start_ticks: int | None
    states: Mapping[str, int]
    counters: Mapping[str, int]
    """By column name, of COUNTERS."""
    exits: int


@dataclass(slots=True)
class _Account:
    """What a group has counted while it had its name."""

    totals: Matrix
    known: NDArray[np.bool_]
    last_member: float
    exits: int = 0


@dataclass(slots=True)
class _Seen:
    """Who was there before, ascending by identity, what they had used, and in which group they were.

    Where the source knows exits, that is the table before and those that left it since without a word of their end.
    """

    identities: Matrix
    used: Matrix
    """COUNTERS by row: the largest value seen, or UNKNOWN."""
    records: Records
    labels: NDArray[np.object_]
    last: NDArray[np.float64]
    """When each was last in a table."""

    def only(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> _Seen:
        """Return some of them."""
        return _Seen(
            self.identities[which], self.used[:, which], self.records[which], self.labels[which], self.last[which]
        )


@dataclass
class GroupTracker:
    """Follows the groups from table to table. `rule` says which group a process is in.

    A process that is new since the table before counts wholly; one that is on the very first table counts from its
    value there. What a process uses after it was last seen is counted with its exit record; where the source has
    none it is not known to anyone here.
    """

    max_groups: int = MAX_GROUPS
    rule: Rule = by_command
    cpu_ns: int = field(default=0, init=False)
    """CPU time counted so far, in all groups."""
    _seen: _Seen | None = field(default=None, init=False)
    _updated: float = field(default=0.0, init=False)
    _activity: dict[str, float] = field(default_factory=dict, init=False)
    _named: set[str] = field(default_factory=set, init=False)
    _accounts: dict[str, _Account] = field(default_factory=dict, init=False)
    _other: _Account = field(default_factory=lambda: _empty_account(0.0), init=False)

    def update(self, table: ProcessTable, now: float) -> list[Group]:
        """Take the next table at `now` (seconds of a clock that never steps back); return the groups, `other` last."""
        rows = rows_of(table)
        grouped = self.rule(rows.table)
        increases, used, gone = self._advance(rows)
        sums = sum_by_label(rows.table, grouped, increases, used, rows.living)
        positions = {label: position for position, label in enumerate(grouped.labels)}
        before = self._named
        there_before = set() if self._seen is None else set(self._seen.labels.tolist())
        exits = self._exits(gone) if rows.ends is None else _ends(grouped, rows.ends)

        self._measure(grouped.labels, sums, now)
        self._named = self._choose(positions, sums, now)
        own = {label for label in self._named if label in before or label not in there_before}
        self._count(own, positions, sums, exits, increases)
        self._forget(positions, now)

        self._seen = self._see(rows, grouped, used, gone, now)
        return self._report(positions, sums)

    def _advance(self, rows: Rows) -> tuple[Matrix, Matrix, NDArray[np.bool_]]:
        """Return increases and use by row of COUNTERS, and which of those seen before are gone, their end unknown."""
        records = rows.table.records
        current = np.stack([records[name] for name in COUNTERS])
        seen = self._seen
        if seen is None:
            return np.zeros_like(current), current, np.zeros(0, dtype=np.bool_)
        wanted = identities(records)
        position = np.searchsorted(seen.identities, wanted)
        position[position == len(seen.identities)] = 0
        nobody = np.zeros(len(records), dtype=np.bool_)
        same = seen.identities[position] == wanted if len(seen.identities) else nobody
        before = np.zeros_like(current)
        before[:, same] = seen.used[:, position[same]]
        gone = np.ones(len(seen.identities), dtype=np.bool_)
        gone[position[same]] = False
        self._find_missed(rows, seen, before, gone)
        used = np.maximum(current, before)
        increases = np.where(before == UNKNOWN, 0, used - before)
        return increases, used, gone

    def _find_missed(self, rows: Rows, seen: _Seen, before: Matrix, gone: NDArray[np.bool_]) -> None:
        """Put into `before` what was counted of processes whose records were missed; they are not `gone` any more."""
        exits = rows.table.exits
        if exits is None or not len(exits.missed):
            return
        candidates = np.flatnonzero(gone)
        matches = match_missed(exits.missed, exits.missed_counts, seen.records[candidates])
        for row, match in enumerate(matches, rows.missed.start):
            of_row = candidates[match]
            before[:, row] = np.maximum(seen.used[:, of_row], 0).sum(axis=1)
            gone[of_row] = False

    def _see(self, rows: Rows, grouped: Grouped, used: Matrix, gone: NDArray[np.bool_], now: float) -> _Seen:
        """Return what the next table is compared with."""
        living = slice(rows.living)
        records = rows.table.records[living]
        labels = np.array(grouped.labels, dtype=object)[grouped.positions[living]]
        there = _Seen(identities(records), used[:, living], records, labels, np.full(rows.living, now))
        if rows.ends is None or self._seen is None:
            return there
        # The kernel tells an end only when it has forgotten the process: until then what was counted is remembered.
        await_end = gone & (now - self._seen.last < AWAIT_END_SECONDS)
        if not await_end.any():
            return there
        waiting = self._seen.only(await_end)
        both = _Seen(
            np.concatenate([there.identities, waiting.identities]),
            np.concatenate([there.used, waiting.used], axis=1),
            np.concatenate([there.records, waiting.records]),
            np.concatenate([there.labels, waiting.labels]),
            np.concatenate([there.last, waiting.last]),
        )
        return both.only(np.argsort(both.identities, kind="stable"))

    def _exits(self, gone: NDArray[np.bool_]) -> dict[str, int]:
        """Return how many members each group of the table before lost."""
        if self._seen is None:
            return {}
        labels, counts = np.unique(self._seen.labels[gone], return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist(), strict=True))

    def _measure(self, labels: list[str], sums: Sums, now: float) -> None:
        """Let old activity fade, add the new."""
        fade = 0.5 ** ((now - self._updated) / HALF_LIFE_SECONDS)
        self._updated = now
        cpu = sums.increases[:, CPU].sum(axis=1).tolist()
        before = self._activity
        self._activity = {label: before[label] * fade for label in self._named}
        for label, spent in zip(labels, cpu, strict=True):
            self._activity[label] = before.get(label, 0.0) * fade + spent

    def _choose(self, positions: Mapping[str, int], sums: Sums, now: float) -> set[str]:
        incumbents = {
            label
            for label in self._named
            if label in positions or now - self._accounts[label].last_member < FORGET_SECONDS
        }
        # CPU decides. Where nobody used any, memory does: 1 GiB weighs as 1 ms.
        presence = (sums.gauges[:, GAUGES.index("rss_bytes")] / 1024 + 1).tolist()
        candidates = [
            Candidate(label, self._activity[label] + presence[position], present=True)
            for label, position in positions.items()
        ]
        candidates += [
            Candidate(label, self._activity[label], present=False) for label in incumbents if label not in positions
        ]
        return choose(candidates, incumbents, self.max_groups - 1)

    def _count(
        self,
        own: set[str],
        positions: Mapping[str, int],
        sums: Sums,
        exits: Mapping[str, int],
        increases: Matrix,
    ) -> None:
        """Add each increase to one account."""
        whole = increases.sum(axis=1)
        self.cpu_ns += int(whole[CPU].sum())
        rest, rest_exits = whole, sum(exits.values())
        for label in self._named:
            account = self._accounts.setdefault(label, _empty_account(self._updated))
            position = positions.get(label)
            if position is not None:
                account.known |= sums.known[position]
            if label not in own:
                continue
            if position is not None:
                account.totals += sums.increases[position]
                rest = rest - sums.increases[position]
            account.exits += exits.get(label, 0)
            rest_exits -= exits.get(label, 0)
        self._other.totals += rest
        self._other.exits += rest_exits
        self._other.known |= sums.known.any(axis=0)

    def _forget(self, positions: Mapping[str, int], now: float) -> None:
        """Drop accounts that no process has fed for an hour, and the oldest beyond the bound."""
        for label, account in list(self._accounts.items()):
            if label in positions:
                account.last_member = now
            elif label not in self._named and now - account.last_member >= FORGET_SECONDS:
                del self._accounts[label]
        surplus = len(self._accounts) - self.max_groups * _RETAINED_PER_GROUP
        if surplus > 0:
            hidden = [label for label in self._accounts if label not in self._named]
            for label in sorted(hidden, key=lambda label: self._accounts[label].last_member)[:surplus]:
                del self._accounts[label]

    def _report(self, positions: Mapping[str, int], sums: Sums) -> list[Group]:
        is_rest = np.ones(len(positions), dtype=np.bool_)
        groups = []
        for label in sorted(self._named):
            rows = [positions[label]] if label in positions else []
            is_rest[rows] = False
            groups.append(_group(label, self._accounts[label], sums, rows))
        groups.append(_group(OTHER, self._other, sums, np.flatnonzero(is_rest).tolist()))
        return groups


def _ends(grouped: Grouped, ends: Matrix) -> dict[str, int]:
    """Return how many ends there were in each group."""
    counts = np.zeros(len(grouped.labels), dtype=np.int64)
    np.add.at(counts, grouped.positions, ends)
    return {grouped.labels[position]: int(counts[position]) for position in np.flatnonzero(counts).tolist()}


def _empty_account(now: float) -> _Account:
    return _Account(np.zeros(len(COUNTERS), dtype=np.int64), np.zeros(len(COUNTERS), dtype=np.bool_), now)


def _group(name: str, account: _Account, sums: Sums, rows: list[int]) -> Group:
    threads, resident, virtual, swap = sums.gauges[rows].sum(axis=0).tolist()
    # A group without members uses no swap, where swap can be read at all.
    processes = int(sums.processes[rows].sum())
    swap_known = bool((sums.swap_known[rows] if rows else sums.swap_known).any())
    return Group(
        name=name,
        processes=processes,
        threads=threads,
        rss_bytes=resident,
        virtual_bytes=virtual,
        swap_bytes=swap if swap_known else None,
        oldest_start_ticks=int(sums.oldest[rows].min()) if processes else None,
        states=dict(zip(STATE_NAMES, sums.states[rows].sum(axis=0).tolist(), strict=True)),
        counters={
            counter: total
            for counter, total, known in zip(COUNTERS, account.totals.tolist(), account.known.tolist(), strict=True)
            if known
        },
        exits=account.exits,
    )
