"""The gateway of compose.yaml, a real nginx by its own file: it splits by weight; an API that goes costs nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from dev import nginx
from dev.program import Program, Start
from dev.waiting import wait_for
from tests import history
from tests.senders import SENDERS, Senders, apis_by_seq

POSTS = 2000
TOLERANCE = 0.03
BEFORE, AFTER = 300, 600
"""Posts that are answered before an API is taken away, and after it."""


@pytest.fixture
def apis(database: str, start: Start) -> dict[str, Program]:
    """Both APIs over one database."""
    return {f"ingest-{name}": start("ingest", name, dsn=database) for name in ("raw", "orm")}


def ports(apis: Mapping[str, Program]) -> dict[str, int]:
    return {name: api.port for name, api in apis.items()}


@pytest.mark.parametrize(("raw", "orm"), [(4, 1), (1, 1)], ids=["80/20", "50/50"])
def test_posts_are_split_by_weight(database: str, apis: dict[str, Program], tmp_path: Path, raw: int, orm: int) -> None:
    with nginx.gateway(ports(apis), {"ingest-raw": raw, "ingest-orm": orm}, tmp_path) as url:
        senders = Senders(url, POSTS)
        try:
            senders.wait_for(POSTS)
        finally:
            senders.end()
    assert {201: POSTS} == Counter(senders.answers.values())
    stored = apis_by_seq(database)
    assert set(range(1, POSTS + 1)) == stored.keys()
    counts = Counter(stored.values())
    assert {"raw", "orm"} == counts.keys()
    assert raw / (raw + orm) == pytest.approx(counts["raw"] / POSTS, abs=TOLERANCE)


@pytest.mark.parametrize(("victim", "how"), [("raw", "kill"), ("orm", "stop")])
def test_an_api_that_is_taken_away_costs_no_sample_and_no_error(
    database: str, apis: dict[str, Program], tmp_path: Path, victim: str, how: str
) -> None:
    gone = apis[f"ingest-{victim}"]
    (other,) = {"raw", "orm"} - {victim}
    with nginx.gateway(ports(apis), {"ingest-raw": 1, "ingest-orm": 1}, tmp_path) as url:
        senders = Senders(url)
        try:
            senders.wait_for(BEFORE)
            assert {"raw", "orm"} == set(apis_by_seq(database).values())
            if how == "kill":
                gone.kill()
            else:
                assert 0 == gone.stop()
            first = senders.begun() + 1
            senders.wait_for(len(senders.answered()) + SENDERS + AFTER)
            meanwhile = {seq for seq in senders.answered() if seq >= first}
            gone.start()
            # nginx asks it again when fail_timeout is over.
            since = senders.begun()
            returned = f"SELECT COUNT(*) FROM cpu WHERE api = '{victim}' AND seq > {since}"  # noqa: S608 - ours
            wait_for(lambda: history.query(database, returned)[0][0] > 0, f"{victim} gets posts again", 60)
        finally:
            senders.end()
    assert {201} == set(senders.answers.values())
    stored = apis_by_seq(database)
    assert senders.answers.keys() == stored.keys()
    assert len(meanwhile) >= AFTER
    assert {other} == {stored[seq] for seq in meanwhile}
