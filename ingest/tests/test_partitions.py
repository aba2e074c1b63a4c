"""The arithmetic of day partitions."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.contract.wire import Feed
from ingest.schema import partitions
from ingest.schema.partitions import Plan

TODAY = date(2026, 11, 23)


def day(number: int) -> date:
    return TODAY + timedelta(days=number)


def test_a_name_tells_its_day_and_other_names_tell_none() -> None:
    assert partitions.name(TODAY) == "p20261123"
    assert partitions.day_of("p20261123") == TODAY
    for other in ("p2026112", "p20261301", "pmax", "P20261123", "p20261123x"):
        assert partitions.day_of(other) is None


def test_a_definition_ends_where_the_next_day_begins() -> None:
    assert partitions.definition(date(2026, 12, 31)) == "PARTITION p20261231 VALUES LESS THAN ('2027-01-01')"


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        (range(-3, 8), Plan((), ())),
        (range(-4, 8), Plan((), (day(-4),))),
        (range(-3, 5), Plan((day(5), day(6), day(7)), ())),
        (range(-9, -7), Plan(partitions.days(day(-3), day(7)), (day(-9), day(-8)))),
        (range(0), Plan(partitions.days(day(-3), day(7)), ())),
        (range(2, 20), Plan((), ())),
    ],
    ids=["nothing to do", "one expired", "days to come", "away for long", "none yet", "more than asked for"],
)
def test_a_plan_makes_coming_days_and_drops_expired_ones(existing: range, expected: Plan) -> None:
    assert partitions.plan([day(number) for number in existing], TODAY, keep=3, ahead=7) == expected


@given(st.sets(st.integers(-20, 20), min_size=1), st.integers(1, 10), st.integers(1, 10))
def test_after_a_plan_a_table_ends_ahead_of_today_and_is_planned_no_further(
    present: set[int], keep: int, ahead: int
) -> None:
    before = {day(number) for number in present}
    plan = partitions.plan(before, TODAY, keep=keep, ahead=ahead)
    after = (before | set(plan.make)) - set(plan.drop)
    assert not before & set(plan.make)
    assert min(after) >= day(-keep)
    assert max(after) >= day(ahead)
    assert all(made > max(before) for made in plan.make)
    assert partitions.plan(after, TODAY, keep=keep, ahead=ahead) == Plan((), ())


def test_bounds_are_those_that_all_tables_of_a_feed_hold() -> None:
    rows = [(table, "p20261123") for table in partitions.PARTITIONED]
    rows += [("process_samples", "p20261124"), ("procesos", "p20261122"), ("ram", "p20261124"), ("hosts", "x")]
    start, day_ms = 1_795_392_000_000, 86_400_000
    assert partitions.feed_bounds(rows) == {
        Feed.RAM: (start, start + 2 * day_ms),
        Feed.CPU: (start, start + day_ms),
        Feed.PROCESOS: (start, start + day_ms),
    }


def test_without_one_of_the_tables_there_are_no_bounds() -> None:
    assert partitions.feed_bounds([("ram", "p20261123")]) == {}
