"""Our encoder writes what prometheus-client writes, byte for byte, and Prometheus's own tools accept it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.utils import floatToGoString

from exporter.exposition import Encoder, Family, Kind, numbers

names = st.from_regex(r"latido_[a-z_]{1,12}[a-z]", fullmatch=True).filter(
    lambda name: not name.endswith(("_total", "_info", "_created", "_bucket", "_count", "_sum"))
)
any_text = st.text(st.characters(codec="utf-8"), max_size=8)
values = st.one_of(
    st.floats(),
    st.integers(0, 2**63).map(float),
    st.floats(1e5, 1e7),
    st.sampled_from([0.0, -0.0, 1e6, 999999.9999999999, 1e-4, 9.999e-5, 1e16, 2.0**53, 1e22, -1e7, 123456789.125]),
)


@st.composite
def families(draw: st.DrawFn) -> Family:
    """Draw a family of any type, with labels that hold anything."""
    kind = draw(st.sampled_from(Kind))
    label_names = tuple(sorted(draw(st.sets(st.sampled_from(["cpu", "group", "mode", "state"]), max_size=3))))
    if kind is Kind.INFO and not label_names:
        label_names = ("version",)
    rows = draw(st.lists(st.tuples(*[any_text] * len(label_names)), min_size=1, max_size=4))
    rows = rows if label_names and kind is not Kind.INFO else rows[:1]
    column = [1.0] * len(rows) if kind is Kind.INFO else draw(st.lists(values, min_size=len(rows), max_size=len(rows)))
    return Family(draw(names), kind, draw(any_text), column, label_names, tuple(rows))


class Reference:
    """The same families as prometheus-client knows them."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            labels = family.label_names or None
            metric: Metric
            if family.kind is Kind.INFO:
                build = dict(zip(family.label_names, family.labels[0], strict=True))
                metric = InfoMetricFamily(family.name, family.documentation, value=build)
            elif family.kind is Kind.COUNTER:
                metric = CounterMetricFamily(family.name, family.documentation, labels=labels)
            else:
                metric = GaugeMetricFamily(family.name, family.documentation, labels=labels)
            if not isinstance(metric, InfoMetricFamily):
                for row, value in zip(family.labels, family.values, strict=True):
                    metric.add_metric(row, value)
            yield metric


@given(st.lists(families(), max_size=4))
def test_both_formats_are_what_prometheus_client_writes(found: list[Family]) -> None:
    reference = Reference(found)
    encoder = Encoder()
    for _ in range(2):  # the second time from kept prefixes
        assert exposition.generate_latest(reference) == encoder.text(found)
        assert generate_openmetrics(reference) == encoder.openmetrics(found) + b"# EOF\n"


@given(st.lists(values, max_size=20))
@example([float("nan"), float("inf"), float("-inf")])
def test_numbers_are_what_prometheus_client_writes(column: list[float]) -> None:
    assert [floatToGoString(value) for value in column] == (numbers(column) if column else [])


def test_rows_that_change_between_scrapes_are_written_anew() -> None:
    encoder = Encoder()
    first = Family("latido_x", Kind.GAUGE, "x", [1.0, 2.0], ("group",), (("a",), ("b",)))
    second = Family("latido_x", Kind.GAUGE, "x", [3.0], ("group",), (("b",),))
    encoder.text([first])
    assert encoder.text([second]).endswith(b'gauge\nlatido_x{group="b"} 3.0\n')


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 values, 1 rows of labels"):
        Family("latido_x", Kind.GAUGE, "x", [1.0, 2.0])
    with pytest.raises(ValueError, match="label names must ascend"):
        Family("latido_x", Kind.GAUGE, "x", [1.0], ("b", "a"), (("1", "2"),))


def test_promtool_and_the_openmetrics_parser_accept_it(promtool: Path) -> None:
    found = [
        Family("latido_build", Kind.INFO, 'A "name"\\\n.', [1.0], ("version",), (('1\\"\n',),)),
        Family("latido_load1", Kind.GAUGE, "Load.", [0.25]),
        Family("latido_cpu_seconds", Kind.COUNTER, "CPU.", [1e9, 0.5], ("cpu",), (("0",), ("1",))),
    ]
    done = subprocess.run([promtool, "check", "metrics"], input=Encoder().text(found), capture_output=True, check=False)
    assert (0, b"") == (done.returncode, done.stderr)
    text = (Encoder().openmetrics(found) + b"# EOF\n").decode()
    parsed = {metric.name: metric for metric in text_string_to_metric_families(text)}
    assert {"latido_build", "latido_load1", "latido_cpu_seconds"} == parsed.keys()
    assert '1\\"\n' == parsed["latido_build"].samples[0].labels["version"]
