"""What panels share: data sources, queries, units, colours, legends. A panel says its question, unit and queries.

Colours mean the same everywhere: green is well, orange is worth a look, red is where an alert fires. What an alert
compares with is drawn as a dashed line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table
from grafana_foundation_sdk.builders import timeseries as lines
from grafana_foundation_sdk.cog import variants
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.builders.thresholds import thresholds

PROMETHEUS: Final = model.DataSourceRef(type_val="prometheus", uid="${prometheus}")
MYSQL: Final = model.DataSourceRef(type_val="mysql", uid="${mysql}")

PERCENT: Final = "percentunit"
BYTES: Final = "bytes"
BYTES_PER_SECOND: Final = "binBps"
SECONDS: Final = "s"
PER_SECOND: Final = "cps"
COUNT: Final = "short"
TEXT: Final = "string"
TIME: Final = "dateTimeAsIso"

GOOD, WATCH, BAD = "green", "orange", "red"
"""`GOOD` up to a threshold, `BAD` beyond it."""

REFS: Final = "ABCDEFGHIJKLMNOP"


@dataclass(frozen=True)
class Prom:
    """A PromQL query. `legend` names its series; in tables it is the column's title."""

    expr: str
    legend: str
    instant: bool = False


@dataclass(frozen=True)
class Sql:
    """A MySQL query: a table, or series in the columns `time`, `metric` and one value."""

    sql: str
    format: Literal["table", "time_series"] = "table"


@dataclass(frozen=True)
class Limit:
    """Where colours change: at an alert's threshold, and at a share of it that is worth a look."""

    name: str
    warn: float
    below: bool = False

    @property
    def value(self) -> float:
        """What the alert compares with."""
        return thresholds()[self.name]

    def steps(self) -> list[model.Threshold]:
        """Return the colours from the smallest value up."""
        if self.below:
            return _steps((None, BAD), (self.value, WATCH), (self.warn, GOOD))
        return _steps((None, GOOD), (self.warn, WATCH), (self.value, BAD))


@dataclass(frozen=True)
class Column:
    """A column of a table: its unit, and how its cells are coloured."""

    unit: str
    limit: Limit | None = None
    steps: Sequence[tuple[float | None, str]] = ()
    link: str = ""
    width: int = 0
    bar: bool = False
    decimals: int | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    """Colours of words."""


class MysqlQuery(variants.Dataquery, Builder["MysqlQuery"]):
    """A query of Grafana's MySQL data source, of which the SDK has no builder."""

    def __init__(self, query: Sql, ref: str) -> None:
        """Take the query and the letter that names it in its panel."""
        self.query = query
        self.ref = ref

    def build(self) -> MysqlQuery:
        """Return itself: it is its own builder."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return what Grafana keeps of it."""
        return {
            "datasource": MYSQL,
            "editorMode": "code",
            "format": self.query.format,
            "rawQuery": True,
            "rawSql": self.query.sql,
            "refId": self.ref,
        }


class AnyPanel(Protocol):
    """What the SDK's panel builders have in common, as far as it is used here."""

    def build(self) -> model.Panel:
        """Return the panel."""


def timeseries(
    title: str,
    description: str,
    unit: str,
    *queries: Prom | Sql,
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    limit: Limit | None = None,
    maximum: float | None = None,
    colors: Mapping[str, str] | None = None,
    legend_below: bool = False,
) -> lines.Panel:
    """Return lines over time; `stacked` where they add up to a whole."""
    legend = common.VizLegendOptions().show_legend(True).calcs(["lastNotNull", "max"])
    legend = legend.display_mode(shapes.LegendDisplayMode.LIST if legend_below else shapes.LegendDisplayMode.TABLE)
    legend = legend.placement(shapes.LegendPlacement.BOTTOM if legend_below else shapes.LegendPlacement.RIGHT)
    if not legend_below:
        legend = legend.sort_by("Last *").sort_desc(True)
    panel = (
        lines.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(width)
        .height(height)
        .min(0)
        .draw_style(shapes.GraphDrawStyle.LINE)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(shapes.VisibilityMode.NEVER)
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING))
    )
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if maximum is not None:
        panel = panel.max(maximum)
    if limit is not None:
        panel = panel.thresholds(_thresholds(_steps((None, "transparent"), (limit.value, BAD))))
        panel = panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED))
    for name, color in (colors or {}).items():
        fixed = model.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": color})
        panel = panel.override_by_name(name, [fixed])
    if isinstance(queries[0], Sql):
        panel = panel.interval("5s").max_data_points(300)
    panel = panel.datasource(_source(queries))
    for query, ref in zip(queries, REFS, strict=False):
        panel = panel.with_target(_target(query, ref))
    return panel


def stat_panel(
    title: str,
    description: str,
    unit: str,
    *queries: Prom | Sql,
    width: int = 4,
    height: int = 4,
    limit: Limit | None = None,
    steps: Sequence[tuple[float | None, str]] = (),
    mappings: Sequence[model.ValueMapping] = (),
    words: bool = False,
    decimals: int | None = None,
    name: bool = False,
) -> stat.Panel:
    """Return one number, large, on the colour of its state; `words` shows a text column instead."""
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)
    if words:
        reduce = reduce.fields("/.*/")
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(width)
        .height(height)
        .color_mode(
            shapes.BigValueColorMode.BACKGROUND if limit or steps or mappings else shapes.BigValueColorMode.NONE
        )
        .graph_mode(shapes.BigValueGraphMode.NONE if words else shapes.BigValueGraphMode.AREA)
        .text_mode(shapes.BigValueTextMode.VALUE_AND_NAME if name else shapes.BigValueTextMode.VALUE)
        .reduce_options(reduce)
        .thresholds(_thresholds(limit.steps() if limit else _steps(*(steps or ((None, "text"),)))))
        .datasource(_source(queries))
    )
    if mappings:
        panel = panel.mappings(list(mappings))
    if decimals is not None:
        panel = panel.decimals(decimals)
    for query, ref in zip(queries, REFS, strict=False):
        panel = panel.with_target(_target(query, ref))
    return panel


