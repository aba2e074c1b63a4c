"""The same samples, sent to both APIs at the same time by many senders, are stored once; every answer adds up."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from dev.program import Program
from ingest.contract import vectors
from ingest.contract.vectors import Json
from ingest.contract.wire import Feed
from ingest.tests.clients import Database, now_ms, push

Running = dict[tuple[str, bool], Program]

HOSTS = 6
SAMPLES = 30
PROCESSES = 40


def _bodies() -> list[tuple[str, dict[str, Json]]]:
    """Pushes that overlap: each sample stands in two of them, in different company."""
    now = now_ms()
    bodies: list[tuple[str, dict[str, Json]]] = []
    for host in range(HOSTS):
        for feed in Feed:
            base = vectors.base(feed, now) | {"host": f"web-{host}"}
            samples = base["samples"]
            assert isinstance(samples, list)
            sample = samples[0]
            assert isinstance(sample, dict)
            if feed is Feed.PROCESOS:
                found = sample["processes"]
                assert isinstance(found, list)
                one = found[0]
                assert isinstance(one, dict)
                sample |= {"processes": [one | {"pid": pid} for pid in range(1, PROCESSES + 1)], "exited": []}
            series: list[Json] = [sample | {"seq": seq, "sampled_at": now + seq * 5} for seq in range(SAMPLES)]
            bodies.extend((feed.value, base | {"samples": series[start : start + 6]}) for start in range(0, SAMPLES, 3))
    return bodies


def test_what_both_apis_get_at_once_is_stored_once(running: Running, database: Database) -> None:
    database.clear()
    bodies = _bodies()
    ports = [running[("raw", False)].port, running[("orm", False)].port]
    jobs = [(port, feed, body) for feed, body in bodies for port in ports]
    random.Random(5).shuffle(jobs)  # noqa: S311 - an order that can be repeated
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda job: push(*job), jobs))
    assert {answer.status for answer in answers} == {201}
    expected = {
        "hosts": HOSTS,
        "ram": HOSTS * SAMPLES,
        "cpu": HOSTS * SAMPLES,
        "procesos": HOSTS * SAMPLES,
        "process_samples": HOSTS * SAMPLES * PROCESSES,
        "processes": HOSTS * PROCESSES,
    }
    assert database.counts() == expected
    got = [answer.json() for answer in answers]
    assert sum(int(str(answer["accepted"])) for answer in got) == 3 * HOSTS * SAMPLES
    sent = sum(len(body["samples"]) for _, _, body in jobs if isinstance(body["samples"], list))
    assert sum(int(str(answer["duplicates"])) for answer in got) == sent - 3 * HOSTS * SAMPLES
    # Each sample has all of its processes, whoever stored it.
    (row,) = database.rows(
        "SELECT COUNT(DISTINCT c) AS kinds, MIN(c) AS c FROM"
        " (SELECT COUNT(*) AS c FROM process_samples GROUP BY host_id, sampled_at, seq) AS each_sample"
    )
    assert row == {"kinds": 1, "c": PROCESSES}
    assert {str(row["api"]) for row in database.rows("SELECT DISTINCT api FROM procesos")} == {"raw", "orm"}


def test_one_sample_twice_in_one_push_of_two_senders_counts_once(running: Running, database: Database) -> None:
    """Raw puts pushes that arrive together into one transaction: they may hold the same sample."""
    database.clear()
    body = vectors.base(Feed.PROCESOS, now_ms())
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: push(running[("raw", False)].port, "procesos", body).json(), range(64)))
    assert sum(int(str(answer["accepted"])) for answer in answers) == 1
    assert sum(int(str(answer["duplicates"])) for answer in answers) == 63
    assert database.counts()["process_samples"] == 3
