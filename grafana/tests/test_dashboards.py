"""The committed dashboards: what the builders make, well-formed, complete, and about metrics that there are."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from exporter.groups import MAX_GROUPS
from grafana.builders.all import DASHBOARDS, OUTPUT, text
from grafana.builders.board import TITLES
from grafana.builders.thresholds import thresholds
from grafana.checks import dashboards, rules
from grafana.checks.dashboards import load, panels

PROVISIONING = OUTPUT.parent / "provisioning"

KEPT_BY_PROMETHEUS = {"up", "scrape_samples_scraped", "scrape_duration_seconds", "ALERTS"}
"""Series that Prometheus makes of every scrape and rule."""

every = pytest.mark.parametrize("name", dashboards.NAMES)


def test_every_committed_file_is_a_dashboard_of_the_builders() -> None:
    assert {f"{name}.json" for name in DASHBOARDS} == {path.name for path in OUTPUT.iterdir()}
    assert set(dashboards.NAMES) == set(DASHBOARDS)


@every
def test_what_is_committed_is_what_the_builders_make(name: str) -> None:
    """`python -m grafana.builders` writes it."""
    assert text(DASHBOARDS[name]()) == (OUTPUT / f"{name}.json").read_text(encoding="utf-8")


@every
def test_it_parses_as_the_sdk_s_types_and_loses_nothing_there(name: str) -> None:
    register_default_plugins()
    document = load(name)
    again = json.loads(text(Dashboard.from_json(document)))
    for raw in document["annotations"]["list"]:
        for beyond in ("titleFormat", "textFormat", "step", "useValueForTime"):
            del raw[beyond]  # Grafana's Prometheus data source has them, the SDK's type has not
    assert document == again


def test_uids_are_unique_and_stay() -> None:
    """Bookmarks and links go by them: a new dashboard adds one, none changes."""
    expected = {
        "fleet": "latido-fleet",
        "host": "latido-host",
        "moment": "latido-moment",
        "pipeline": "latido-pipeline",
        "compare": "latido-compare",
    }
    assert expected == {name: load(name)["uid"] for name in DASHBOARDS}


@every
def test_panels_do_not_overlap_and_fill_their_lines(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    document = load(name)
    numbers = [raw["id"] for raw in document["panels"]]
    assert sorted(set(numbers)) == numbers
    for raw in document["panels"]:
        place = raw["gridPos"]
        assert place["x"] + place["w"] <= 24, raw["title"]
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert (x, y) not in taken, f"{raw['title']} lies on {taken.get((x, y))}"
            taken[x, y] = raw["title"]
    # no holes: where a line begins it is full
    for y in {y for _, y in taken}:
        assert 24 == sum(1 for x in range(24) if (x, y) in taken), f"line {y}"


@every
def test_every_panel_says_what_it_shows(name: str) -> None:
    titles = [panel.title for panel in panels(load(name))]
    assert sorted(set(titles)) == sorted(titles)
    for panel in panels(load(name)):
        assert len(panel.raw["description"]) > 10, panel.title
        assert panel.unit, panel.title
        if panel.kind == "timeseries":
            assert panel.raw["options"]["legend"]["showLegend"] is True, panel.title
        for query in panel.queries:
            assert query.legend or query.source == "mysql", panel.title
            assert query.source == {"mysql": "mysql", "prometheus": "prometheus"}[panel.raw["datasource"]["type"]]
            assert panel.raw["datasource"]["uid"] == "${" + query.source + "}"


def named(expression: str) -> set[str]:
    """Return the series that an expression names."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    bare = re.sub(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "{}", bare)
    words = set(re.findall(r"[a-zA-Z_][\w:]*", re.sub(r"\[[^\]]*\]", "", bare)))
    return {
        word for word in words if ":" in word or word.startswith(("latido_", "process_", "scrape_")) or word == "up"
    }


