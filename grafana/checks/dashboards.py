"""The committed dashboards as what they ask: panels, queries, variables, annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana.builders.all import OUTPUT

NAMES: Final = ("fleet", "host", "moment", "pipeline", "compare")


@dataclass(frozen=True)
class Query:
    """One query of a panel, an annotation or a variable; `legend` is its series' name, or its column's."""

    source: str
    text: str
    legend: str = ""
    form: str = "table"
    ref: str = "A"


@dataclass(frozen=True)
class Panel:
    """A panel: its looks as Grafana keeps them, and what it asks."""

    title: str
    kind: str
    unit: str
    queries: Sequence[Query]
    raw: Mapping[str, Any]

    @property
    def overrides(self) -> dict[str, dict[str, Any]]:
        """What is said of single columns or series, by their name."""
        return {
            override["matcher"]["options"]: {item["id"]: item.get("value") for item in override["properties"]}
            for override in self.raw["fieldConfig"].get("overrides", [])
        }


def load(name: str) -> dict[str, Any]:
    """Return a dashboard as committed."""
    document: dict[str, Any] = json.loads((OUTPUT / f"{name}.json").read_text(encoding="utf-8"))
    return document


def panels(document: Mapping[str, Any]) -> Iterator[Panel]:
    """Yield every panel that is not a row."""
    for raw in document["panels"]:
        if raw["type"] != "row":
            unit = raw["fieldConfig"]["defaults"].get("unit", "")
            yield Panel(raw["title"], raw["type"], unit, [_query(target) for target in raw["targets"]], raw)


def marks(document: Mapping[str, Any]) -> Iterator[Query]:
    """Yield the queries of marks."""
    for raw in document["annotations"]["list"]:
        yield Query("prometheus", raw["expr"], raw["name"])


def variables(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the variables in the order in which they are asked."""
    found: list[dict[str, Any]] = document["templating"]["list"]
    return found


def _query(target: Mapping[str, Any]) -> Query:
    source = target["datasource"]["type"]
    if source == "mysql":
        return Query(source, target["rawSql"], "", target["format"], target["refId"])
    return Query(
        source, target["expr"], target.get("legendFormat", ""), target.get("format", "time_series"), target["refId"]
    )
