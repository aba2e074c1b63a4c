"""The push side's metrics are those that docs/metrics.md lists, and promtool has nothing to say of them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from exporter.push.metrics import PushMetrics, SpoolCollector
from exporter.push.spool import Depth
from ingest.contract.wire import Feed

API = "http://127.0.0.1:10111"


def exposition() -> str:
    """Return what an exporter exposes that has pushed once."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client leaves it without types
    registry = CollectorRegistry()
    metrics = PushMetrics(registry, [API])
    metrics.requests.labels(API, "201").inc()
    depth = Depth(2048, 3, 1_000, {(API, Feed.RAM): 3}, 1)
    registry.register(SpoolCollector(lambda: depth, lambda: 11.0))
    return generate_latest(registry).decode()


def test_metrics_are_documented_and_nothing_else_is(repository: Path) -> None:
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    (section,) = (part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith("Exporter: push and"))
    rows = re.findall(r"^\| `(latido_\w+)` \| (\w+) \|[^|]*\|([^|]*)\| [^|]+ \|$", section, flags=re.MULTILINE)
    documented = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    exposed = {
        sample.name: (family.type, frozenset(sample.labels))
        for family in text_string_to_metric_families(exposition())
        for sample in family.samples
    }
    assert exposed == documented


def test_the_age_of_the_oldest_sample_is_that_of_now() -> None:
    assert "latido_spool_oldest_sample_age_seconds 10.0\n" in exposition()


def test_promtool_has_nothing_to_say(promtool: Path) -> None:
    done = subprocess.run(
        [promtool, "check", "metrics"], input=exposition(), capture_output=True, text=True, check=False
    )
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
