"""Groups: they always sum to the whole, no counter goes backwards, names do not flap."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.group_names import CHALLENGE_MARGIN_NS, Candidate, choose
from exporter.group_sums import COUNTERS
from exporter.grouping import OTHER, Rule, by_command
from exporter.groups import FORGET_SECONDS, Group, GroupTracker
from exporter.model import PROCESS_DTYPE, UNKNOWN, ProcessTable
from exporter.rules.document import parse_rules
from exporter.rules.engine import RuleSet

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Process:
    """One row; what is not said is small and known."""

    pid: int
    command: bytes
    user_ns: int = 0
    system_ns: int = 0
    read_bytes: int = 0
    start_ticks: int = 0
    rss_bytes: int = 4096
    swap_bytes: int = 0
    threads: int = 1
    state: bytes = b"S"


def table(processes: Sequence[Process]) -> ProcessTable:
    records = np.zeros(len(processes), PROCESS_DTYPE)
    for name in Process.__dataclass_fields__:
        ordered = sorted(processes, key=lambda process: process.pid)
        records[name] = [getattr(process, name) for process in ordered]
    return ProcessTable(records, {})


def by_name(groups: Sequence[Group]) -> dict[str, Group]:
    assert groups[-1].name == OTHER
    assert len({group.name for group in groups}) == len(groups)
    return {group.name: group for group in groups}


def cpu(group: Group) -> float:
    return (group.counters["user_ns"] + group.counters["system_ns"]) / SECOND


def crowd(count: int, first_pid: int = 1000) -> list[Process]:
    return [Process(first_pid + number, b"crowd%d" % number) for number in range(count)]


# --- what counts ---


def test_first_table_counts_nothing() -> None:
    """What was used before the exporter started is not its to count."""
    groups = by_name(GroupTracker().update(table([Process(1, b"db", user_ns=9 * SECOND)]), 0))
    assert cpu(groups["db"]) == 0.0
    assert groups["db"].processes == 1


def test_increase_of_a_known_process_counts() -> None:
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"db", user_ns=9 * SECOND)]), 0)
    groups = by_name(tracker.update(table([Process(1, b"db", user_ns=11 * SECOND)]), 15))
    assert cpu(groups["db"]) == 2.0


def test_process_that_is_new_counts_wholly() -> None:
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"db")]), 0)
    groups = by_name(tracker.update(table([Process(1, b"db"), Process(2, b"make", user_ns=3 * SECOND)]), 15))
    assert cpu(groups["make"]) == 3.0


def test_reused_pid_is_another_process() -> None:
    tracker = GroupTracker()
    tracker.update(table([Process(7, b"a", user_ns=5 * SECOND, start_ticks=1)]), 0)
    groups = by_name(tracker.update(table([Process(7, b"a", user_ns=2 * SECOND, start_ticks=2)]), 15))
    assert (cpu(groups["a"]), groups["a"].exits) == (2.0, 1)


def test_exit_keeps_what_was_counted_and_is_counted() -> None:
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"a"), Process(2, b"a")]), 0)
    tracker.update(table([Process(1, b"a"), Process(2, b"a", user_ns=4 * SECOND)]), 15)
    group = by_name(tracker.update(table([Process(1, b"a", user_ns=SECOND)]), 30))["a"]
    assert (cpu(group), group.exits, group.processes) == (5.0, 1, 1)


def test_process_that_changes_its_command_counts_where_it_is() -> None:
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"sh", user_ns=SECOND)]), 0)
    tracker.update(table([Process(1, b"sh", user_ns=2 * SECOND)]), 15)
    groups = by_name(tracker.update(table([Process(1, b"java", user_ns=5 * SECOND)]), 30))
    assert (cpu(groups["sh"]), cpu(groups["java"])) == (1.0, 3.0)
    assert (groups["sh"].exits, groups["java"].exits) == (0, 0)


def test_step_back_of_the_kernel_is_waited_out() -> None:
    """Sums over threads can lose a little for a moment; what comes back is not counted twice."""
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"a", user_ns=10 * SECOND)]), 0)
    totals = [
        cpu(by_name(tracker.update(table([Process(1, b"a", user_ns=value * SECOND)]), moment))["a"])
        for moment, value in ((15, 12), (30, 11), (45, 13))
    ]
    assert totals == [2.0, 2.0, 3.0]


def test_group_keeps_its_count_while_it_has_no_member() -> None:
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"init")]), 0)
    tracker.update(table([Process(1, b"init"), Process(2, b"cron", user_ns=SECOND)]), 15)
    gone = by_name(tracker.update(table([Process(1, b"init")]), 30))["cron"]
    assert (gone.processes, gone.rss_bytes, gone.oldest_start_ticks, cpu(gone)) == (0, 0, None, 1.0)
    back = by_name(tracker.update(table([Process(1, b"init"), Process(3, b"cron", user_ns=2 * SECOND)]), 45))["cron"]
    assert (cpu(back), back.exits) == (3.0, 1)


def test_group_without_a_member_for_an_hour_disappears_with_its_count() -> None:
    tracker = GroupTracker()
    alone = table([Process(1, b"init")])
    tracker.update(alone, 0)
    tracker.update(table([Process(1, b"init"), Process(2, b"cron", user_ns=2 * SECOND)]), 100)
    assert cpu(by_name(tracker.update(alone, 115))["cron"]) == 2.0
    assert "cron" in by_name(tracker.update(alone, 100 + FORGET_SECONDS - 1))
    assert "cron" not in by_name(tracker.update(alone, 100 + FORGET_SECONDS))
    back = table([Process(1, b"init"), Process(3, b"cron", user_ns=SECOND)])
    assert cpu(by_name(tracker.update(back, 100 + FORGET_SECONDS + 15))["cron"]) == 1.0


# --- what is not known ---


def test_what_no_member_knows_is_absent() -> None:
    processes = [Process(1, b"a", read_bytes=UNKNOWN, swap_bytes=UNKNOWN), Process(2, b"b", read_bytes=5)]
    groups = by_name(GroupTracker().update(table(processes), 0))
    assert "read_bytes" not in groups["a"].counters
    assert groups["a"].swap_bytes is None
    assert (groups["b"].counters["read_bytes"], groups["b"].swap_bytes) == (0, 0)
    assert (groups[OTHER].counters["read_bytes"], groups[OTHER].swap_bytes) == (0, 0)


def test_what_no_member_knows_is_absent_of_new_ones_too() -> None:
    """A process that starts between two tables, and whose I/O is refused, did not read 0 bytes."""
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"a", read_bytes=5)]), 0)
    processes = [Process(1, b"a", read_bytes=5), Process(2, b"b", user_ns=SECOND, read_bytes=UNKNOWN)]
    group = by_name(tracker.update(table(processes), 15))["b"]
    assert "read_bytes" not in group.counters
    assert group.counters["user_ns"] == SECOND


def test_unknown_values_are_left_out_of_sums() -> None:
    tracker = GroupTracker()
    tracker.update(table([Process(1, b"a", read_bytes=UNKNOWN), Process(2, b"a", swap_bytes=UNKNOWN)]), 0)
    group = by_name(
        tracker.update(
            table(
                [
                    Process(1, b"a", read_bytes=UNKNOWN, swap_bytes=10),
                    Process(2, b"a", read_bytes=7, swap_bytes=UNKNOWN),
                ]
            ),
            15,
        )
    )["a"]
    assert (group.counters["read_bytes"], group.swap_bytes) == (7, 10)


def test_value_that_becomes_known_counts_from_there_and_a_gap_loses_nothing() -> None:
    tracker = GroupTracker()
    totals = [
        by_name(tracker.update(table([Process(1, b"a", read_bytes=value)]), moment))["a"].counters.get("read_bytes")
        for moment, value in enumerate((UNKNOWN, 100, 130, UNKNOWN, 150))
    ]
    assert totals == [None, 0, 30, 30, 50]


def test_nobody_knows_swap_where_the_source_cannot_read_it() -> None:
    groups = by_name(GroupTracker().update(table([Process(1, b"a", swap_bytes=UNKNOWN)]), 0))
    assert (groups["a"].swap_bytes, groups[OTHER].swap_bytes) == (None, None)


# --- names ---


def test_names_are_bounded_and_the_most_active_have_them() -> None:
    tracker = GroupTracker(max_groups=4)
    quiet = crowd(20)
    tracker.update(table(quiet), 0)
    busy = [Process(1, b"busy1"), Process(2, b"busy2"), Process(3, b"busy3")]
    tracker.update(table(quiet + busy), 15)
    working = [replace(process, user_ns=10 * SECOND) for process in busy]
    groups = by_name(tracker.update(table(quiet + working), 30))
    assert sorted(groups) == ["busy1", "busy2", "busy3", OTHER]
    assert groups[OTHER].processes == 20


def test_group_that_falls_takes_no_history_along_and_resumes_when_it_returns() -> None:
    """`a` works, then `b` does and takes the only name, then `a` takes it back."""
    tracker = GroupTracker(max_groups=2)

    def at(moment: int, a: int, b: int) -> dict[str, float]:
        processes = [Process(1, b"a", user_ns=a * SECOND), Process(2, b"b", user_ns=b * SECOND)]
        return {group.name: cpu(group) for group in tracker.update(table(processes), moment)}

    assert at(0, 0, 0) == {"a": 0.0, OTHER: 0.0}
    assert at(15, 100, 0) == {"a": 100.0, OTHER: 0.0}
    # b gets the name; what both used in between went on before or with that: a's 1 s and b's 300 s are other's.
    assert at(30, 101, 300) == {"b": 0.0, OTHER: 301.0}
    assert at(45, 102, 310) == {"b": 10.0, OTHER: 302.0}
    assert at(60, 3102, 310) == {"a": 100.0, OTHER: 3302.0}
    assert at(75, 3103, 311) == {"a": 101.0, OTHER: 3303.0}


def test_groups_that_idle_alike_do_not_take_turns() -> None:
    """A tick here and there, by chance, moves no name."""
    tracker = GroupTracker(max_groups=5)
    generator = np.random.default_rng(7)
    spent = np.zeros(20, dtype=np.int64)
    names: set[frozenset[str]] = set()
    for moment in range(400):
        spent[generator.integers(0, 20)] += 10_000_000
        processes = [replace(process, user_ns=int(spent[n])) for n, process in enumerate(crowd(20))]
        groups = tracker.update(table(processes), moment * 15.0)
        names.add(frozenset(group.name for group in groups))
    assert len(names) == 1


def test_equal_tables_give_equal_names() -> None:
    one, two = (
        [group.name for group in GroupTracker(max_groups=5).update(table(processes), 0)]
        for processes in (crowd(20), crowd(20)[::-1])
    )
    assert one == two == ["crowd0", "crowd1", "crowd10", "crowd11", OTHER]


def test_who_has_no_member_makes_room_for_who_has() -> None:
    tracker = GroupTracker(max_groups=2)
    tracker.update(table([Process(1, b"a")]), 0)
    assert sorted(by_name(tracker.update(table([Process(2, b"b")]), 15))) == ["b", OTHER]


def test_renaming_without_end_stays_bounded() -> None:
    """Counts are kept for groups that lost their name; of those, no more than a bound."""
    tracker = GroupTracker(max_groups=4)
    seen: set[str] = set()
    for moment in range(300):
        groups = tracker.update(table([Process(moment + 1, b"name%d" % moment)]), float(moment))
        assert len(groups) <= 4
        seen |= {group.name for group in groups}
    assert len(seen) == 301
    assert len(tracker._accounts) <= 4 * 16


@pytest.mark.parametrize(
    ("challenger", "incumbent", "named"),
    [
        (Candidate("c", 2.0 * SECOND, present=True), Candidate("i", 1.0 * SECOND, present=True), "i"),
        (Candidate("c", 2.2 * SECOND, present=True), Candidate("i", 1.0 * SECOND, present=True), "c"),
        (Candidate("c", CHALLENGE_MARGIN_NS, present=True), Candidate("i", 0.0, present=True), "i"),
        (Candidate("c", 1.0, present=True), Candidate("i", CHALLENGE_MARGIN_NS - 1, present=False), "c"),
        (Candidate("c", 1.0, present=True), Candidate("i", CHALLENGE_MARGIN_NS, present=False), "i"),
    ],
)
def test_bar_for_a_challenger(challenger: Candidate, incumbent: Candidate, named: str) -> None:
    assert choose([challenger, incumbent], {"i"}, 1) == {named}


def test_commands_that_look_alike_are_one_group() -> None:
    """Two series with equal labels would void the whole scrape."""
    grouped = by_command(table([Process(1, b"\xff"), Process(2, b"\xfe"), Process(3, b"ok")]))
    assert sorted(grouped.labels) == ["ok", "\ufffd"]
    assert [grouped.labels[position] for position in grouped.positions] == ["\ufffd", "\ufffd", "ok"]


def test_command_named_other_is_not_the_remainder() -> None:
    tracker = GroupTracker(max_groups=3)
    processes = [Process(1, b"other"), Process(2, b""), *crowd(3)]
    processes[:2] = [replace(process, rss_bytes=1 << 30) for process in processes[:2]]
    groups = by_name(tracker.update(table(processes), 0))
    assert {name: group.processes for name, group in groups.items()} == {
        "(empty command name)": 1,
        "other (by command)": 1,
        OTHER: 3,
    }


def test_no_process_at_all() -> None:
    tracker = GroupTracker()
    (other,) = tracker.update(table([]), 0)
    assert (other.name, other.processes, other.rss_bytes) == (OTHER, 0, 0)
    tracker.update(table([Process(1, b"a", user_ns=SECOND)]), 15)
    groups = by_name(tracker.update(table([]), 30))
    assert (cpu(groups["a"]), groups["a"].exits) == (1.0, 1)


# --- the three sums, under everything at once ---

_COMMANDS = [b"a", b"b", b"c", b"d", b"e", b"other", b"\xff", b"\xfe"]
_STEP = st.fixed_dictionaries(
    {
        "seconds": st.sampled_from([0.0, 1.0, 15.0, 140.0]),
        "born": st.lists(st.tuples(st.sampled_from(_COMMANDS), st.integers(0, 3 * SECOND)), max_size=6),
        "die": st.lists(st.integers(0, 30), max_size=6),
        "work": st.lists(
            st.tuples(st.integers(0, 30), st.sampled_from(COUNTERS), st.integers(0, 500 * SECOND)), max_size=8
        ),
        "rename": st.lists(st.tuples(st.integers(0, 30), st.sampled_from(_COMMANDS)), max_size=3),
        "state": st.lists(st.tuples(st.integers(0, 30), st.sampled_from([b"R", b"S", b"Z", b"?"])), max_size=3),
        "reuse_pid": st.booleans(),
        "regroup": st.sampled_from([None, None, None, 0, 1, 2, 3]),
    }
)
_CGROUPS = {0: "/", 1: "/system.slice/a.service", 2: "/system.slice/b.service", 3: "/user.slice"}
_RULES: Sequence[Rule] = (
    by_command,
    RuleSet(parse_rules("groups: [{name: '{unit}', cgroup_regex: 'system.slice/(?P<unit>.)'}]")),
    RuleSet(parse_rules("groups: [{name: a, user: 1}, {name: 'u{uid}', command_regex: '^[ab]$'}]")),
    RuleSet(parse_rules("groups: [{name: all, command_regex: ''}]")),
)
"""What a reload may bring: among them groups that other rules have, too, with other members."""


@dataclass
class World:
    """Processes with true totals, kept apart from the tracker's way of counting."""

    rows: dict[int, dict[str, int | bytes]] = field(default_factory=dict)
    born: int = 0
    exits: int = 0
    counted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))

    def add(self, command: bytes, user_ns: int, *, reuse_pid: bool) -> None:
        self.born += 1
        pid = 1 if reuse_pid and 1 not in self.rows else self.born + 1
        self.rows[pid] = {
            **dict.fromkeys(COUNTERS, 0),
            "pid": pid,
            "start_ticks": self.born,
            "command": command,
            "user_ns": user_ns,
            "rss_bytes": 4096 * self.born,
            "virtual_bytes": 1 << 40,
            "swap_bytes": self.born,
            "threads": self.born % 5 + 1,
            "state": b"S",
            "uid": self.born % 3,
            "cgroup": self.born % len(_CGROUPS),
        }
        self.counted["user_ns"] += user_ns

    def pick(self, number: int) -> int | None:
        return sorted(self.rows)[number % len(self.rows)] if self.rows else None

    def step(self, actions: Mapping[str, object]) -> None:
        """Do one step's actions; whoever dies does nothing else in it: what it used unseen is nobody's to count."""
        dead = {self.pick(number) for number in actions["die"]} - {None}  # type: ignore[attr-defined] # as _STEP draws
        for pid in dead:
            assert pid is not None
            del self.rows[pid]
            self.exits += 1
        for command, user_ns in actions["born"]:  # type: ignore[attr-defined] # as _STEP draws
            self.add(command, user_ns, reuse_pid=bool(actions["reuse_pid"]))
        for number, counter, amount in actions["work"]:  # type: ignore[attr-defined] # as _STEP draws
            pid = self.pick(number)
            if pid is not None:
                self.rows[pid][counter] = int(self.rows[pid][counter]) + amount
                self.counted[counter] += amount
        for name in ("rename", "state"):
            for number, value in actions[name]:  # type: ignore[attr-defined] # as _STEP draws
                pid = self.pick(number)
                if pid is not None:
                    self.rows[pid]["command" if name == "rename" else "state"] = value

    def table(self) -> ProcessTable:
        records = np.zeros(len(self.rows), PROCESS_DTYPE)
        for position, pid in enumerate(sorted(self.rows)):
            for name, value in self.rows[pid].items():
                records[name][position] = value
        return ProcessTable(records, _CGROUPS)