def bars(
    title: str,
    description: str,
    unit: str,
    *queries: Prom,
    width: int = 12,
    height: int = 8,
    limit: Limit | None = None,
) -> bargauge.Panel:
    """Return a bar for each series, by its last value."""
    panel = (
        bargauge.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .span(width)
        .height(height)
        .min(0)
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .value_mode(shapes.BarGaugeValueMode.TEXT)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(_thresholds(limit.steps() if limit else _steps((None, "blue"))))
        .datasource(_source(queries))
    )
    for query, ref in zip(queries, REFS, strict=False):
        panel = panel.with_target(_target(query, ref))
    return panel


def table_panel(
    title: str,
    description: str,
    columns: Mapping[str, Column],
    *queries: Prom | Sql,
    width: int = 24,
    height: int = 9,
    sort: str = "",
    descending: bool = True,
    by: str = "",
    empty: str = "",
) -> table.Panel:
    """Return a table. Of PromQL queries each is a column, named by its legend, and rows are joined on labels `by`.

    Where no row is as it should be, `empty` says so.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .unit(COUNT)
        .span(width)
        .height(height)
        .filterable(True)
        .cell_height(shapes.TableCellHeight.SM)
        .thresholds(_thresholds(_steps((None, "text"))))
        .datasource(_source(queries))
    )
    if empty:
        panel = panel.no_value(empty)
    for name, column in columns.items():
        panel = panel.override_by_name(name, _cells(column))
    if sort:
        panel = panel.sort_by([common.TableSortByFieldState().display_name(sort).desc(descending)])
    if by:
        panel = _joined(panel, by, [query for query in queries if isinstance(query, Prom)])
    for query, ref in zip(queries, REFS, strict=False):
        panel = panel.with_target(_target(query, ref, table_format=True))
    return panel


def _joined(panel: table.Panel, by: str, queries: Sequence[Prom]) -> table.Panel:
    """Join one frame a query on the label, and give each value the name of its query."""
    labels = [label.strip() for label in by.split(",")]
    hidden = {"Time": True, **{f"Time {number}": True for number in range(1, len(queries) + 1)}}
    value = "Value" if len(queries) == 1 else None
    renamed = {value or f"Value #{ref}": query.legend for query, ref in zip(queries, REFS, strict=False)}
    order = [*labels, *(value or f"Value #{ref}" for _, ref in zip(queries, REFS, strict=False))]
    if len(queries) > 1:
        panel = panel.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    return panel.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": hidden,
                "renameByName": renamed,
                "indexByName": {name: number for number, name in enumerate(order)},
            },
        )
    )


def _cells(column: Column) -> list[model.DynamicConfigValue]:
    found = [model.DynamicConfigValue("unit", column.unit)]
    if column.limit or column.steps:
        steps = column.limit.steps() if column.limit else _steps(*column.steps)
        found.append(model.DynamicConfigValue("thresholds", model.ThresholdsConfig(steps=steps)))
        if not column.bar:
            found.append(model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if column.bar:
        found.append(model.DynamicConfigValue("custom.cellOptions", {"type": "gauge", "mode": "basic"}))
        found.append(model.DynamicConfigValue("min", 0))
    if column.bar and column.unit == PERCENT:
        found.append(model.DynamicConfigValue("max", 1))
    if column.words:
        found.append(
            model.DynamicConfigValue("mappings", [words({word: (word, color) for word, color in column.words.items()})])
        )
        found.append(model.DynamicConfigValue("custom.cellOptions", {"type": "color-text"}))
    if column.link:
        found.append(model.DynamicConfigValue("links", [{"title": "open", "url": column.link}]))
    if column.width:
        found.append(model.DynamicConfigValue("custom.width", column.width))
    if column.decimals is not None:
        found.append(model.DynamicConfigValue("decimals", column.decimals))
    return found


def _target(query: Prom | Sql, ref: str, *, table_format: bool = False) -> Builder[variants.Dataquery]:
    if isinstance(query, Sql):
        return MysqlQuery(query, ref)
    target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(ref).datasource(PROMETHEUS)
    if table_format:
        return target.instant().format(PromQueryFormat.TABLE)
    return target.instant() if query.instant else target.range()


def _source(queries: Sequence[Prom | Sql]) -> model.DataSourceRef:
    return MYSQL if isinstance(queries[0], Sql) else PROMETHEUS


def _steps(*steps: tuple[float | None, str]) -> list[model.Threshold]:
    return [model.Threshold(value=value, color=color) for value, color in steps]


def _thresholds(steps: list[model.Threshold]) -> dashboard.ThresholdsConfig:
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


def words(mapping: Mapping[str, tuple[str, str]]) -> model.ValueMapping:
    """Return a mapping of values to a word and a colour."""
    results = {
        value: model.ValueMappingResult(text=text, color=color, index=number)
        for number, (value, (text, color)) in enumerate(mapping.items())
    }
    return model.ValueMap(options=results)


def between(low: float | None, high: float | None, text: str, color: str) -> model.ValueMapping:
    """Return a mapping of a range of values to a word and a colour."""
    result = model.ValueMappingResult(text=text, color=color)
    return model.RangeMap(options=model.DashboardRangeMapOptions(from_val=low, to=high, result=result))


@dataclass(frozen=True)
class Row:
    """Panels under a title, from left to right; a line is full at 24 columns."""

    title: str
    panels: Sequence[AnyPanel] = field(default_factory=tuple)
