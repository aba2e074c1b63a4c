"""Rules, their tests, the examples and the runbook: all clean, all there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.checks import rules

HERE = Path(__file__).parent
PROMETHEUS = HERE.parent
TOPICS = sorted({alert["topic"] for alert in rules.alerts().values()})


def run(promtool: Path, *arguments: str | Path) -> tuple[int, str]:
    """Return promtool's exit status and what it says."""
    done = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def cases(topic: str) -> list[dict[str, Any]]:
    """Return the tests of a topic."""
    document = yaml.safe_load((HERE / f"{topic}.test.yml").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = document["tests"]
    return found


def test_promtool_finds_the_rules_clean(promtool: Path) -> None:
    status, said = run(promtool, "check", "rules", *sorted((PROMETHEUS / "rules").glob("*.yml")))
    assert 0 == status, said
    assert "FAILED" not in said


@pytest.mark.parametrize("topic", TOPICS)
def test_alerts_fire_and_resolve_as_promtool_plays_them(promtool: Path, topic: str) -> None:
    status, said = run(promtool, "test", "rules", HERE / f"{topic}.test.yml")
    assert 0 == status, said


@pytest.mark.parametrize("topic", TOPICS)
def test_every_alert_is_played_quiet_firing_and_resolved(topic: str) -> None:
    played = {}
    for case in cases(topic):
        steps = [bool(step["exp_alerts"]) for step in case["alert_rule_test"]]
        played[case["alert_rule_test"][0]["alertname"]] = steps
    expected = {name: [False, True, False] for name, alert in rules.alerts().items() if alert["topic"] == topic}
    assert expected == played


def test_every_alert_says_what_to_do() -> None:
    runbook = (PROMETHEUS / "RUNBOOK.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", runbook, re.MULTILINE | re.DOTALL))
    for name, alert in rules.alerts().items():
        assert {"summary", "description", "runbook_url"} == set(alert["annotations"]), name
        assert alert["labels"]["severity"] in {"critical", "warning"}, name
        assert alert["annotations"]["runbook_url"].endswith(f"/RUNBOOK.md#{name.lower()}")
        for part in ("**Means.**", "**Look.**", "**Do.**"):
            assert part in sections[name], name
    assert set() == {name for name in sections if name.startswith("Latido")} - set(rules.alerts())


def test_thresholds_stand_in_one_place() -> None:
    """No alert compares with a number of its own, but with 0 and 1, which are no thresholds."""
    for name, alert in rules.alerts().items():
        compared = re.search(r"(?:[<>]=?|==) (\S+)$", alert["expr"].strip())
        assert compared is not None, name
        assert re.fullmatch(r"0|1|scalar\(latido:\w+:threshold\)", compared[1]), name
    used = {match for alert in rules.alerts().values() for match in re.findall(r"latido:\w+:threshold", alert["expr"])}
    assert {name for name in rules.records() if name.endswith(":threshold")} == used


@pytest.mark.parametrize("example", ["file-discovery", "remote-write"])
def test_examples_are_clean(promtool: Path, example: str) -> None:
    """Without the secrets that they name, which are not here."""
    status, said = run(promtool, "check", "config", "--syntax-only", PROMETHEUS / "examples" / f"{example}.yml")
    assert 0 == status, said


def test_pods_become_the_targets_that_the_dashboards_know(promtool: Path, tmp_path: Path) -> None:
    """Debian's build has no Kubernetes in it: pods as it would find them, in a file, with the same relabelling."""
    example = (PROMETHEUS / "examples/kubernetes-discovery.yml").read_text(encoding="utf-8")
    (job,) = yaml.safe_load(example)["scrape_configs"]
    labels = {
        "__meta_kubernetes_pod_container_port_name": "http",
        "__meta_kubernetes_pod_phase": "Running",
        "__meta_kubernetes_pod_node_name": "node-7",
        "__meta_kubernetes_pod_name": "latido-x1",
    }
    component = "__meta_kubernetes_pod_label_app_kubernetes_io_component"
    pods = [
        {"targets": ["10.1.0.1:10110"], "labels": {**labels, component: "exporter"}},
        {"targets": ["10.1.0.2:10111"], "labels": {**labels, component: "ingest-raw"}},
        {"targets": ["10.1.0.3:9999"], "labels": {**labels, "__meta_kubernetes_pod_container_port_name": "other"}},
        {"targets": ["10.1.0.4:10110"], "labels": {**labels, "__meta_kubernetes_pod_phase": "Failed"}},
    ]
    del job["kubernetes_sd_configs"]
    (tmp_path / "pods.json").write_text(json.dumps(pods), encoding="utf-8")
    job["file_sd_configs"] = [{"files": ["pods.json"]}]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump({"scrape_configs": [job]}), encoding="utf-8")
    _, said = run(promtool, "check", "service-discovery", "--timeout=5s", config, "latido")
    discovered, _ = json.JSONDecoder().raw_decode(said[said.index("[\n") :])
    found = [target["labels"] for target in discovered if target.get("labels")]
    shown = sorted(
        (target["job"], target.get("host", ""), target["instance"], target["__address__"]) for target in found
    )
    expected = [
        ("latido-exporter", "node-7", "node-7", "10.1.0.1:10110"),
        ("latido-ingest-raw", "", "latido-x1", "10.1.0.2:10111"),
    ]
    assert expected == shown
