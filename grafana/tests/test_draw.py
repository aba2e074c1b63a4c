"""The pictures of dashboards show values, colours and words as the panels' JSON says."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from grafana.checks import dashboards
from grafana.checks.draw import COLORS, WIDTH, Page, color_of, joined, mapped, shown, write
from grafana.checks.expander import Picked
from grafana.checks.run import Series, Table


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "expected"),
    [
        (0.8144, "percentunit", None, "81.4%"),
        (3 * 1024**3, "bytes", None, "3 GiB"),
        (0, "bytes", 1, "0.0 B"),
        (2048, "binBps", None, "2 KiB/s"),
        (90, "s", None, "1.5 min"),
        (0.0125, "s", None, "12.5 ms"),
        (0, "s", None, "0 s"),
        (1_795_535_934_000, "dateTimeAsIso", None, "15:58:54"),
        (1234.0, "short", None, "1.23 K"),
        (7, "cps", None, "7 c/s"),
        (4321, "none", None, "4321"),
        (float("nan"), "s", None, "-"),
    ],
)
def test_a_value_is_shown_in_its_unit(value: float, unit: str, decimals: int | None, expected: str) -> None:
    assert expected == shown(value, unit, decimals)


def test_a_value_takes_the_colour_of_the_last_step_that_it_reaches() -> None:
    steps: list[dict[str, object]] = [
        {"value": None, "color": "green"},
        {"value": 0.8, "color": "orange"},
        {"value": 0.95, "color": "red"},
    ]
    assert [COLORS["green"], COLORS["orange"], COLORS["red"]] == [color_of(value, steps) for value in (0.1, 0.8, 1.0)]


def test_words_take_the_place_of_values() -> None:
    (database,) = (panel for panel in dashboards.panels(dashboards.load("pipeline")) if panel.title == "Database")
    mappings = database.raw["fieldConfig"]["defaults"]["mappings"]
    assert ("away", COLORS["red"]) == mapped(0.0, mappings)
    assert ("there", COLORS["green"]) == mapped(1.0, mappings)
    assert mapped(2.0, mappings) is None


def test_columns_of_several_queries_are_joined_on_their_labels() -> None:
    busy = Table(["host", "Busy"], [("a", 0.5), ("b", 0.1)])
    zombies = Table(["host", "Zombies"], [("b", 3.0)])
    expected = Table(["host", "Zombies", "Busy"], [("a", None, 0.5), ("b", 3.0, 0.1)])
    assert expected == joined([busy, zombies], ["host", "Zombies", "Busy"])


@pytest.mark.parametrize("name", dashboards.NAMES)
def test_every_kind_of_panel_can_be_drawn(name: str, tmp_path: Path) -> None:
    document = dashboards.load(name)
    page = Page(document["title"], "a drawing", 100)
    picked = Picked(1_795_535_000, 1_795_535_600)
    line = Series("one", [1_795_535_000.0, 1_795_535_600.0], [0.25, 0.5])
    for panel in dashboards.panels(document):
        columns = list(panel.overrides) or ["one"]
        answers: list[list[Series] | Table] = [[line]]
        if panel.kind == "table":
            texts = [panel.overrides.get(name, {}).get("unit", panel.unit) == "string" for name in columns]
            answers = [Table(columns, [tuple("critical" if text else 1.8e12 for text in texts)])]
        page.panel(panel, answers, picked, [([1_795_535_300.0], "red")])
        page.panel(panel, "nothing is there", picked, [])
    write(page.figure, tmp_path / "page.png", dpi=30)
    with Image.open(tmp_path / "page.png") as image:
        assert (round(WIDTH * 30), "PNG") == (image.width, image.format)
