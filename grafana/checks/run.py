"""Runs what a dashboard asks, as Grafana would, and judges the answer: is it there, of the right type, of its unit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

import pymysql

from grafana.checks import expander
from grafana.checks.dashboards import Panel, Query, load, panels, variables
from grafana.checks.expander import Picked, Variable
from latido.settings import dsn as parse_dsn

Row = tuple[Any, ...]

_YEARS: Final = 10 * 365 * 86400
_LABEL: Final = re.compile(r"\{\{(\w+)\}\}")

UNITS: Final[Mapping[str, Callable[[float], bool]]] = {
    "percentunit": lambda value: -1e-9 <= value <= 128,  # noqa: PLR2004 - 100% is one CPU, of which there are some
    "bytes": lambda value: -(1 << 50) < value < 1 << 50,
    "binBps": lambda value: 0 <= value < 1 << 40,
    "cps": lambda value: 0 <= value < 1e9,  # noqa: PLR2004
    "s": lambda value: -60 <= value < _YEARS,  # noqa: PLR2004 - clocks may differ
    "short": lambda value: 0 <= value < 1e12,  # noqa: PLR2004
    "none": lambda value: value >= 0 and value == int(value),
    "dateTimeAsIso": lambda value: 1.6e12 < value < 4e12,  # noqa: PLR2004 - milliseconds, from 2020 to 2096
}
"""What a value of a unit can be. A share over 100 CPUs, or seconds where milliseconds are meant, is not."""


class WrongAnswerError(Exception):
    """A query's answer is not there, or not what its panel shows; the message says which and why."""


@dataclass(frozen=True)
class Series:
    """One line of a panel: what its legend says, and its values in time."""

    name: str
    times: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Table:
    """A table of a panel."""

    columns: Sequence[str]
    rows: Sequence[Row]


class Sources:
    """The two data sources, asked as Grafana asks them."""

    def __init__(self, dsn: str, instant: Callable[..., Any] | None, over_time: Callable[..., Any] | None) -> None:
        """Take the database and Prometheus's two queries; without them PromQL cannot be asked."""
        parts = parse_dsn(dsn)
        self._connection = pymysql.connect(
            host=parts.host,
            port=parts.port,
            user=parts.user,
            password=parts.password,
            database=parts.database,
            autocommit=True,
            init_command="SET time_zone = '+00:00'",
        )
        self._instant = instant
        self._over_time = over_time

    @property
    def has_prometheus(self) -> bool:
        """Whether PromQL can be asked."""
        return self._over_time is not None

    def close(self) -> None:
        """Leave the database."""
        self._connection.close()

    def sql(self, text: str, picked: Picked) -> Table:
        """Run a MySQL query."""
        with self._connection.cursor() as cursor:
            cursor.execute(expander.mysql(text, picked))
            return Table([column[0] for column in cursor.description], list(cursor.fetchall()))

    def instant(self, text: str, picked: Picked) -> list[dict[str, Any]]:
        """Run an instant PromQL query at the end of the range."""
        assert self._instant is not None  # noqa: S101 - a caller without Prometheus asks SQL alone
        found: list[dict[str, Any]] = self._instant(expander.promql(text, picked), picked.last)
        return found

    def over_time(self, text: str, picked: Picked) -> list[dict[str, Any]]:
        """Run a PromQL query over the range."""
        assert self._over_time is not None  # noqa: S101
        step = max(picked.interval_ms / 1000, 1)
        found: list[dict[str, Any]] = self._over_time(expander.promql(text, picked), picked.first, picked.last, step)
        return found


def pick(name: str, sources: Sources, picked: Picked, chosen: Mapping[str, str] | None = None) -> Picked:
    """Return the picker with every variable of a dashboard asked in turn: the first answer is what Grafana shows.

    Where there is no Prometheus, what it would answer is what was `chosen`.
    """
    held: dict[str, Variable] = {}
    for raw in variables(load(name)):
        if raw["type"] == "datasource":
            continue
        now = replace(picked, variables=held)
        if isinstance(raw["query"], str) or sources.has_prometheus:
            options = _options(raw, sources, now)
        else:
            options = [(chosen or {}).get(raw["name"], expander.ALL)]
        if not options:
            raise WrongAnswerError(f"{name}: the variable {raw['name']} has no value")
        if raw.get("includeAll"):
            held[raw["name"]] = Variable([expander.ALL], multi=True, all_value=raw.get("allValue"))
        else:
            wanted = (chosen or {}).get(raw["name"], options[0])
            if wanted not in options:
                raise WrongAnswerError(f"{name}: the variable {raw['name']} has no value {wanted!r} but {options[:9]}")
            held[raw["name"]] = Variable([wanted])
    return replace(picked, variables=held)


def _options(raw: Mapping[str, Any], sources: Sources, picked: Picked) -> list[str]:
    query = raw["query"]
    if isinstance(query, str):
        table = sources.sql(query, picked)
        at = table.columns.index("__value") if "__value" in table.columns else 0
        return [str(row[at]) for row in table.rows]
    found = re.fullmatch(r"label_values\((.+), (\w+)\)", query["query"])
    if found is None:
        raise WrongAnswerError(f"not a query of a variable: {query}")
    series = sources.over_time(found[1], picked)
    return sorted({one["metric"][found[2]] for one in series if found[2] in one["metric"]})


def answer(panel: Panel, sources: Sources, picked: Picked) -> list[list[Series] | Table]:
    """Return the answers to a panel's queries. Raises WrongAnswerError."""
    return [_answer(panel, query, sources, _of_panel(panel, picked)) for query in panel.queries]


