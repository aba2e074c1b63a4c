"""Logs: one event a line, whatever the fields hold."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from latido import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Give the root logger back to pytest."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(form: logs.Format, level: str = "info") -> list[str]:
    stream = io.StringIO()
    logs.setup(level, form, stream)
    log = logs.get("latido.example")
    log.debug("too small a thing")
    log.info("a sample is stored", host="web-1", seq=7, age=0.5, late=False, api=None)
    log.warning("a name\x1b[2J is hostile", command='a"b\n\x1b]0;x', plain="name")
    return stream.getvalue().splitlines()


def test_json_lines_are_objects_with_fields() -> None:
    first, second = (json.loads(line) for line in lines("json"))
    assert {"event": "a sample is stored", "level": "info", "host": "web-1", "seq": 7, "late": False}.items() <= (
        first.items()
    )
    assert first["time"].endswith("Z")
    assert 'a"b\n\x1b]0;x' == second["command"]


def test_no_control_character_reaches_a_terminal() -> None:
    found = lines("console")
    assert 2 == len(found)
    assert found[0].endswith("info    a sample is stored host=web-1 seq=7 age=0.5 late=false api=null")
    assert all(line.isprintable() for line in found)


def test_a_defect_is_logged_with_its_trace() -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    try:
        _ = 1 // int("0")
    except ZeroDivisionError:
        logs.get("x").exception("a defect", where="here")
    line = json.loads(stream.getvalue())
    assert "ZeroDivisionError" in line["trace"]
    assert "here" == line["where"]
