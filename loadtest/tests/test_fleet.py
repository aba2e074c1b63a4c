"""The simulation of a fleet holds to what can be said of it without one, and the docs to what it found."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from loadtest import fleet, fleet_size
from loadtest.fleet import Costs, FitError, Fleet, Point

COSTS = Costs(api="raw", api_request=0.001, api_row=1e-5, db_transaction=0.002, db_row=2e-5, commit_seconds=0.003)
LIGHT = Fleet(hosts=50, interval=5.0, rows_a_beat=100.0)


def point(requests: float, rows: float, **values: object) -> Point:
    """Return what would be measured if `COSTS` were so, each push a transaction of its own."""
    made = Point(
        api="raw",
        hosts=10,
        interval=5.0,
        rows_a_beat=rows / requests * 3,
        requests=requests,
        rows=rows,
        transactions=requests,
        api_cpus=COSTS.api_request * requests + COSTS.api_row * rows + 0.01,
        api_idle_cpus=0.01,
        db_cpus=COSTS.db_transaction * requests + COSTS.db_row * rows,
        commit_seconds=0.003,
        p50_ms=5.0,
        p95_ms=9.0,
    )
    return structs.replace(made, **values)


def test_costs_come_back_from_two_points() -> None:
    found = fleet.fit(point(30, 1_000), point(10, 3_000))
    assert structs.asdict(COSTS) == pytest.approx(structs.asdict(found))


def test_points_that_say_nothing_are_refused() -> None:
    with pytest.raises(FitError, match="nearly as many rows"):
        fleet.fit(point(30, 1_000), point(60, 2_000))
    with pytest.raises(FitError, match="below nothing"):
        fleet.fit(point(30, 1_000, db_cpus=5.0), point(10, 3_000))
    with pytest.raises(FitError, match="one point is of raw"):
        fleet.fit(point(30, 1_000), point(10, 3_000, api="orm"))


def test_a_light_load_costs_what_its_parts_cost() -> None:
    """Little meets little: nearly each push is a transaction, and nothing waits but for its own work."""
    found = fleet.simulate(COSTS, LIGHT, apis=1, db_cpus=2, seconds=60)
    assert 30 == pytest.approx(found.requests, rel=0.03)
    assert 1_000 == pytest.approx(found.rows, rel=0.03)
    assert 0.03 + 0.01 == pytest.approx(found.api_cpus, rel=0.05)
    assert 0.06 + 0.02 == pytest.approx(found.db_cpus, rel=0.05)
    assert 6 <= found.p50_ms <= 10
    assert found == fleet.simulate(COSTS, LIGHT, apis=1, db_cpus=2, seconds=60)


def test_what_waits_together_is_committed_together_by_raw_alone() -> None:
    busy = Fleet(hosts=1_000, interval=5.0, rows_a_beat=10.0)
    raw = fleet.simulate(COSTS, busy, apis=2, db_cpus=1, seconds=10)
    assert raw.transactions < 0.8 * raw.requests
    orm = fleet.simulate(structs.replace(COSTS, api="orm"), busy, apis=2, db_cpus=1, seconds=10)
    assert orm.requests == pytest.approx(orm.transactions, rel=0.02)
    assert orm.p95_ms > 10 * raw.p95_ms, "its MySQL cannot follow: 600 transactions of 2 ms a second"


def test_a_size_holds_and_one_less_of_either_is_not_within_bounds() -> None:
    load = Fleet(hosts=2_000, interval=5.0, rows_a_beat=100.0)
    found = fleet.size(COSTS, load, 200.0, 5.0)
    assert found.outcome.p95_ms <= 200
    assert found.outcome.api_cpus <= fleet.HIGHEST_USE * found.apis * 1.02
    assert found.outcome.db_cpus <= fleet.HIGHEST_USE * found.db_cpus * 1.02
    assert found.outcome.api_cpus > fleet.HIGHEST_USE * (found.apis - 1)
    larger = fleet.size(COSTS, structs.replace(load, hosts=20_000), 200.0, 2.0)
    assert 10 * found.outcome.api_cpus == pytest.approx(larger.outcome.api_cpus, rel=0.05)


def test_the_docs_hold_what_was_found(repository: Path) -> None:
    found = msgspec.json.decode(fleet_size.FILE.read_bytes(), type=fleet_size.Document)
    text = (repository / "docs" / "operating.md").read_text(encoding="utf-8")
    _, _, rest = text.partition(fleet_size.BEGIN)
    assert fleet_size.text(found) == rest.partition(fleet_size.END)[0], "`python -m loadtest.fleet_size --write`"
    for check in found.checks:
        first, second, third = found.points[check.api]
        assert fleet.fit(first, second) == check.costs
        assert third == check.measured