def statements(name: str, sources: Sources, last: float, chosen: Mapping[str, str]) -> dict[str, str]:
    """Return every SQL that opening a dashboard at its own range up to `last` asks, expanded, by variable or panel."""
    document = load(name)
    found = re.fullmatch(r"now-(\d+)([mh])", document["time"]["from"])
    if found is None:
        raise WrongAnswerError(f"{name}: its range is not a number of minutes or hours: {document['time']}")
    picked = Picked(last - int(found[1]) * {"m": 60, "h": 3600}[found[2]], last)
    held = pick(name, sources, picked, chosen)
    asked = {
        f"variable {raw['name']}": expander.mysql(raw["query"], held)
        for raw in variables(document)
        if raw["type"] != "datasource" and isinstance(raw["query"], str)
    }
    for panel in panels(document):
        for query in panel.queries:
            if query.source == "mysql":
                asked[panel.title] = expander.mysql(query.text, _of_panel(panel, held))
    return asked


def _of_panel(panel: Panel, picked: Picked) -> Picked:
    """Return the picker with the panel's own width and least interval."""
    return replace(
        picked,
        points=int(panel.raw.get("maxDataPoints") or picked.points),
        minimum_seconds=5 if panel.raw.get("interval") == "5s" else 1,
    )


def _answer(panel: Panel, query: Query, sources: Sources, picked: Picked) -> list[Series] | Table:
    where = f"{panel.title}, query {query.ref}"
    if query.source == "mysql":
        table = sources.sql(query.text, picked)
        if query.form == "table":
            _judge_table(where, panel, table)
            return table
        series = _series_of(where, table)
    elif query.form == "table":
        return _vector(where, panel, query, sources.instant(query.text, picked))
    else:
        series = [
            Series(_legend(where, query.legend, one["metric"]), *_points(one))
            for one in sources.over_time(query.text, picked)
        ]
    _judge_series(where, panel.unit, series)
    return series


def _points(one: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    finite = [(at, float(value)) for at, value in one["values"] if math.isfinite(float(value))]
    return [at for at, _ in finite], [value for _, value in finite]


def _legend(where: str, legend: str, labels: Mapping[str, str]) -> str:
    missing = [name for name in _LABEL.findall(legend) if name not in labels]
    if missing:
        raise WrongAnswerError(f"{where}: the legend names {missing}, the series has {sorted(labels)}")
    return _LABEL.sub(lambda found: labels[found[1]], legend)


def _vector(where: str, panel: Panel, query: Query, vector: Sequence[Mapping[str, Any]]) -> Table:
    """Return an instant query's column, beside the labels that its panel shows."""
    names = list(dict.fromkeys(name for one in vector for name in one["metric"]))
    unknown = [name for name in names if name not in panel.overrides]
    if unknown:
        raise WrongAnswerError(f"{where}: no column {unknown} in the panel")
    rows = [(*(one["metric"].get(name, "") for name in names), float(one["value"][1])) for one in vector]
    table = Table([*names, query.legend], rows)
    _judge_column(where, panel.overrides.get(query.legend, {}).get("unit", panel.unit), [row[-1] for row in rows])
    return table


def _series_of(where: str, table: Table) -> list[Series]:
    """Return a time series query's rows as Grafana does: `time`, then names in `metric`, or a column each."""
    if table.columns[0] != "time":
        raise WrongAnswerError(f"{where}: the first column is {table.columns[0]}, not time")
    lines: dict[str, tuple[list[float], list[float]]] = {}
    named = table.columns[1] == "metric"
    before = -math.inf
    for row in table.rows:
        if row[0] < before:
            raise WrongAnswerError(f"{where}: times do not ascend")
        before = row[0]
        for column in range(2 if named else 1, len(row)):
            if row[column] is not None:
                name = row[1] if named else table.columns[column]
                times, values = lines.setdefault(name, ([], []))
                times.append(float(row[0]))
                values.append(float(row[column]))
    return [Series(name, *points) for name, points in lines.items()]


def _judge_series(where: str, unit: str, series: Sequence[Series]) -> None:
    if not any(one.values for one in series):
        raise WrongAnswerError(f"{where}: shows nothing")
    for one in series:
        _judge_values(f"{where}, {one.name}", unit, one.values)


def _judge_table(where: str, panel: Panel, table: Table) -> None:
    if not table.rows:
        raise WrongAnswerError(f"{where}: shows nothing")
    unknown = set(panel.overrides) - set(table.columns)
    if unknown:
        raise WrongAnswerError(f"{where}: no column {sorted(unknown)}; there are {table.columns}")
    for number, name in enumerate(table.columns):
        unit = panel.overrides.get(name, {}).get("unit", panel.unit)
        _judge_column(f"{where}, {name}", unit, [row[number] for row in table.rows if row[number] is not None])


def _judge_column(where: str, unit: str, values: Sequence[object]) -> None:
    if not values:
        raise WrongAnswerError(f"{where}: shows nothing")
    if unit == "string":
        wrong = [value for value in values if not isinstance(value, str)]
        if wrong:
            raise WrongAnswerError(f"{where}: {wrong[0]!r} is no text")
        return
    wrong = [value for value in values if isinstance(value, (str, bytes, date, datetime))]
    if wrong:
        raise WrongAnswerError(f"{where}: {wrong[0]!r} is no number")
    _judge_values(where, unit, [float(value) for value in values if isinstance(value, (int, float, Decimal))])


def _judge_values(where: str, unit: str, values: Sequence[float]) -> None:
    wrong = [value for value in values if math.isfinite(value) and not UNITS[unit](value)]
    if wrong:
        raise WrongAnswerError(f"{where}: {wrong[0]} cannot be {unit}")
