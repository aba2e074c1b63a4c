"""docs/metrics.md is what the code exposes."""

from __future__ import annotations

import re

import pytest

from dev import metrics_document
from dev.metrics_document import Described


def test_the_document_is_what_the_code_says() -> None:
    """If it differs: `python -m dev.metrics_document`, and say what the new metric means."""
    document = metrics_document.DOCUMENT.read_text(encoding="utf-8")
    assert metrics_document.rewritten(document) == document
    assert 0 == metrics_document.main(["--check"])


def test_no_metric_is_listed_twice() -> None:
    names = re.findall(r"^\| `(\w+)` \|", metrics_document.DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(set(names)) == sorted(names)


def test_what_changed_in_the_code_changes_in_the_document_and_prose_stays() -> None:
    document = metrics_document.DOCUMENT.read_text(encoding="utf-8")
    stale = document.replace("| `latido_load1` | gauge |", "| `latido_load1` | counter |")
    stale = stale.replace("| `latido_bridge_clients` |", "| `latido_bridge_removed` |")
    assert stale != document
    mended = metrics_document.rewritten(stale)
    assert "| `latido_load1` | gauge | tasks | | Tasks that ran or waited for disk" in mended
    assert "latido_bridge_removed" not in mended
    # new to the document: at the table's end, with its HELP text
    assert "| `latido_bridge_clients` | gauge | | | WebSocket clients that are served now. |\n\n" in mended


def test_a_section_that_is_missing_is_named() -> None:
    document = metrics_document.DOCUMENT.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=r"metrics\.md: expected a section 'Bridge: Grafana Live'"):
        metrics_document.rewritten(document.replace("## Bridge: Grafana Live", "## Something else"))


def test_units_are_those_of_the_name() -> None:
    row = metrics_document._row(Described("latido_a_seconds_total", "counter", ("b",), "c"), "parsecs", "d")
    assert "| `latido_a_seconds_total` | counter | seconds | `b` | d |" == row
