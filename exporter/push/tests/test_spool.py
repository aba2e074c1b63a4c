"""The spool: what it keeps over restarts, what leaves it and when."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from exporter.push.payload import Row
from exporter.push.spool import Refusal, Spool, SpoolError
from ingest.contract import wire
from ingest.contract.wire import Feed

A, B = "http://127.0.0.1:1", "http://127.0.0.1:2"


Open = Callable[..., Spool]


@pytest.fixture
def open_spool(tmp_path: Path) -> Iterator[Open]:
    """Open the test's spool, one after another or for other APIs; what is still open ends with the test."""
    opened: list[Spool] = []

    def open_it(*apis: str) -> Spool:
        spool = Spool(tmp_path / "spool.sqlite", apis)
        opened.append(spool)
        return spool

    yield open_it
    for spool in opened:
        spool.close()


def ram(seq: int, sampled_at: int = 1000) -> wire.RamSample:
    return wire.RamSample(
        seq=seq,
        sampled_at=sampled_at,
        total_bytes=8 << 30,
        free_bytes=1,
        available_bytes=2,
        cached_bytes=3,
        buffers_bytes=4,
        swap_total_bytes=5,
        swap_free_bytes=6,
    )


def fill(spool: Spool, count: int, start: int = 0) -> None:
    for number in range(count):
        spool.put(ram(spool.next_seq(Feed.RAM), sampled_at=start + number), None, None)


def seqs(spool: Spool, api: str, limit: int = 100) -> list[int]:
    return [stored.seq for stored in spool.pending(api, Feed.RAM, limit, 1 << 20)]


def test_samples_numbers_and_stream_outlive_the_process(open_spool: Open) -> None:
    spool = open_spool(A)
    fill(spool, 3)
    stream = spool.stream
    spool.close()
    again = open_spool(A)
    assert stream == again.stream
    assert 4 == again.next_seq(Feed.RAM)
    assert [1, 2, 3] == seqs(again, A)
    body = again.pending(A, Feed.RAM, 1, 1)[0].body
    assert ram(1, 0) == msgspec.json.decode(body, type=wire.RamSample)


def test_a_number_never_returns_once_all_is_delivered(open_spool: Open) -> None:
    spool = open_spool(A)
    fill(spool, 3)
    spool.acknowledge(A, Feed.RAM, 1, 3)
    assert 0 == spool.depth().samples
    spool.close()
    assert 4 == open_spool(A).next_seq(Feed.RAM)


def test_only_what_every_api_has_leaves(open_spool: Open) -> None:
    spool = open_spool(A, B)
    fill(spool, 3)
    spool.acknowledge(A, Feed.RAM, 1, 3)
    assert [] == seqs(spool, A)
    assert [1, 2, 3] == seqs(spool, B)
    assert {(A, Feed.RAM): 0, (B, Feed.RAM): 3}.items() <= spool.depth().pending.items()
    spool.acknowledge(B, Feed.RAM, 1, 2)
    assert [3] == seqs(spool, B)
    assert 1 == spool.depth().samples


def test_an_api_no_longer_pushed_to_holds_nothing(open_spool: Open) -> None:
    spool = open_spool(A, B)
    fill(spool, 2)
    spool.acknowledge(A, Feed.RAM, 1, 1)
    spool.close()
    again = open_spool(A)
    again.acknowledge(A, Feed.RAM, 1, 2)
    assert 0 == again.depth().samples
    again.close()
    # and a new one begins with what there is from now on
    third = open_spool(A, B)
    assert [] == seqs(third, B)
    fill(third, 1)
    assert [3] == seqs(third, B)


def test_batches_are_bounded_and_never_empty(open_spool: Open) -> None:
    spool = open_spool(A)
    fill(spool, 5)
    assert [1, 2] == seqs(spool, A, 2)
    assert [1] == [stored.seq for stored in spool.pending(A, Feed.RAM, 100, 1)]


