"""The parts of a load test that count and decide: histograms, shapes, the search, verdicts."""

from __future__ import annotations

import itertools
import statistics

import pytest

from loadtest import shapes, verdict
from loadtest.monitor import Usage
from loadtest.shapes import Knee, Objective, Search
from loadtest.tally import GROWTH, Histogram, Line, Tally, parse, summarise
from loadtest.verdict import Objectives, Turn
from loadtest.verify import Counts

BOTH = ("raw", "orm")


def counts(*, different: int = 0) -> Counts:
    whole = {"ram": 10, "cpu": 10, "procesos": 10, "process_samples": 500}
    differences = ["load-1-0: ram holds 9 of 10 acknowledged"] * min(1, different)
    return Counts(2, whole, whole, 1, 0, differences, different)


def test_percentiles_are_known_to_a_bucket() -> None:
    histogram = Histogram()
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds)
    for share, exact in ((0.5, 500), (0.95, 950), (0.99, 990), (1.0, 1000)):
        found = histogram.percentile(share)
        assert found is not None
        assert exact <= found <= exact * GROWTH
    assert 500.5 == pytest.approx(histogram.mean(), rel=0.02)
    assert (None, None) == (Histogram().percentile(0.95), Histogram().mean())


def test_lines_of_many_processes_add_up() -> None:
    first, second = Tally(), Tally()
    first.request(7, "push", "raw", "cpu", 0, milliseconds=10, samples=2, rows=5, size=100, ages_ms=[20])
    first.request(7, "push", "raw", "cpu", 0, milliseconds=10, failure="status 503", samples=2, rows=5, size=100)
    second.request(8, "push", "raw", "ram", 0, milliseconds=90, samples=1)
    text = first.take() + second.take()
    assert b"" == first.take()
    seen = summarise(parse(text + b'{"second":9,"ki'), 2)
    assert (3, 1, 3, 5, 200) == (seen.requests, seen.errors, seen.samples, seen.rows, seen.bytes)
    assert {"status 503": 1} == seen.failures
    assert pytest.approx(1 / 3) == seen.error_ratio
    assert 20 == pytest.approx(seen.age_p99_ms, rel=0.02)


def test_shapes_have_their_hosts() -> None:
    at = (0, 99, 100, 150, 199, 249.9, 250)
    assert [20, 20, 20, 20, 20, 20, None] == [shapes.hosts_at("soak", 20, 250, moment) for moment in at]
    assert [5, 5, 20, 5, 5, 5, None] == [
        shapes.hosts_at("spike", 20, 250, moment) for moment in (0, 99, 100, 150, 199, 249.9, 250)
    ]
    ramp = [shapes.hosts_at("ramp", 20, 250, moment) for moment in range(250)]
    assert (1, 20) == (ramp[0], ramp[-1])
    assert ramp == sorted(ramp, key=lambda hosts: hosts or 0)


def test_both_apis_get_as_much_of_a_run_in_mirrored_order() -> None:
    width = shapes.slices_of(15, 300)
    assert 15 == width
    order = [shapes.slice_at(BOTH, width, moment)[1] for moment in range(0, 300, 15)]
    assert ["raw", "orm", "orm", "raw"] * 5 == order
    assert 12.5 == shapes.slices_of(15, 50)
    assert (3, "orm") == shapes.slice_at(("orm",), 15, 50)


def test_a_search_gives_both_each_level_and_finds_both_knees() -> None:
    capacity = {"raw": 300, "orm": 75}
    search = Search(BOTH, 20, 10_000, 1.25, Objective(200, 0.001))
    given = []
    while not search.over:
        given.append((search.api, search.hosts))
        search.judge(1000, 200 * search.hosts / capacity[search.api], 0.0)
    assert [("raw", 20), ("orm", 20), ("raw", 25), ("orm", 25)] == given[:4]
    raw, orm = shapes.knees(search.stages, 200)
    assert raw.held <= 300 <= (raw.broke or 0)
    assert orm.held <= 75 <= (orm.broke or 0)
    assert 300 == pytest.approx(raw.hosts, rel=0.02)
    assert 75 == pytest.approx(orm.hosts, rel=0.02)
    assert "raw over orm 4" in verdict.describe([raw, orm])


def test_a_search_ends_where_it_is_told_to_and_says_that_nothing_broke() -> None:
    search = Search(("raw",), 20, 30, 1.25, Objective(200, 0.001))
    while not search.over:
        search.judge(10, 5.0, 0.0)
    assert [20, 25, 30] == [stage.hosts for stage in search.stages]
    (knee,) = shapes.knees(search.stages, 200)
    assert Knee("raw", 30, None, 30.0) == knee
    assert "did not break" in verdict.describe([knee])


@pytest.mark.parametrize(("requests", "p95", "errors"), [(0, None, 0.0), (9, 201.0, 0.0), (9, 10.0, 0.01)])
def test_a_level_breaks_by_time_by_errors_and_by_silence(requests: int, p95: float | None, errors: float) -> None:
    search = Search(("raw",), 20, 100, 1.25, Objective(200, 0.001))
    assert not search.judge(requests, p95, errors).held
    assert not search.over, "it is tried again"
    assert not search.judge(requests, p95, errors).held
    assert search.over
    assert [Knee("raw", 0, 20, 0.0)] == shapes.knees(search.stages, 200)


