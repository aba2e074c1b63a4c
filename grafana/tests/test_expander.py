"""The expander writes what Grafana's documentation says that Grafana writes."""

from __future__ import annotations

import pytest

from grafana.checks.expander import ALL, ExpansionError, Picked, Variable, mysql, promql

DOCUMENTED = Picked(1494410783, 1494410983)
"""The range of the examples in the documentation of the MySQL data source."""


@pytest.mark.parametrize(
    ("macro", "expected"),
    [
        ("$__time(dateColumn)", "UNIX_TIMESTAMP(dateColumn) as time_sec"),
        ("$__timeEpoch(dateColumn)", "UNIX_TIMESTAMP(dateColumn) as time_sec"),
        (
            "$__timeFilter(dateColumn)",
            "dateColumn BETWEEN FROM_UNIXTIME(1494410783) AND FROM_UNIXTIME(1494410983)",
        ),
        ("$__timeFrom()", "FROM_UNIXTIME(1494410783)"),
        ("$__timeTo()", "FROM_UNIXTIME(1494410983)"),
        ("$__timeGroup(dateColumn,'5m')", "UNIX_TIMESTAMP(dateColumn) DIV 300 * 300"),
        ("$__timeGroup(a.at, 1h)", "UNIX_TIMESTAMP(a.at) DIV 3600 * 3600"),
        ("$__timeGroupAlias(dateColumn,'5m')", 'UNIX_TIMESTAMP(dateColumn) DIV 300 * 300 AS "time"'),
        ("$__unixEpochFilter(dateColumn)", "dateColumn >= 1494410783 AND dateColumn <= 1494410983"),
        ("$__unixEpochFrom()", "1494410783"),
        ("$__unixEpochTo()", "1494410983"),
        ("$__unixEpochGroup(dateColumn,'5m')", "dateColumn DIV 300 * 300"),
    ],
)
def test_macros(macro: str, expected: str) -> None:
    assert expected == mysql(macro, DOCUMENTED)


SERVERS = Variable(["test1", "test2"], multi=True)
ODD = Variable(["test'1", "test2"], multi=True)
REGEX = Variable(["test1.", "test2"], multi=True)


@pytest.mark.parametrize(
    ("form", "variable", "expected"),
    [
        ("csv", SERVERS, "test1,test2"),
        ("raw", SERVERS, "test1,test2"),
        ("pipe", Variable(["test1.", "test2"], multi=True), "test1.|test2"),
        ("regex", REGEX, "(test1\\.|test2)"),
        ("singlequote", SERVERS, "'test1','test2'"),
        ("doublequote", SERVERS, '"test1","test2"'),
        ("sqlstring", ODD, "'test''1','test2'"),
    ],
)
def test_formats_of_variables(form: str, variable: Variable, expected: str) -> None:
    assert expected == mysql(f"${{servers:{form}}}", Picked(0, 1, variables={"servers": variable}))


def test_variables_in_promql() -> None:
    picked = Picked(
        0,
        3600,
        variables={
            "one": Variable(["web-1"]),
            "some": Variable(["a.b", "c"], multi=True),
            "all": Variable([ALL], multi=True, all_value=".+"),
        },
    )
    assert 'x{host="web-1"}' == promql('x{host="$one"}', picked)
    assert 'x{host=~"(a\\\\.b|c)"}' == promql('x{host=~"$some"}', picked)
    assert 'x{host=~".+"}' == promql('x{host=~"${all}"}', picked)


@pytest.mark.parametrize(
    ("seconds", "points", "scrape", "interval", "rate_interval"),
    [
        # an hour on 1000 points is 3.6 s, which is rounded to 5 s; at least four scrapes make a rate
        (3600, 1000, 15, "5s", "1m"),
        (86400, 1000, 15, "2m", "135s"),
        (300, 1000, 1, "500ms", "4s"),
    ],
)
def test_intervals(seconds: int, points: int, scrape: int, interval: str, rate_interval: str) -> None:
    picked = Picked(1000, 1000 + seconds, scrape, points=points)
    assert interval == promql("$__interval", picked)
    assert rate_interval == promql("$__rate_interval", picked)
    assert str(seconds) == promql("$__range_s", picked)


def test_interval_inside_a_macro_comes_first() -> None:
    assert "UNIX_TIMESTAMP(at) DIV 5 * 5 AS x, 5000" == mysql(
        "$__timeGroup(at,$__interval) AS x, $__interval_ms", Picked(0, 3600)
    )


@pytest.mark.parametrize(
    "text",
    ["$unknown", "${unknown:csv}", "$__timeTable(x)", "$__timeFilter()", "$__timeGroup(x)", "$__timeGroup(x,1y)"],
)
def test_what_is_not_known_is_refused(text: str) -> None:
    with pytest.raises(ExpansionError):
        mysql(text, DOCUMENTED)