@settings(max_examples=300, deadline=None)
@given(
    first=st.lists(st.sampled_from(_COMMANDS), max_size=8), steps=st.lists(_STEP, max_size=25), bound=st.integers(2, 5)
)
def test_groups_sum_to_the_whole_and_never_go_backwards(
    first: list[bytes], steps: list[dict[str, object]], bound: int
) -> None:
    """Whatever is born, works, is renamed and dies, at any pace, whoever has a name, and whatever rules are read again.

    The steps stay within an hour, so that no group is forgotten: the last that was seen of each, together, is all
    that was ever used.
    """
    world = World()
    for command in first:
        world.add(command, 5 * SECOND, reuse_pid=False)
    tracker = GroupTracker(max_groups=bound)
    now = 0.0
    last = by_name(tracker.update(world.table(), now))
    world.counted = dict.fromkeys(COUNTERS, 0)
    for actions in steps:
        now += float(actions["seconds"])  # type: ignore[arg-type] # as _STEP draws
        world.step(actions)
        if actions["regroup"] is not None:
            tracker.rule = _RULES[actions["regroup"]]  # type: ignore[call-overload] # as _STEP draws
        whole = world.table()
        groups = by_name(tracker.update(whole, now))

        assert len(groups) <= bound
        assert_gauges_sum_to(whole, groups.values())
        for name in groups.keys() & last.keys():
            assert groups[name].exits >= last[name].exits
            for counter, value in last[name].counters.items():
                assert groups[name].counters[counter] >= value, (name, counter)
        last.update(groups)
        seen = {counter: sum(group.counters.get(counter, 0) for group in last.values()) for counter in COUNTERS}
        assert seen == world.counted
        assert sum(group.exits for group in last.values()) == world.exits
        assert tracker.cpu_ns == world.counted["user_ns"] + world.counted["system_ns"]


def assert_gauges_sum_to(whole: ProcessTable, groups: Collection[Group]) -> None:
    records = whole.records
    assert sum(group.processes for group in groups) == len(whole)
    assert sum(group.threads for group in groups) == whole.threads()
    assert sum(group.rss_bytes for group in groups) == int(records["rss_bytes"].sum())
    assert sum(group.virtual_bytes for group in groups) == int(records["virtual_bytes"].sum())
    assert sum(group.swap_bytes or 0 for group in groups) == int(records["swap_bytes"].sum())
    states = whole.states()
    assert {name: sum(group.states[name] for group in groups) for name in states} == states
    oldest = [group.oldest_start_ticks for group in groups if group.oldest_start_ticks is not None]
    assert min(oldest, default=None) == (int(records["start_ticks"].min()) if len(whole) else None)
