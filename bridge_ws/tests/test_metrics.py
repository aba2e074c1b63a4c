"""The bridge's own metrics: documented, clean to promtool, and true."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bridge_ws.tests.rig import Writer, client, now_ms
from bridge_ws.tests.samples import ram
from dev.program import Program
from dev.waiting import wait_until
from latido.settings import Dsn

Start = Callable[..., Program]


def test_metrics_are_documented_and_nothing_else_is(database: Dsn, start_bridge: Start, repository: Path) -> None:
    """docs/metrics.md, its section of the bridge: name, type and labels equal those of a scrape."""
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = next(part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith("Bridge\n"))
    rows = re.findall(r"^\| `(latido_\w+)` \| (\w+) \|[^|]*\|([^|]*)\| [^|]+ \|$", section, flags=re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in text_string_to_metric_families(start_bridge(database).get("/metrics")[1])
    }
    assert documented == exposed


def test_promtool_finds_nothing(database: Dsn, start_bridge: Start, promtool: Path) -> None:
    scrape = start_bridge(database).get("/metrics")[1]
    done = subprocess.run([promtool, "check", "metrics"], input=scrape, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


async def test_metrics_count_what_was_sent(database: Dsn, start_bridge: Start) -> None:
    writer, at = Writer(database), now_ms()
    writer.commit(ram(1, at))
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.sample(1, kind="snapshot")
        assert bridge.metric("latido_bridge_clients") == 1
        writer.commit(ram(3, at + 2000))
        await reader.sample(3)
        writer.commit(ram(2, at + 1000))
        await reader.sample(2)
    writer.close()
    await wait_until(lambda: bridge.metric('latido_bridge_closed_total{reason="client"}') == 1, "the client is gone")
    sent = {
        kind: bridge.metric(f'latido_bridge_frames_total{{type="{kind}"}}') for kind in ("hello", "snapshot", "sample")
    }
    assert sent == {"hello": 1, "snapshot": 1, "sample": 2}
    assert bridge.metric('latido_bridge_samples_total{feed="ram",late="false"}') == 1
    assert bridge.metric('latido_bridge_samples_total{feed="ram",late="true"}') == 1
    assert bridge.metric('latido_bridge_sample_age_seconds_count{feed="ram"}') == 1
    assert bridge.metric("latido_bridge_clients") == 0
    assert bridge.metric("latido_bridge_database_up") == 1