def known(repository: Path) -> set[str]:
    """Return every series that is documented, which other tests hold to golden and real scrapes, or recorded."""
    documented = re.findall(
        r"^\| `(\w+)` \| (\w+) \|", (repository / "docs/metrics.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    found = {name for name, _ in documented} | set(rules.records()) | KEPT_BY_PROMETHEUS
    for name, kind in documented:
        if kind == "histogram":
            found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return found


def golden(repository: Path) -> set[str]:
    """Return the names of the exporter's golden scrape."""
    scrape = (repository / "exporter/tests/golden/metrics.prom").read_text(encoding="utf-8")
    return set(re.findall(r"^(latido_\w+)", scrape, re.MULTILINE))


def test_the_cardinality_budget_is_that_of_the_golden_scrape(repository: Path) -> None:
    """`docs/dashboards.md` reckons with so many series a group, a CPU and a host."""
    scrape = (repository / "exporter/tests/golden/metrics.prom").read_text(encoding="utf-8")
    series = [line for line in scrape.splitlines() if line and not line.startswith("#")]
    of = {
        label: [match[1] for line in series if (match := re.search(rf'[{{,]{label}="([^"]*)"', line))]
        for label in ("group", "cpu")
    }
    most = {label: max(values.count(value) for value in set(values)) for label, values in of.items()}
    text = (repository / "docs/dashboards.md").read_text(encoding="utf-8")
    budget = re.search(r"series of a host ≤ (\d+) . groups \((\d+) by default\) \+ (\d+) . CPUs \+ (\d+)", text)
    assert budget is not None
    group, groups, cpu, rest = (int(number) for number in budget.groups())
    assert {"group": group, "cpu": cpu} == most
    assert MAX_GROUPS == groups
    assert len(series) - len(of["group"]) - len(of["cpu"]) <= rest
    assert f"{group * groups + cpu * 8 + rest:,}" in text


def test_the_reader_of_expressions_finds_names() -> None:
    text = 'sum by (host) (rate(latido_x_total{mode="latido_no"}[5m])) / on (latido_label) host:latido_y:ratio > up'
    assert {"latido_x_total", "host:latido_y:ratio", "up"} == named(text)


@every
def test_every_metric_that_is_asked_for_exists(name: str, repository: Path) -> None:
    document = load(name)
    asked = {
        series
        for query in [*(query for panel in panels(document) for query in panel.queries), *dashboards.marks(document)]
        if query.source == "prometheus"
        for series in named(query.text)
    }
    assert asked
    assert set() == asked - known(repository)
    machine = {series for series in asked if re.match(r"latido_(group|cpu|memory|swap|load|process)", series)}
    assert set() == machine - golden(repository)


def test_every_metric_of_the_rules_exists(repository: Path) -> None:
    expressions = [*rules.records().values(), *(alert["expr"] for alert in rules.alerts().values())]
    asked = set().union(*(named(expression) for expression in expressions))
    assert set() == asked - known(repository)


UNIT_OF = {
    "bytes": re.compile(r"_bytes$"),
    "binBps": re.compile(r"_bytes_total$"),
    "s": re.compile(
        r"_seconds(_bucket|_sum|_count|_total)?$|:(seconds|p99)_?\w*$|latido_ingest_rows_total|process_cpu_seconds_total"
    ),
    "cps": re.compile(r"_total$"),
}
"""By unit of a panel, what the metrics of its queries are called."""


@every
def test_units_are_those_of_the_metrics(name: str) -> None:
    for panel in panels(load(name)):
        for query in panel.queries:
            unit = panel.overrides.get(query.legend, {}).get("unit", panel.unit)
            if query.source != "prometheus" or unit not in UNIT_OF:
                continue
            wrong = {series for series in named(query.text) if not UNIT_OF[unit].search(series)}
            assert set() == wrong, f"{panel.title} is in {unit}"


@every
def test_every_variable_is_used(name: str) -> None:
    document = load(name)
    names = [raw["name"] for raw in dashboards.variables(document)]
    for variable in names:
        rest = text_without_definition(document, variable)
        assert re.search(rf"\$\{{?{variable}\b", rest), f"{variable} is not used"


def text_without_definition(document: dict[str, Any], variable: str) -> str:
    kept = [raw for raw in dashboards.variables(document) if raw["name"] != variable]
    return str({**document, "templating": {"list": kept}})


def test_links_lead_to_dashboards_and_variables_that_there_are() -> None:
    for name in DASHBOARDS:
        document = load(name)
        others = {link["url"].removeprefix("/d/") for link in document["links"]}
        assert set(TITLES) - {document["uid"]} == others
        for uid, variable in re.findall(r"/d/([\w-]+)\?var-(\w+)=", str(document)):
            (target,) = (load(other) for other in DASHBOARDS if load(other)["uid"] == uid)
            assert variable in {raw["name"] for raw in dashboards.variables(target)}


def test_colours_turn_red_where_an_alert_fires() -> None:
    (busy,) = (panel for panel in panels(load("host")) if panel.title == "CPU busy")
    steps = busy.raw["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert [(None, "green"), (0.8, "orange"), (thresholds()["host_cpu_busy_ratio"], "red")] == [
        (step["value"], step["color"]) for step in steps
    ]
    assert {name.split(":")[1] for name in rules.records() if name.endswith(":threshold")} == set(thresholds())


def provisioned(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((PROVISIONING / name).read_text(encoding="utf-8"))
    return document


def test_secrets_come_from_the_environment() -> None:
    sources = provisioned("datasources/latido.yml")["datasources"]
    assert {"prometheus", "mysql"} == {source["type"] for source in sources}
    (mysql,) = (source for source in sources if source["type"] == "mysql")
    assert "$LATIDO_GRAFANA_DB_PASSWORD" == mysql["secureJsonData"]["password"]
    assert "$LATIDO_GRAFANA_DB_USER" == mysql["user"]
    assert "+00:00" == mysql["jsonData"]["timezone"]


def test_dashboards_are_provisioned_into_one_folder() -> None:
    (provider,) = provisioned("dashboards/latido.yml")["providers"]
    assert ("Latido", False) == (provider["folder"], provider["allowUiUpdates"])


def test_alerts_of_grafana_have_their_place_in_the_runbook(repository: Path) -> None:
    runbook = (repository / "prometheus/RUNBOOK.md").read_text(encoding="utf-8")
    groups = provisioned("alerting/latido.yml")["groups"]
    alerts = [rule for group in groups for rule in group["rules"]]
    assert len({rule["uid"] for rule in alerts}) == len(alerts) >= 4
    sources = {source["uid"] for source in provisioned("datasources/latido.yml")["datasources"]}
    for rule in alerts:
        assert f"### {rule['title']}\n" in runbook
        anchor = rule["title"].lower().replace(" ", "-")
        assert rule["annotations"]["runbook_url"].endswith(f"RUNBOOK.md#{anchor}")
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["condition"] in {data["refId"] for data in rule["data"]}
        assert {data["datasourceUid"] for data in rule["data"]} <= {*sources, "__expr__"}
