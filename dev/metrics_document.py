"""docs/metrics.md: its tables written from the code that exposes the metrics; the prose around and in them stays.

`python -m dev.metrics_document` rewrites the tables in place: which metrics there are, their types, labels and units
come from the code, in a table's order new ones at the end. What a metric means and how it counts is written by people
in the document itself; a new metric begins with its HELP text there. `--check` only says whether something differs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families

from bridge_ws.grafana_live import GrafanaMetrics
from bridge_ws.metrics import Metrics as BridgeMetrics
from exporter.push.metrics import PushMetrics, SpoolCollector
from exporter.push.spool import Depth
from exporter.rules.live import LiveRules
from exporter.rules.settings import RuleSettings
from ingest.contract.metrics import Metrics as IngestMetrics
from ingest.contract.wire import Feed

REPOSITORY: Final = Path(__file__).parent.parent
DOCUMENT: Final = REPOSITORY / "docs" / "metrics.md"
GOLDEN: Final = REPOSITORY / "exporter" / "tests" / "golden" / "metrics.prom"
"""A whole scrape of the exporter; a test holds it to the code byte for byte."""
EXPERIMENTAL: Final[frozenset[str]] = frozenset(
    {"latido_cpu_unattributed_seconds_total", "latido_bridge_grafana_replaced_points_total"}
)
"""What may still change its name, type or labels in a version that is not a major one."""

_TABLE: Final = re.compile(
    r"^\| Metric \| Type \| Unit \| Labels \| Meaning \|\n\|(?:-+\|){5}\n((?:^\|.*\|\n)*)", re.MULTILINE
)
_ROW: Final = re.compile(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|[^|]*\| ((?:[^|\\]|\\.)+) \|$")
_MARK: Final = "*Experimental.* "
_UNITS: Final = (("_seconds", "seconds"), ("_bytes", "bytes"))
HEAD: Final = "| Metric | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n"


@dataclass(frozen=True)
class Described:
    """A metric as code exposes it; of a counter the name of its samples."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


def _exporter() -> Iterable[Metric]:
    return text_string_to_metric_families(GOLDEN.read_text(encoding="utf-8"))


def _push() -> Iterable[Metric]:
    registry = CollectorRegistry()
    metrics = PushMetrics(registry, ["http://127.0.0.1:10111"])
    metrics.requests.labels("http://127.0.0.1:10111", "201")
    depth = Depth(0, 0, 0, {("http://127.0.0.1:10111", Feed.RAM): 0}, 0)
    registry.register(SpoolCollector(lambda: depth, lambda: 0.0))
    return registry.collect()


def _bridge() -> Iterable[Metric]:
    registry = CollectorRegistry()
    BridgeMetrics(registry)
    return registry.collect()


def _grafana() -> Iterable[Metric]:
    registry = CollectorRegistry()
    GrafanaMetrics(registry)
    return registry.collect()


def _ingest() -> Iterable[Metric]:
    registry = CollectorRegistry()
    IngestMetrics(registry, "raw", "1").request(Feed.RAM, 503)
    return registry.collect()


def _rules() -> Iterable[Metric]:
    registry = CollectorRegistry()
    LiveRules(RuleSettings(None, False, Path("/")), Path("/proc")).register(registry)
    return registry.collect()


SECTIONS: Final[Mapping[str, Callable[[], Iterable[Metric]]]] = {
    "Exporter: the machine and its processes": _exporter,
    "Exporter: push and spool": _push,
    "Exporter: its group rules": _rules,
    "Bridge": _bridge,
    "Bridge: Grafana Live": _grafana,
    "Ingest APIs": _ingest,
}
"""Each section of the document that has a table, and what it lists."""


def described(families: Iterable[Metric]) -> list[Described]:
    """Return the metrics of a collection, by the names that a query uses."""
    found = []
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found.append(Described(name, family.type, tuple(sorted(labels)), family.documentation))
    return found


def rewritten(document: str) -> str:
    """Return the document with its tables written anew. Raises ValueError naming a section that is missing."""
    for title, collect in SECTIONS.items():
        heading = f"\n## {title}\n"
        start = document.find(heading)
        table = _TABLE.search(document, start + len(heading)) if start >= 0 else None
        end = document.find("\n## ", start + len(heading)) if start >= 0 else -1
        if table is None or (end >= 0 and table.start() > end):
            raise ValueError(f"{DOCUMENT.name}: expected a section {title!r} with a table of metrics")
        rows = _rows(table[1].splitlines(), described(collect()))
        document = document[: table.start()] + HEAD + "".join(f"{row}\n" for row in rows) + document[table.end() :]
    return document


def _rows(lines: Sequence[str], metrics: Sequence[Described]) -> list[str]:
    by_name = {metric.name: metric for metric in metrics}
    written: dict[str, tuple[str, str]] = {}
    for line in lines:
        match = _ROW.match(line)
        if match is None:
            raise ValueError(f"{DOCUMENT.name}: not a row of a table of metrics: {line!r}")
        if match[1] in by_name:
            written[match[1]] = (match[2].strip(), match[3].removeprefix(_MARK))
    for metric in metrics:
        written.setdefault(metric.name, ("", metric.help.replace("|", "\\|")))
    return [_row(by_name[name], unit, meaning) for name, (unit, meaning) in written.items()]


def _row(metric: Described, unit: str, meaning: str) -> str:
    bare = metric.name.removesuffix("_total")
    unit = next((name for suffix, name in _UNITS if bare.endswith(suffix)), unit)
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    mark = _MARK if metric.name in EXPERIMENTAL else ""
    cells = (f"`{metric.name}`", metric.type, unit, labels, mark + meaning)
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the document, or say how it differs; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.metrics_document", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether the document differs from the code")
    given = parser.parse_args(argv)
    before = DOCUMENT.read_text(encoding="utf-8")
    try:
        after = rewritten(before)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if given.check:
        return int(before != after)
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
