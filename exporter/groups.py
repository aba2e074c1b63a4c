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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.group_names import Candidate, choose
from exporter.group_rows import Rows, identities, kinds_of, match_missed, rows_of
from exporter.group_sums import COUNTERS, CPU, GAUGES, STATE_NAMES, Column, Sums, sum_by_label
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

    totals: Column
    known: NDArray[np.bool_]
    last_member: float
    exits: int = 0


@dataclass(slots=True)
class _Seen:
    """Who was there before, ascending by identity, what they had used, and in which group they were.

    Where the source knows exits, that is the table before and those that left it since without a word of their end.
    """

    identities: Column
    used: list[Column]
    """By COUNTERS: the largest values seen, or UNKNOWN."""
    kinds: Records
    """What sums of missed ends are told apart by."""
    labels: list[str]
    positions: NDArray[np.intp]
    """Which of `labels` each has; some may have none."""
    last: NDArray[np.float64]
    """When each was last in a table."""

    def only(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> _Seen:
        """Return some of them."""
        return _Seen(
            self.identities[which],
            [column[which] for column in self.used],
            self.kinds[which],
            self.labels,
            self.positions[which],
            self.last[which],
        )

    def count_by_label(self, which: NDArray[np.bool_] | slice) -> dict[str, int]:
        """Return how many of some there are in each group that has one."""
        counts = np.bincount(self.positions[which], minlength=len(self.labels))
        return {self.labels[position]: int(counts[position]) for position in np.flatnonzero(counts).tolist()}


@dataclass(slots=True)
class _Compared:
    """The rows of a table, each beside what was seen of the same process before."""

    rows: Rows
    identities: Column
    seen: _Seen | None
    place: NDArray[np.intp]
    """Where in `seen` each row's process is."""
    same: NDArray[np.bool_]
    """Whether it is there at all."""
    gone: NDArray[np.bool_]
    """Which of `seen` are in no row."""
    matches: list[tuple[int, NDArray[np.intp]]]
    """Rows that are sums of missed ends, with those of `seen` that are in them."""
    used: list[Column]
    """By COUNTERS, filled by `counters`: the largest values of each row so far."""

    def counters(self) -> Iterator[tuple[Column, Column]]:
        """Yield, by COUNTERS, what each row's grew by, and its largest so far (or UNKNOWN). To be called once."""
        for index, name in enumerate(COUNTERS):
            current = self.rows.table.records[name].copy()
            if self.seen is None:
                self.used.append(current)
                yield np.zeros_like(current), current
                continue
            # Who is new had nothing, if it is known at all.
            before = np.minimum(current, 0)
            known = self.seen.used[index]
            if len(known):
                before = np.where(self.same, known[self.place], before)
            for row, of_row in self.matches:
                before[row] = np.maximum(known[of_row], 0).sum()
            used = np.maximum(current, before)
            self.used.append(used)
            yield np.where(before == UNKNOWN, 0, used - before), used


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
        compared = self._compare(rows)
        sums = sum_by_label(rows.table, grouped, compared.counters(), rows.living)
        positions = {label: position for position, label in enumerate(grouped.labels)}
        before = self._named
        there_before = set() if self._seen is None else self._seen.count_by_label(slice(None)).keys()
        exits = self._exits(compared.gone) if rows.ends is None else _ends(grouped, rows.ends)

        self._measure(grouped.labels, sums, now)
        self._named = self._choose(positions, sums, now)
        own = {label for label in self._named if label in before or label not in there_before}
        self._count(own, positions, sums, exits)
        self._forget(positions, now)

        self._seen = self._see(compared, grouped, now)
        return self._report(positions, sums)

    def _compare(self, rows: Rows) -> _Compared:
        """Find each row among those seen before."""
        wanted = identities(rows.table.records)
        seen = self._seen
        there = np.zeros(0, dtype=np.int64) if seen is None else seen.identities
        place = np.zeros(len(wanted), dtype=np.intp)
        same = np.zeros(len(wanted), dtype=np.bool_)
        if len(there):
            place = np.searchsorted(there, wanted)
            place[place == len(there)] = 0
            same = there[place] == wanted
        gone = np.ones(len(there), dtype=np.bool_)
        gone[place[same]] = False
        matches = [] if seen is None else _find_missed(rows, seen, gone)
        return _Compared(rows, wanted, seen, place, same, gone, matches, [])

    def _see(self, compared: _Compared, grouped: Grouped, now: float) -> _Seen:
        """Return what the next table is compared with."""
        rows = compared.rows
        living = slice(rows.living)
        there = _Seen(
            compared.identities[living],
            [column[living] for column in compared.used],
            kinds_of(rows.table.records[living]),
            grouped.labels,
            grouped.positions[living],
            np.full(rows.living, now),
        )
        if rows.ends is None or self._seen is None:
            return there
        # The kernel tells an end only when it has forgotten the process: until then what was counted is remembered.
        await_end = compared.gone & (now - self._seen.last < AWAIT_END_SECONDS)
        if not await_end.any():
            return there
        waiting = self._seen.only(await_end)
        labels = list(dict.fromkeys([*there.labels, *waiting.count_by_label(slice(None))]))
        position_of = {label: position for position, label in enumerate(labels)}
        moved = np.array([position_of.get(label, 0) for label in waiting.labels], dtype=np.intp)
        both = _Seen(
            np.concatenate([there.identities, waiting.identities]),
            [np.concatenate(columns) for columns in zip(there.used, waiting.used, strict=True)],
            np.concatenate([there.kinds, waiting.kinds]),
            labels,
            np.concatenate([there.positions, moved[waiting.positions]]),
            np.concatenate([there.last, waiting.last]),
        )
        return both.only(np.argsort(both.identities, kind="stable"))

    def _exits(self, gone: NDArray[np.bool_]) -> dict[str, int]:
        """Return how many members each group of the table before lost."""
        return {} if self._seen is None else self._seen.count_by_label(gone)

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

    def _count(self, own: set[str], positions: Mapping[str, int], sums: Sums, exits: Mapping[str, int]) -> None:
        """Add each increase to one account."""
        whole = sums.increases.sum(axis=0)
        self.cpu_ns += int(whole[CPU].sum())
        rest_exits = sum(exits.values())
        counted = []
        for label in self._named:
            account = self._accounts.setdefault(label, _empty_account(self._updated))
            position = positions.get(label)
            if position is not None:
                account.known |= sums.known[position]
            if label not in own:
                continue
            if position is not None:
                account.totals += sums.increases[position]
                counted.append(position)
            account.exits += exits.get(label, 0)
            rest_exits -= exits.get(label, 0)
        self._other.totals += whole - sums.increases[counted].sum(axis=0)
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
        members = _members(sums)
        is_rest = np.ones(len(positions), dtype=np.bool_)
        is_rest[[positions[label] for label in self._named if label in positions]] = False
        nobody = _Members(0, [0] * len(GAUGES), bool(sums.swap_known.any()), 0, [0] * len(STATE_NAMES))
        groups = [
            _group(label, self._accounts[label], members[positions[label]] if label in positions else nobody)
            for label in sorted(self._named)
        ]
        groups.append(_group(OTHER, self._other, _together(sums, is_rest) if is_rest.any() else nobody))
        return groups


def _find_missed(rows: Rows, seen: _Seen, gone: NDArray[np.bool_]) -> list[tuple[int, NDArray[np.intp]]]:
    """Return which of `seen` each sum of missed ends holds; they are not `gone` any more."""
    exits = rows.table.exits
    if exits is None or not len(exits.missed):
        return []
    candidates = np.flatnonzero(gone)
    found = []
    for row, match in enumerate(
        match_missed(exits.missed, exits.missed_counts, seen.kinds[candidates]), rows.missed.start
    ):
        found.append((row, candidates[match]))
        gone[candidates[match]] = False
    return found


def _ends(grouped: Grouped, ends: Column) -> dict[str, int]:
    """Return how many ends there were in each group."""
    counts = np.zeros(len(grouped.labels), dtype=np.int64)
    np.add.at(counts, grouped.positions, ends)
    return {grouped.labels[position]: int(counts[position]) for position in np.flatnonzero(counts).tolist()}


def _empty_account(now: float) -> _Account:
    return _Account(np.zeros(len(COUNTERS), dtype=np.int64), np.zeros(len(COUNTERS), dtype=np.bool_), now)


class _Members(NamedTuple):
    """Sums over those who live, in Python's own numbers."""

    processes: int
    gauges: list[int]
    swap_known: bool
    oldest: int
    states: list[int]


def _members(sums: Sums) -> list[_Members]:
    """Return the sums by label."""
    columns = (sums.processes, sums.gauges, sums.swap_known, sums.oldest, sums.states)
    return [_Members(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _together(sums: Sums, which: NDArray[np.bool_]) -> _Members:
    """Return the sums over some labels, of which there is one at least."""
    return _Members(
        int(sums.processes[which].sum()),
        sums.gauges[which].sum(axis=0).tolist(),
        bool(sums.swap_known[which].any()),
        int(sums.oldest[which].min()),
        sums.states[which].sum(axis=0).tolist(),
    )


def _group(name: str, account: _Account, members: _Members) -> Group:
    threads, resident, virtual, swap = members.gauges
    return Group(
        name=name,
        processes=members.processes,
        threads=threads,
        rss_bytes=resident,
        virtual_bytes=virtual,
        # A group without members uses no swap, where swap can be read at all.
        swap_bytes=swap if members.swap_known else None,
        oldest_start_ticks=members.oldest if members.processes else None,
        states=dict(zip(STATE_NAMES, members.states, strict=True)),
        counters={
            counter: total
            for counter, total, known in zip(COUNTERS, account.totals.tolist(), account.known.tolist(), strict=True)
            if known
        },
        exits=account.exits,
    )
