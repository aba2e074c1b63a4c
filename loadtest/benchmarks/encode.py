"""`encode`: our exposition encoder against prometheus-client's `generate_latest`, for the same families and values.

Both get families that are made already; every value is new in each round, so nothing is gained by keeping numbers.
The shape is that of a scrape: counters in seconds, sizes in bytes, small gauges, three labels.
"""

from __future__ import annotations

import argparse
import functools
import random
from collections.abc import Iterator

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from exporter.exposition import Encoder, Family, Kind, Labels
from loadtest.benchmarks.measure import Result, cpu_of, installed, interleave, ratio

ROWS_A_FAMILY = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000, 100_000], help="samples a scrape")
    parser.add_argument("--runs", type=int, default=9, help="rounds (at least 7)")


def run(given: argparse.Namespace) -> Result:
    """Measure at each size; the ratio reported is the smallest of their medians."""
    raw: dict[str, object] = {}
    ratios = []
    for samples in given.samples:
        drawn = random.Random(samples)  # noqa: S311 - figures to encode
        encoder = Encoder()

        def ours(samples: int = samples, drawn: random.Random = drawn, encoder: Encoder = encoder) -> float:
            found = make(samples, drawn)
            return cpu_of(lambda: encoder.text(found))

        def theirs(samples: int = samples, drawn: random.Random = drawn) -> float:
            collected = Collected([as_metric(family) for family in make(samples, drawn)])
            return cpu_of(lambda: generate_latest(collected))

        check(make(samples, drawn))
        figures = interleave({"ours": ours, "generate_latest": theirs}, given.runs)
        raw[str(samples)] = {name: [figure / samples for figure in column] for name, column in figures.items()}
        ratios.append(ratio(figures["generate_latest"], figures["ours"], bar=8.0))
    worst = min(ratios, key=lambda found: found.value)
    return Result(
        "encode",
        {"encode.prometheus_client_over_ours": worst},
        {"cpu_seconds_a_sample": raw},
        installed("prometheus-client", "numpy", "msgspec"),
    )


def make(samples: int, drawn: random.Random) -> list[Family]:
    """Return families with so many samples in all."""
    found = []
    for number in range(samples // ROWS_A_FAMILY):
        labels = rows_of(number)
        kind, column = (
            (Kind.COUNTER, [round(drawn.uniform(0, 1e6), 2) for _ in labels]),
            (Kind.GAUGE, [float(drawn.randrange(1 << 34) << 12) for _ in labels]),
            (Kind.GAUGE, [float(drawn.randrange(1000)) for _ in labels]),
        )[number % 3]
        found.append(Family(f"latido_family_{number}", kind, "A family.", column, ("group", "mode", "state"), labels))
    return found


@functools.cache
def rows_of(number: int) -> tuple[Labels, ...]:
    """Return a family's rows, which a collector keeps from scrape to scrape as long as its groups stay the same."""
    return tuple((f"group-{row}", "user", f"state-{number}") for row in range(ROWS_A_FAMILY))


def as_metric(family: Family) -> Metric:
    """Return a family as prometheus-client's own type."""
    cls = CounterMetricFamily if family.kind is Kind.COUNTER else GaugeMetricFamily
    metric = cls(family.name, family.documentation, labels=family.label_names)
    for row, value in zip(family.labels, family.values, strict=True):
        metric.add_metric(row, value)
    return metric


class Collected:
    """Families that were collected already, as `generate_latest` takes them."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._metrics


def check(found: list[Family]) -> None:
    """Refuse to measure what is not the same text."""
    if Encoder().text(found) != generate_latest(Collected([as_metric(family) for family in found])):
        raise AssertionError("the two encoders disagree; run the tests")
