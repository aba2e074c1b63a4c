"""A dashboard around its panels: data sources and hosts to pick, links to the others, alerts and restarts as marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as model

from grafana.builders import sql
from grafana.builders.panels import MYSQL, PROMETHEUS, AnyPanel, Row

TAG: Final = "latido"
COLUMNS: Final = 24

TITLES: Final = {
    "latido-fleet": "Latido: fleet",
    "latido-host": "Latido: host",
    "latido-moment": "Latido: what happened at…",
    "latido-pipeline": "Latido: pipeline",
    "latido-compare": "Latido: raw vs orm",
}
"""By uid, which never changes: links and bookmarks go by it."""


class Annotation(model.AnnotationQuery, Builder[model.AnnotationQuery]):
    """Marks of a PromQL query, with what the SDK's type leaves out: their names, and how often they are asked."""

    def __init__(self, name: str, expr: str, title: str, text: str, color: str) -> None:
        """Take the query and the templates of a mark's title and text."""
        super().__init__(name=name, datasource=PROMETHEUS, enable=True, icon_color=color, expr=expr)
        self._format = {"titleFormat": title, "textFormat": text, "step": "60s", "useValueForTime": False}

    def build(self) -> Annotation:
        """Return itself: it is its own builder."""
        return self

    def to_json(self) -> dict[str, object]:
        """Return what Grafana keeps of it."""
        return {**super().to_json(), **self._format}


def alerts(selector: str) -> Annotation:
    """Return marks where alerts fire; `selector` is a matcher that narrows them."""
    return Annotation(
        "Alerts",
        f'ALERTS{{alertstate="firing",alertname=~"Latido.*"{selector}}}',
        "{{alertname}}",
        "{{severity}} {{host}} {{group}} {{job}} {{instance}}",
        "red",
    )


def restarts(host: str) -> Annotation:
    """Return marks where an exporter, another program or a whole host began anew, however long it was away.

    Programs and hosts say when they began. An exporter does not: its counter begins at 0, which shows in a longer
    window for a while, so the mark is where the number of resets in it has just risen.
    """
    taken = f'latido_push_samples_taken_total{{feed="ram",host=~"{host}"}}'
    resets = f"resets({taken}[15m])"
    return Annotation(
        "Restarts",
        'time() - process_start_time_seconds{job=~"latido-.+"} < 120'
        f" or {resets} > (resets({taken}[15m] offset 2m) or 0 * {resets})"
        f' or time() - latido_boot_time_seconds{{host=~"{host}"}} < 300',
        "restart",
        "{{job}} {{host}} {{instance}}",
        "blue",
    )


def prometheus_source() -> dashboard.DatasourceVariable:
    """Return the choice of the Prometheus that is asked."""
    return dashboard.DatasourceVariable("prometheus").label("Prometheus").type("prometheus")


def mysql_source() -> dashboard.DatasourceVariable:
    """Return the choice of the database that is asked."""
    return dashboard.DatasourceVariable("mysql").label("MySQL").type("mysql")


def hosts(*, several: bool) -> dashboard.QueryVariable:
    """Return the choice of hosts that Prometheus knows."""
    query: dict[str, object] = {
        "query": "label_values(latido_boot_time_seconds, host)",
        "refId": "PrometheusVariableQueryEditor-VariableQuery",
    }
    variable = (
        dashboard.QueryVariable("host")
        .label("Host")
        .description("The name under which a host pushes its samples, the label `host` in Prometheus.")
        .query(query)
        .datasource(PROMETHEUS)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
    if several:
        everything = model.VariableOption(selected=True, text=["All"], value=["$__all"])
        variable = variable.multi(True).include_all(True).all_value(".+").current(everything)
    return variable


def stored_hosts() -> dashboard.QueryVariable:
    """Return the choice of hosts that the database knows."""
    return (
        dashboard.QueryVariable("host")
        .label("Host")
        .description("The name under which a host pushes its samples.")
        .query(sql.HOSTS)
        .datasource(MYSQL)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


class Hidden(dashboard.QueryVariable):
    """What queries need to know beforehand: asked when the range changes, never taken from the page's address."""

    def __init__(self, name: str, statement: str, description: str) -> None:
        """Take the statement whose one row holds the value."""
        super().__init__(name)
        self.description(description).query(statement).datasource(MYSQL)
        self.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).hide(model.VariableHide.HIDE_VARIABLE)
        self.allow_custom_value(False)
        self._internal.skip_url_sync = True


def streams() -> Hidden:
    """Return the database's numbers of the host's streams, as SQL takes them in `IN (…)`."""
    return Hidden("streams", sql.STREAMS, "The host's streams with samples in the range: hosts.id, comma separated.")


def table_of_moment() -> Hidden:
    """Return the condition that finds the rows of the process table at the end of the range."""
    return Hidden(
        "moment", sql.MOMENT, "Which rows are the table at the end of the range: the last keyframe and what followed."
    )


def board(
    uid: str,
    description: str,
    rows: Sequence[Row],
    *,
    variables: Sequence[Any],
    annotations: Sequence[Annotation],
    since: str,
    refresh: str,
) -> model.Dashboard:
    """Return a dashboard: rows of panels with ids in their order, and links to all others that keep time and host."""
    builder = (
        dashboard.Dashboard(TITLES[uid])
        .uid(uid)
        .description(description)
        .tags([TAG])
        .time(since, "now")
        .refresh(refresh)
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .variables(list(variables))
        .annotations(list(annotations))
    )
    for other, title in TITLES.items():
        if other != uid:
            link = dashboard.DashboardLink(title.removeprefix("Latido: ")).type(model.DashboardLinkType.LINK)
            builder = builder.link(link.url(f"/d/{other}").keep_time(True).include_vars(True).icon("dashboard"))
    number = 0
    for row in rows:
        number += 1
        builder = builder.with_row(dashboard.Row(row.title).id(number))
        for panel in row.panels:
            number += 1
            builder = builder.with_panel(_Placed(panel, number))
    return builder.build()


class _Placed(Builder[model.Panel]):
    """A panel with its number."""

    def __init__(self, panel: AnyPanel, number: int) -> None:
        self._panel = panel
        self._number = number

    def build(self) -> model.Panel:
        built = self._panel.build()
        built.id_val = self._number
        return built
