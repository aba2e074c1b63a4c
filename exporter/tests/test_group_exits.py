"""Groups over a source that tells ends: each process is counted once, wholly, however its end comes to be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.group_sums import COUNTERS
from exporter.groups import Group, GroupTracker
from exporter.model import PROCESS_DTYPE, ExitRecords, ProcessTable, Records

COMMANDS = (b"a", b"b", b"c", b"d")


@dataclass
class Kernel:
    """Processes, and their ends: told late, and some of them only as sums."""

    living: dict[int, Records] = field(default_factory=dict)
    ended: list[Records] = field(default_factory=list)
    births: int = 0
    used: int = 0
    told: int = 0

    def birth(self, command: bytes) -> None:
        self.births += 1
        row = np.zeros(1, dtype=PROCESS_DTYPE)
        row["pid"] = 1 + self.births % 7 if 1 + self.births % 7 not in self.living else 100 + self.births
        row["start_ticks"], row["command"], row["state"], row["threads"] = self.births, command, b"S", 1
        self.living[int(row["pid"][0])] = row

    def work(self, number: int, amount: int) -> None:
        if self.living:
            row = self.living[sorted(self.living)[number % len(self.living)]]
            row["user_ns"] += amount
            self.used += amount

    def death(self, number: int, at_last: int) -> None:
        if self.living:
            row = self.living.pop(sorted(self.living)[number % len(self.living)])
            row["user_ns"] += at_last
            row["state"], row["threads"] = b"X", 0
            self.used += at_last
            self.ended.append(row)

    def table(self, late: int, missed: int) -> ProcessTable:
        """Tell all but the last `late` ends; of those, `missed` only as sums."""
        tell = self.ended[: len(self.ended) - late]
        self.ended = self.ended[len(tell) :]
        self.told += len(tell)
        lost, own = tell[:missed], tell[missed:]
        kinds: dict[bytes, list[Records]] = {}
        for row in lost:
            kinds.setdefault(row["command"][0], []).append(row)
        sums = np.zeros(len(kinds), dtype=PROCESS_DTYPE)
        for position, (command, rows) in enumerate(kinds.items()):
            sums[position]["command"], sums[position]["state"] = command, b"X"
            for name in COUNTERS:
                sums[position][name] = sum(int(row[name][0]) for row in rows)
        counts = np.array([len(rows) for rows in kinds.values()], dtype=np.int64)
        empty = np.zeros(0, dtype=PROCESS_DTYPE)
        living = [self.living[pid] for pid in sorted(self.living)]
        return ProcessTable(
            np.concatenate(living) if living else empty,
            {0: "/"},
            ExitRecords(np.concatenate(own) if own else empty, sums, counts),
        )


def _cpu(groups: Sequence[Group]) -> int:
    return sum(group.counters.get("user_ns", 0) for group in groups)


_STEP = st.tuples(
    st.lists(st.sampled_from(COMMANDS), max_size=4),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10**12)), max_size=6),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 10**9)), max_size=4),
    st.integers(0, 2),
)


@settings(max_examples=300, deadline=None)
@given(steps=st.lists(_STEP, max_size=20), bound=st.integers(2, 5), overflow=st.booleans())
def test_every_nanosecond_of_every_process_is_counted_once(
    steps: list[tuple[list[bytes], list[tuple[int, int]], list[tuple[int, int]], int]], bound: int, *, overflow: bool
) -> None:
    """Born and ended between two tables, seen before, told late, or lost by the ring: all is counted, nothing twice."""
    kernel = Kernel()
    tracker = GroupTracker(max_groups=bound)
    tracker.update(kernel.table(0, 0), 0.0)
    last: dict[str, Group] = {}
    for moment, (births, works, deaths, late) in enumerate(steps):
        for command in births:
            kernel.birth(command)
        for number, amount in works:
            kernel.work(number, amount)
        for number, at_last in deaths:
            kernel.death(number, at_last)
        # Where the ring overflows it holds the newest: what is late is told by itself, or this would be no overflow.
        groups = tracker.update(kernel.table(0 if overflow else late, 2 if overflow else 0), float(moment))
        for group in groups:
            if group.name in last:
                assert _cpu([group]) >= _cpu([last[group.name]])
                assert group.exits >= last[group.name].exits
            last[group.name] = group
        assert sum(group.processes for group in groups) == len(kernel.living)
    groups = tracker.update(kernel.table(0, 0), float(len(steps)))
    last.update({group.name: group for group in groups})
    assert _cpu([*last.values()]) == kernel.used
    assert sum(group.exits for group in last.values()) == kernel.told


def test_a_storm_that_no_table_shows_is_in_its_group() -> None:
    tracker = GroupTracker()
    kernel = Kernel()
    kernel.birth(b"a")
    tracker.update(kernel.table(0, 0), 0.0)
    for _ in range(50):
        kernel.birth(b"b")
        kernel.death([row["command"][0] for _, row in sorted(kernel.living.items())].index(b"b"), 3_000_000)
    groups = {group.name: group for group in tracker.update(kernel.table(0, 40), 15.0)}
    assert (groups["b"].counters["user_ns"], groups["b"].exits, groups["b"].processes) == (150_000_000, 50, 0)
    assert groups["b"].oldest_start_ticks is None
    assert "dead" in groups["b"].states
    assert sum(groups["b"].states.values()) == 0


def test_ends_that_are_never_told_are_not_waited_for_without_end() -> None:
    tracker = GroupTracker()
    kernel = Kernel()
    for moment in range(500):
        kernel.birth(b"a")
        tracker.update(kernel.table(0, 0), float(moment))
        kernel.living.clear()
    assert tracker._seen is not None
    assert len(tracker._seen.identities) <= 122
