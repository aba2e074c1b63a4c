"""The campaign's own parts: the schedule, the ear on the wire, the links, and the judgement of what was counted."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from dataclasses import replace
from itertools import pairwise

import pytest
from websockets.asyncio.server import ServerConnection, serve

from dev.waiting import wait_for, wait_until
from tests.faults import checks, schedule
from tests.faults.checks import HostState, ProcessRow, SpoolState, Stored
from tests.faults.ledger import Conversation, Key, Ledger, Told
from tests.faults.links import Links
from tests.faults.reader import Followed, Reader

STREAM = "6f1c"
KINDS = sorted(schedule.KINDS)


def test_a_seed_draws_its_schedule_again_and_no_target_is_struck_twice_at_once() -> None:
    faults = schedule.draw(7, 600, KINDS)
    assert faults == schedule.draw(7, 600, KINDS)
    assert faults != schedule.draw(8, 600, KINDS)
    assert len(faults) > 60
    assert set(KINDS) == {fault.kind for fault in schedule.draw(7, 600, KINDS, gap=3, every=True)}
    targets = {fault.target for fault in faults} - {schedule.ALL}
    for target in targets:
        own = [fault for fault in faults if fault.target in {target, schedule.ALL}]
        assert all(before.at + before.seconds <= after.at + 1e-9 for before, after in pairwise(own))


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="got earthquake"):
        schedule.draw(7, 600, ["earthquake"])


def test_the_wire_is_understood_however_it_is_cut() -> None:
    body = gzip.compress(
        json.dumps(
            {"host": "web-1", "stream": STREAM, "samples": [{"seq": 4, "sampled_at": 9, "free_bytes": 5}]}
        ).encode()
    )
    request = b"POST /api/ram HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    answers = b"HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"
    for size in (1, 7, 1000):
        ledger = Ledger()
        conversation = Conversation("raw", ledger)
        for sent in (request + request, answers):
            take = conversation.sent if sent is not answers else conversation.answered
            for start in range(0, len(sent), size):
                take(sent[start : start + size])
        key = Key("web-1", STREAM, "ram", 4)
        assert {key: Told(9, 5)} == ledger.sent
        assert {key: {"raw"}} == ledger.acknowledged
        assert {("raw", 503): 1, ("raw", 201): 1} == ledger.answers
        assert [] == ledger.contradictions


def test_a_link_carries_cuts_and_carries_again() -> None:
    links = Links()
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            link = links.open("one", server.getsockname()[1])
            with socket.create_connection(("127.0.0.1", link.port), 30) as client:
                there, _ = server.accept()
                with there:
                    client.sendall(b"ping")
                    assert b"ping" == there.recv(4)
                    there.sendall(b"pong")
                    assert b"pong" == client.recv(4)
                    link.is_cut = True
                    links.reset(link)
                    client.settimeout(30)
                    with pytest.raises(ConnectionResetError):
                        client.recv(1)
            with socket.create_connection(("127.0.0.1", link.port), 30) as refused, pytest.raises(ConnectionResetError):
                refused.recv(1)
            link.is_cut = False

            def passes() -> bool:
                with socket.create_connection(("127.0.0.1", link.port), 30) as client:
                    client.sendall(b"x")
                    there, _ = server.accept()
                    with there:
                        return b"x" == there.recv(1)

            wait_for(passes, "the link carries again")
    finally:
        links.close()


# --- judgement, over three samples of one stream whose process 10 ran throughout ---


def told(seq: int) -> Told:
    return Told(1000 + seq, seq * 10)


def key(seq: int, feed: str = "procesos") -> Key:
    return Key("web-1", STREAM, feed, seq)


def whole() -> tuple[Ledger, Stored, HostState]:
    """Return a stream in which all is well."""
    ledger = Ledger()
    ledger.sent = {key(seq): told(seq) for seq in (1, 2, 3)}
    ledger.acknowledged = {key(seq): {"raw"} for seq in (1, 2, 3)}
    ledger.answers.update({("raw", 201): 3, ("orm", 503): 2})
    rows = [
        ProcessRow(10, 5, 1, 100, 0, False),
        ProcessRow(10, 5, 2, 130, 30, False),
        ProcessRow(10, 5, 3, 140, 10, False),
    ]
    stored = Stored({key(seq): [told(seq)] for seq in (1, 2, 3)}, [], {("web-1", STREAM): rows})
    following = {"ram": 1, "cpu": 1, "procesos": 4}
    spool = SpoolState(STREAM, following, frozenset(), {"ram": 0, "cpu": 0, "procesos": 0}, 0)
    return ledger, stored, HostState("web-1", spool, {(10, 5): 140})


def judged(ledger: Ledger, stored: Stored, host: HostState) -> str:
    return "\n".join(checks.violations(ledger, stored, [host]))


def test_what_is_well_violates_nothing() -> None:
    assert "" == judged(*whole())


def test_a_hole_is_a_violation_unless_it_is_counted_or_waits() -> None:
    ledger, stored, host = whole()
    del stored.samples[key(2)]
    del stored.processes["web-1", STREAM][1]
    del ledger.acknowledged[key(2)]
    assert "1 samples are nowhere (2), and the exporter counts 0 lost" in judged(ledger, stored, host)
    counted = replace(host, spool=replace(host.spool, lost={"ram": 0, "cpu": 0, "procesos": 1}))
    assert "" == judged(ledger, stored, counted)
    waiting = replace(host, spool=replace(host.spool, waiting=frozenset({("procesos", 2)})))
    assert "samples are nowhere" not in judged(ledger, stored, waiting)
    ledger.acknowledged[key(2)] = {"orm"}
    assert "was acknowledged by orm and is not in the database" in judged(ledger, stored, counted)


def test_a_double_a_change_and_a_stranger_are_violations() -> None:
    ledger, stored, host = whole()
    stored.samples[key(1)].append(told(2))
    stored.samples[key(2)] = [told(3)]
    stored.samples[key(9)] = [told(9)]
    found = judged(ledger, stored, host)
    assert "is in the database 2 times" in found
    assert "is in the database as" in found
    assert "was never sent" in found


def test_cpu_time_that_does_not_add_up_is_a_violation() -> None:
    ledger, stored, host = whole()
    rows = stored.processes["web-1", STREAM]
    rows[1] = rows[1]._replace(cpu_delta_ns=29)
    assert "expected a delta of 30" in judged(ledger, stored, host)
    rows[1] = rows[1]._replace(cpu_delta_ns=30, exited=True)
    assert "told of after its end" in judged(ledger, stored, host)
    rows[1] = rows[1]._replace(exited=False)
    assert "its host says 150 ns" in judged(ledger, stored, replace(host, cpu_ns={(10, 5): 150}))


def test_an_answer_that_the_contract_does_not_name_is_a_violation() -> None:
    ledger, stored, host = whole()
    ledger.answers["raw", 500] += 1
    assert "raw answered 500 1 times" in judged(ledger, stored, host)


def test_a_counter_that_falls_is_found_and_a_gauge_may() -> None:
    text = (
        '# TYPE a_total counter\na_total{x="1"} %d\n# TYPE g gauge\ng %d\n'
        '# TYPE h histogram\nh_bucket{le="1"} %d\nh_sum 1.5\n'
    )
    before, now = checks.counters(text % (5, 5, 5)), checks.counters(text % (4, 4, 4))
    assert ['a_total{x="1"} fell from 5 to 4', 'h_bucket{le="1"} fell from 5 to 4'] == checks.fallen(before, now)
    assert [] == checks.fallen(now, before)


async def test_a_bridge_that_doubles_or_withholds_is_found() -> None:
    """A server of the test's own in its place: the real one does neither."""
    frame = {"type": "sample", "host": "web-1", "stream": STREAM, "feed": "ram", "sample": {"seq": 4}}
    asked: list[str] = []

    async def talk(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked.append(connection.request.path)
        for one in ({"type": "hello", "resume": "first"}, frame, {"type": "resume", "token": "second"}, frame):
            await connection.send(json.dumps(one))
        if len(asked) > 1:
            await connection.wait_closed()

    violated: list[str] = []
    followed = Followed("web-1", STREAM, "ram")
    async with serve(talk, "127.0.0.1", 0) as server:
        reader = Reader(next(iter(server.sockets)).getsockname()[1], violated.append)
        with reader:
            await wait_until(lambda: len(violated) > 1, "what was doubled on each of two connections is found")
            await asyncio.to_thread(reader.end)  # its last connection is closed by this loop
    assert violated[0].endswith("4 twice on one connection")
    assert asked[:2] == ["/ws", "/ws?resume=second"]
    assert reader.behind({followed: 4}) == []
    assert reader.behind({followed: 5}) == [f"the feed has shown web-1 {STREAM} ram up to 4 of 5"]