def test_a_level_that_holds_when_it_is_tried_again_has_held() -> None:
    search = Search(("raw",), 20, 100, 1.25, Objective(200, 0.001))
    search.judge(9, 900.0, 0.0)
    search.judge(9, 100.0, 0.0)
    assert (25, False) == (search.hosts, search.over)
    assert [Knee("raw", 20, None, 20.0)] == shapes.knees(search.stages, 200)


def test_hosts_are_cut_off_in_turn() -> None:
    for moment in range(0, 700, 7):
        share = statistics.fmean(shapes.cut_off(number, moment, 0.05, 30) for number in range(1000))
        assert 0.05 == pytest.approx(share, abs=0.005)
    cut = [moment for moment in range(1200) if shapes.cut_off(3, moment, 0.05, 30)]
    assert 60 == len(cut)
    assert not any(shapes.cut_off(3, moment, 0.0, 30) for moment in range(1200))


def lines(api: str, phase: int, milliseconds: float, *, second: int = 0, failure: str | None = None) -> list[Line]:
    tally = Tally()
    for _ in range(20):
        tally.request(second, "push", api, "cpu", phase, milliseconds=milliseconds, failure=failure, ages_ms=[500])
    return parse(tally.take())


def test_what_breaks_is_named_with_its_api() -> None:
    objectives = Objectives(latency_p95_ms=200, error_ratio=0.001, sample_age_p99_seconds=2)
    found = {
        "raw": summarise(lines("raw", 0, 20), 1),
        "orm": summarise([*lines("orm", 0, 900), *lines("orm", 0, 900, failure="status 503")], 1),
    }
    broken = verdict.judge(objectives, found)
    assert [("latency_p95_ms", "orm"), ("error_ratio", "orm")] == [(one.objective, one.api) for one in broken]
    line = verdict.first_line(broken, counts(), [], [])
    assert line.startswith("RED: orm: latency_p95_ms is 9")
    assert "error_ratio is 0.5, above 0.001" in line


def test_an_api_of_which_nothing_was_measured_is_broken() -> None:
    broken = verdict.judge(Objectives(latency_p95_ms=200), {"raw": summarise([], 1)})
    assert ["raw: nothing was measured of latency_p95_ms"] == [str(one) for one in broken]


def test_lost_samples_are_red_however_quick_it_was() -> None:
    assert verdict.first_line([], counts(), [], []).startswith("GREEN: every objective held")
    red = verdict.first_line([], counts(different=3), [], [])
    assert "RED: counts differ: load-1-0: ram holds 9 of 10 acknowledged, and 2 more" == red
    assert verdict.first_line([], None, [], []).startswith("RED")
    assert verdict.first_line([], counts(), ["worker 1 ended with status 1"], []).startswith("RED: worker 1")


def test_slices_are_compared_in_pairs() -> None:
    turns, seen, usage = [], [], []
    for number in range(20):
        api = BOTH[(0, 1, 1, 0)[number % 4]]
        turns.append(Turn(number, api, 10, 10.0 * number))
        # The machine gets slower all the time; orm takes four times as long as raw at any moment.
        slow = (10 + number // 2) * (4 if api == "orm" else 1)
        seen += [line for second in range(10) for line in lines(api, number, slow, second=10 * number + second)]
    for second, api in itertools.product(range(200), BOTH):
        usage.append(Usage(float(second), api, second * (0.3 if api == "orm" else 0.1), 1e8, 100.0 * second))
    found = {one.figure: one for one in verdict.compare(turns, 200.0, seen, usage, 2.0)}
    p95 = found["p95_ms"]
    assert 10 == p95.pairs
    assert pytest.approx(4, rel=0.05) == p95.ratio
    assert p95.low is not None
    assert p95.high is not None
    assert p95.low <= p95.ratio <= p95.high
    cpu = found["api_cpu_ms_per_1000_rows"]
    assert [1000, 3000, 3] == pytest.approx([cpu.raw, cpu.orm, cpu.ratio])


def test_too_few_pairs_have_no_interval() -> None:
    turns = [Turn(0, "raw", 1, 0.0), Turn(1, "orm", 1, 10.0)]
    seen = [*lines("raw", 0, 10, second=5), *lines("orm", 1, 20, second=15)]
    (p50, *_) = verdict.compare(turns, 20.0, seen, [], 2.0)
    assert (1, None, None) == (p50.pairs, p50.low, p50.high)


def test_an_interval_holds_its_median_and_is_the_same_each_time() -> None:
    values = [3.0, 4.0, 4.1, 3.9, 4.4, 5.0, 3.5, 4.2]
    assert verdict.interval(values, statistics.median) == verdict.interval(values, statistics.median)
    low, high = verdict.interval(values, statistics.median)
    assert 3.0 <= low <= statistics.median(values) <= high <= 5.0


def test_objectives_that_are_none_are_refused_with_what_is_known() -> None:
    assert Objectives(latency_p95_ms=200) == verdict.parse({"latency_p95_ms": 200})
    for wrong in ({"p95": 200}, {"latency_p95_ms": "fast"}, [1]):
        with pytest.raises(verdict.ObjectivesError, match="known are latency_p95_ms"):
            verdict.parse(wrong)