def test_the_bound_pushes_out_the_oldest_and_tells_lost_from_delivered(open_spool: Open) -> None:
    spool = open_spool(A, B)
    fill(spool, 10)
    spool.acknowledge(A, Feed.RAM, 1, 4)
    loss = spool.trim(max_bytes=1 << 30, oldest_ms=6)
    assert {Feed.RAM: 6} == loss.dropped
    assert {Feed.RAM: 2} == loss.lost
    assert [7, 8, 9, 10] == seqs(spool, B)
    one = spool.depth().bytes // 4
    loss = spool.trim(max_bytes=2 * one + one // 2, oldest_ms=0)
    assert {Feed.RAM: 2} == loss.lost
    assert [9, 10] == seqs(spool, A)
    assert spool.depth().bytes <= 2 * one + one // 2
    # and the count outlives the process that saw it
    spool.close()
    losses = open_spool(A, B).losses()
    assert {Feed.RAM: 8, Feed.CPU: 0, Feed.PROCESOS: 0} == losses.dropped
    assert {Feed.RAM: 4, Feed.CPU: 0, Feed.PROCESOS: 0} == losses.lost


def test_a_refused_sample_is_kept_aside(open_spool: Open) -> None:
    spool = open_spool(A)
    fill(spool, 2)
    first = spool.pending(A, Feed.RAM, 1, 1 << 20)[0]
    spool.bury(A, Feed.RAM, first, Refusal(422, "{}"), 99)
    assert [2] == seqs(spool, A)
    assert 1 == spool.depth().dead_letters


def process(pid: int) -> wire.Process:
    return wire.Process(
        pid=pid,
        start_ticks=pid * 7,
        started_at=1,
        ppid=1,
        uid=0,
        command="sh",
        state="S",
        threads=1,
        cpu_ns=pid,
        cpu_delta_ns=0,
        user_ns=0,
        rss_bytes=1,
        virtual_bytes=1,
        minor_faults=0,
        major_faults=0,
    )


def test_the_baseline_follows_the_samples(open_spool: Open) -> None:
    spool = open_spool(A)
    rows = [Row(b"sh", process(pid)) for pid in (1, 2, 3)]
    spool.put(None, None, None, carried=rows, new_table=True, facts={"boot_id": "x"})
    spool.put(None, None, None, carried=[Row(b"dash", process(2))], exited=[rows[2]])
    assert [Row(b"sh", process(1)), Row(b"dash", process(2))] == spool.baseline()
    assert "x" == spool.fact("boot_id")
    spool.put(None, None, None, carried=rows[:1], new_table=True)
    assert [Row(b"sh", process(1))] == spool.baseline()


def test_a_full_disk_keeps_nothing_and_uses_up_no_number(open_spool: Open) -> None:
    spool = open_spool(A)
    fill(spool, 1)
    spool._db.execute("PRAGMA max_page_count=1")  # SQLite's own way to a full disk; it clamps to what there is
    before = spool.depth()
    big = [Row(b"sh", process(pid)) for pid in range(1, 2000)]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        spool.put(ram(2), None, None, carried=big)
    assert before == spool.depth()
    assert 2 == spool.next_seq(Feed.RAM)
    assert [] == spool.baseline()
    spool._db.execute("PRAGMA max_page_count=100000")
    fill(spool, 1)
    assert [1, 2] == seqs(spool, A)


def test_one_exporter_a_spool(open_spool: Open) -> None:
    spool = open_spool(A)
    with pytest.raises(SpoolError, match="another exporter uses this spool"):
        open_spool(A)
    spool.close()
    open_spool(A).close()


def test_only_its_owner_reads_it(open_spool: Open, tmp_path: Path) -> None:
    spool = open_spool(A)
    fill(spool, 1)
    for path in tmp_path.iterdir():
        assert 0 == stat.S_IMODE(path.stat().st_mode) & 0o077, path


def test_a_file_that_is_no_spool_is_moved_aside_and_a_new_stream_begins(tmp_path: Path, open_spool: Open) -> None:
    path = tmp_path / "spool.sqlite"
    content = b"not a database, but long enough to be looked at" * 50
    path.write_bytes(content)
    spool = open_spool(A)
    fill(spool, 2)
    assert [1, 2] == seqs(spool, A)
    (kept,) = tmp_path.glob("spool.sqlite.corrupt-*")
    assert content == kept.read_bytes()


def test_a_damaged_spool_is_moved_aside_and_a_new_stream_begins(tmp_path: Path, open_spool: Open) -> None:
    path = tmp_path / "spool.sqlite"
    spool = open_spool(A)
    fill(spool, 500)
    stream = spool.stream
    spool.close()
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    again = open_spool(A)
    assert stream != again.stream
    fill(again, 1)
    assert [1] == seqs(again, A)
    assert 1 == len(list(tmp_path.glob("spool.sqlite.corrupt-*")))


def test_a_spool_of_another_version_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")
    for _ in range(2):  # the first failure has let go of the lock
        with pytest.raises(SpoolError, match="written by another version"):
            Spool(path, [A])
    assert [] == list(tmp_path.glob("*.corrupt-*"))


def backlog(spool: Spool, api: str, limit: int = 100) -> list[int]:
    return [stored.seq for stored in spool.backlog(api, Feed.RAM, limit, 1 << 20)]


def test_after_an_outage_live_samples_go_on_and_the_backlog_drains_beside_them(open_spool: Open) -> None:
    spool = open_spool(A, B)
    fill(spool, 2)
    spool.acknowledge(A, Feed.RAM, 1, 2)
    spool.acknowledge(B, Feed.RAM, 1, 2)
    fill(spool, 10)
    assert 0 == spool.set_aside(A, Feed.RAM, longest=10)
    assert 9 == spool.set_aside(A, Feed.RAM, longest=9)
    assert [12] == seqs(spool, A)  # the newest is live: a reader is to see it at once
    assert list(range(3, 12)) == backlog(spool, A)
    assert list(range(3, 13)) == seqs(spool, B)
    fill(spool, 2)
    assert [12, 13, 14] == seqs(spool, A)
    spool.acknowledge(A, Feed.RAM, 12, 14)
    spool.acknowledge(A, Feed.RAM, 3, 5)
    assert [] == seqs(spool, A)
    assert list(range(6, 12)) == backlog(spool, A)
    assert {(A, Feed.RAM): 6, (B, Feed.RAM): 12}.items() <= spool.depth().pending.items()
    # what both have leaves, in whatever order they got it
    spool.acknowledge(B, Feed.RAM, 3, 14)
    assert list(range(6, 12)) == backlog(spool, A)
    assert 6 == spool.depth().samples
    spool.close()
    again = open_spool(A, B)
    again.acknowledge(A, Feed.RAM, 6, 11)
    assert 0 == again.depth().samples


def test_a_second_outage_lengthens_the_backlog(open_spool: Open) -> None:
    spool = open_spool(A)
    fill(spool, 6)
    spool.set_aside(A, Feed.RAM, longest=1)
    spool.acknowledge(A, Feed.RAM, 6, 6)
    spool.acknowledge(A, Feed.RAM, 1, 2)
    fill(spool, 5)
    assert 4 == spool.set_aside(A, Feed.RAM, longest=1)
    # 6 was acknowledged and has left already
    assert [3, 4, 5, 7, 8, 9, 10] == backlog(spool, A)
    spool.acknowledge(A, Feed.RAM, 3, 10)
    spool.acknowledge(A, Feed.RAM, 11, 11)
    assert 0 == spool.depth().samples


def test_what_a_bound_pushes_out_of_a_backlog_counts_as_lost_only_if_nobody_has_it(open_spool: Open) -> None:
    spool = open_spool(A, B)
    fill(spool, 7)
    spool.set_aside(A, Feed.RAM, longest=1)
    spool.acknowledge(A, Feed.RAM, 7, 7)
    spool.acknowledge(A, Feed.RAM, 1, 2)
    loss = spool.trim(max_bytes=0, oldest_ms=0)
    assert {Feed.RAM: 7} == loss.dropped
    assert {Feed.RAM: 4} == loss.lost
