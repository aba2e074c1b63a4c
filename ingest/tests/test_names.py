"""Names that are known to be stored are not sent again, and nothing is known that was not committed."""

from __future__ import annotations

from dev.waiting import wait_for
from ingest.contract import vectors
from ingest.contract.vectors import Json
from ingest.contract.wire import Feed
from ingest.raw.names import Names, News, key
from ingest.tests.clients import Database, now_ms, push
from ingest.tests.conftest import Running
from ingest.tests.test_rows import first_sample, processes

TABLE = (1, "'2026-11-23'")


def names_of(database: Database) -> list[dict[str, object]]:
    return database.rows("SELECT pid, start_ticks, identity, command FROM processes ORDER BY 1, 2, 3")


def again(body: dict[str, Json]) -> dict[str, Json]:
    """Return the same processes a second later."""
    sample = first_sample(body)
    seq, sampled_at = sample["seq"], sample["sampled_at"]
    assert isinstance(seq, int)
    assert isinstance(sampled_at, int)
    return {**body, "samples": [{**sample, "seq": seq + 1, "sampled_at": sampled_at + 1}]}


def test_names_live_by_host_and_day_and_the_longest_unused_go_first() -> None:
    names = Names(most=3)
    one, two, three = ((host, "'2026-11-23'") for host in (1, 2, 3))
    names.learn(News(stored={one: {key(1, 1): 11, key(2, 1): 12}}))
    names.learn(News(stored={two: {key(1, 1): 21}}))
    names.learn(News(stored={one: {key(1, 1): 13}}))
    assert (names.of(one), names.of(two), len(names)) == ({key(1, 1): 13, key(2, 1): 12}, {key(1, 1): 21}, 3)
    names.learn(News(stored={three: {key(1, 1): 31}}))
    assert (names.of(two), names.of(three), len(names)) == ({}, {key(1, 1): 31}, 3)


def test_a_process_that_ended_is_forgotten() -> None:
    names = Names()
    names.learn(News(stored={TABLE: {key(1, 1): 11, key(2, 1): 12}}))
    names.learn(News(stored={TABLE: {key(3, 1): 13}}, ended={TABLE: [key(1, 1), key(3, 1), key(9, 9)]}))
    assert (names.of(TABLE), len(names)) == ({key(2, 1): 12}, 1)
    names.forget()
    assert (names.of(TABLE), len(names)) == ({}, 0)


def test_keys_of_the_largest_numbers_differ() -> None:
    assert len({key(2**31 - 1, 2**63 - 1), key(2**31 - 1, 0), key(0, 2**63 - 1), key(1, 0), key(0, 1)}) == 5


def test_a_known_name_is_sent_once_and_a_new_one_is_sent(running: Running, database: Database) -> None:
    database.clear()
    api = running[("raw", False)]
    body = vectors.base(Feed.PROCESOS, now_ms())
    assert push(api.port, "procesos", body).status == 201
    before = names_of(database)
    database.run("UPDATE processes SET ppid = 4242")  # shows who writes the row
    body = again(body)
    assert push(api.port, "procesos", body).status == 201
    assert names_of(database) == before
    changed = again(body)
    process = processes(first_sample(changed), "processes")[0]
    process["command"] = "renamed"
    assert push(api.port, "procesos", changed).status == 201
    assert "renamed" in {row["command"] for row in names_of(database)}
    assert len(names_of(database)) == len(before) + 1


def test_names_are_sent_anew_after_the_connections_are_lost(running: Running, database: Database) -> None:
    database.clear()
    api = running[("raw", False)]
    body = vectors.base(Feed.PROCESOS, now_ms())
    assert push(api.port, "procesos", body).status == 201
    before = names_of(database)
    database.run("DELETE FROM processes")  # a restore to an earlier moment, which ends every connection
    for row in database.rows(
        "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db = DATABASE()"
    ):
        database.run(f"KILL {row['id']}")
    body = again(body)
    # A connection that was used just now is not tried before it is used: each writer answers 503 once.
    wait_for(lambda: push(api.port, "procesos", body).status == 201, "the writers have new connections")
    assert names_of(database) == before
