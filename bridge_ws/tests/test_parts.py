"""The pure parts: process tables, the cursor's window, mailboxes and origins."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge_ws import access
from bridge_ws.access import OriginPolicy, UnauthorizedError
from bridge_ws.cursor import MAX_CATCH_UP, OVERLAP, Cursor, RowKey
from bridge_ws.live import Live, Outcome
from bridge_ws.mailbox import FRAME_OVERHEAD, Mailbox, Owed
from bridge_ws.protocol import Encoded, Key
from bridge_ws.tables import rebuild
from bridge_ws.tests.samples import procesos, process
from ingest.contract import limits
from ingest.contract.tokens import Token, Tokens
from ingest.contract.wire import Feed, ProcesosSample, Process

NOON = datetime(2026, 11, 23, 12)  # noqa: DTZ001 - the database's DATETIME has no zone
RAM = Key(Feed.RAM, "a", "s")
PROCESOS = Key(Feed.PROCESOS, "a", "s")


# --- tables ---


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[ProcesosSample, dict[int, Process]]]:
    """Draw the samples of a stream, each with the whole table of its moment."""
    history: list[tuple[ProcesosSample, dict[int, Process]]] = []
    table: dict[int, Process] = {}
    for seq in range(1, draw(st.integers(1, 8)) + 1):
        before = dict(table)
        for pid in draw(st.lists(st.integers(1, 6), max_size=4)):
            table[pid] = process(pid, seq, delta=seq)
        ended = draw(st.lists(st.sampled_from(sorted(table)), unique=True)) if table else []
        gone = [table.pop(pid) for pid in ended]
        keyframe = seq == 1 or draw(st.booleans())
        changed = table if keyframe else {pid: now for pid, now in table.items() if before.get(pid) != now}
        sample = procesos(seq, seq, list(changed.values()), gone, keyframe=keyframe, total=len(table))
        history.append((sample, dict(table)))
    return history


@given(histories())
def test_the_table_is_the_last_keyframe_and_what_followed(
    history: list[tuple[ProcesosSample, dict[int, Process]]],
) -> None:
    """However far back the samples begin, as long as a keyframe is among them."""
    samples = [sample for sample, _ in history]
    newest, whole = history[-1]
    last = max(index for index, sample in enumerate(samples) if sample.keyframe)
    for start in range(last + 1):
        table = rebuild(samples[start:])
        assert table is not None
        assert table.keyframe_seq == samples[last].seq
        snapshot = table.sample()
        assert snapshot.processes == [whole[pid] for pid in sorted(whole)]
        assert (snapshot.seq, snapshot.total, snapshot.keyframe, snapshot.exited) == (newest.seq, len(whole), True, [])


def test_without_a_keyframe_there_is_no_table() -> None:
    assert rebuild([procesos(1, 1, [process(1)])]) is None


def test_what_is_late_changes_the_table_only_after_its_keyframe() -> None:
    live = Live()
    assert live.apply(PROCESOS, procesos(5, 5, [process(1)], keyframe=True), "raw", NOON) is Outcome.NEWEST
    assert live.apply(PROCESOS, procesos(7, 7, []), "raw", NOON) is Outcome.NEWEST
    assert live.apply(PROCESOS, procesos(6, 6, [process(2)]), "raw", NOON) is Outcome.LATE_IN_TABLE
    assert live.apply(PROCESOS, procesos(4, 4, [process(3)], keyframe=True), "raw", NOON) is Outcome.LATE
    assert live.newest_seq(PROCESOS) == 7


def test_a_stream_that_begins_without_keyframe_has_no_snapshot_until_one_comes() -> None:
    live = Live()
    assert live.apply(PROCESOS, procesos(1, 1, [process(1)]), "raw", NOON) is Outcome.UNKNOWN_BEFORE
    assert live.snapshot(PROCESOS) is None
    live.apply(PROCESOS, procesos(2, 2, [process(1)], keyframe=True), "raw", NOON)
    snapshot = live.snapshot(PROCESOS)
    assert snapshot is not None
    assert snapshot is live.snapshot(PROCESOS)  # encoded once
    live.forget(NOON + timedelta(seconds=1))
    assert live.snapshot(PROCESOS) is None


# --- the cursor ---


@dataclass(frozen=True)
class Row:
    key: RowKey
    received_at: datetime
    visible_at: datetime


@settings(deadline=None)
@given(st.integers(0, 2**32), st.floats(0.05, 20))
def test_every_row_is_seen_once_however_transactions_commit(seed: int, interval: float) -> None:
    """Rows show up to TRANSACTION_SECONDS after they were received; polls come at any pace, with an outage between."""
    random_ = random.Random(seed)  # noqa: S311 - a seeded schedule
    rows = []
    for seq in range(200):
        received = NOON + timedelta(seconds=random_.uniform(0, 120))
        visible = received + timedelta(seconds=random_.uniform(0, limits.TRANSACTION_SECONDS))
        rows.append(Row(RowKey(1, received, seq), received, visible))
    outage = random_.uniform(0, 100)
    steps = int(120 / interval) + 2
    polls = [
        NOON + timedelta(seconds=step * interval + (60 if step * interval > outage else 0)) for step in range(steps)
    ]
    cursor, seen = Cursor(NOON), []
    for now in [*polls, NOON + timedelta(seconds=200)]:
        assert not cursor.lost(now)
        for row in rows:
            if row.visible_at <= now and row.received_at >= cursor.start and cursor.is_new(Feed.RAM, row.key):
                seen.append(row.key)
                cursor.mark(Feed.RAM, row.key, row.received_at)
        cursor.advance(now)
        assert len(cursor) == len([key for key in seen if key.sampled_at >= cursor.start])  # bounded by the window
    assert sorted(seen) == sorted(row.key for row in rows)


def test_a_cursor_knows_when_it_is_lost() -> None:
    cursor = Cursor(NOON)
    assert not cursor.lost(NOON + MAX_CATCH_UP)
    assert cursor.lost(NOON + MAX_CATCH_UP + timedelta(seconds=1))
    assert not cursor.lost(NOON - timedelta(seconds=4))
    assert cursor.lost(NOON - timedelta(seconds=6))
    assert timedelta(seconds=limits.TRANSACTION_SECONDS) < OVERLAP


# --- mailboxes ---


def frame(seq: int, key: Key = RAM, size: int = 100) -> Encoded:
    """Return a frame of `size` bytes of text and a header of 2 or 4."""
    return Encoded(type="sample", text=b"x" * size, key=key, seq=seq)


def test_a_full_mailbox_keeps_the_newest_and_counts_the_rest() -> None:
    other = Key(Feed.CPU, "a", "s")
    box = Mailbox(limit=3 * (102 + FRAME_OVERHEAD))
    first = frame(1, other)
    box.offer(first)
    for seq in range(1, 6):
        box.offer(frame(seq))
    assert box.take() is first
    owed = box.take()
    assert isinstance(owed, Owed)
    snapshot = Encoded(type="snapshot", text=b"", key=RAM, seq=5)
    gap = owed.gap(snapshot)
    assert gap is not None
    assert (gap.missed, gap.first_seq, gap.last_seq) == (4, 1, 5)
    assert (box.take(), box.size, len(box)) == (None, 0, 0)
    last = frame(6)
    box.offer(last)
    assert box.take() is last


def test_a_snapshot_that_holds_all_that_was_not_kept_is_no_gap() -> None:
    box = Mailbox(limit=0)
    box.offer(frame(5))
    owed = box.take()
    assert isinstance(owed, Owed)
    assert owed.gap(Encoded(type="snapshot", text=b"", key=RAM, seq=5)) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300), st.booleans()), max_size=200), st.integers(0, 2000))
def test_a_mailbox_stays_within_its_bound_and_accounts_for_every_sample(
    steps: list[tuple[int, int, bool]], limit: int
) -> None:
    box, offered, taken = Mailbox(limit), 0, 0
    newest: dict[Key, int] = {}

    def take() -> int:
        item = box.take()
        if item is None:
            return 0
        if isinstance(item, Encoded):
            return 1
        gap = item.gap(Encoded(type="snapshot", text=b"", key=item.key, seq=newest[item.key]))
        return (0 if gap is None or gap.missed is None else gap.missed) + 1

    for number, size, reads in steps:
        key = Key(Feed.RAM, f"h{number}", "s")
        newest[key] = newest.get(key, 0) + 1
        box.offer(frame(newest[key], key, size))
        offered += 1
        assert box.size <= limit
        if reads:
            taken += take()
    while len(box):
        taken += take()
    assert taken == offered


# --- access ---


@pytest.mark.parametrize(
    ("origins", "hosts", "private", "allowed"),
    [
        ([], ["anything"], True, True),
        (["http://127.0.0.1:10113"], ["127.0.0.1:10113"], True, True),
        (["http://localhost:10113"], ["localhost:10113"], True, True),
        (["http://[::1]:10113"], ["[::1]:10113"], True, True),
        (["https://latido.example"], ["latido.example"], False, True),
        (["https://latido.example:443"], ["latido.example"], False, True),
        (["https://latido.example"], ["latido.example"], True, False),
        (["http://127.0.0.1:10113"], ["127.0.0.1:1"], True, False),
        (["http://127.0.0.1:10113"], [], True, False),
        (["http://127.0.0.1:10113"] * 2, ["127.0.0.1:10113"], True, False),
        (["null"], ["127.0.0.1"], False, False),
        (["http://a:b:c"], ["a:b:c"], False, False),
        (["https://extra.example"], ["127.0.0.1:10113"], True, True),
    ],
)
def test_origins(origins: list[str], hosts: list[str], private: bool, allowed: bool) -> None:  # noqa: FBT001 - a table
    policy = OriginPolicy(extra=frozenset({"https://extra.example"}), private=private)
    assert policy.allows(origins, hosts) is allowed


def test_tokens() -> None:
    tokens = Tokens((Token(b"first-token-of-two"), Token(b"second-token-of-two", frozenset({"a"}))))
    assert access.visible_hosts(access.check_token(tokens, "first-token-of-two")) is None
    assert access.visible_hosts(access.check_token(tokens, "second-token-of-two")) == frozenset({"a"})
    for wrong in ("", "first", "third-token-of-two"):
        with pytest.raises(UnauthorizedError):
            access.check_token(tokens, wrong)
    assert access.bearer(["latido.v1", "latido.bearer.x"]) == "x"
    assert access.bearer(["latido.v1"]) is None
