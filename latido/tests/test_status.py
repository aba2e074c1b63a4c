"""`latido status`: what it makes of an exposition and of programs that do not answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from latido import status
from latido.status import FeedStatus, ProgramStatus, Spool, Status

EXPOSITION = """\
# TYPE latido_spool_bytes gauge
latido_spool_bytes 2048.0
latido_spool_samples 7.0
latido_spool_dead_letters 1.0
latido_spool_pending_samples{api="http://127.0.0.1:1",feed="ram"} 3.0
latido_spool_pending_samples{api="http://127.0.0.1:1",feed="cpu"} 4.0
latido_spool_pending_samples{api="http://127.0.0.1:2",feed="ram"} 0.0
latido_spool_lost_samples_total{feed="ram"} 2.0
latido_spool_lost_samples_total{feed="cpu"} 3.0
latido_load1 0.5
"""


def test_the_spool_is_read_from_the_exposition() -> None:
    expected = Spool(
        bytes=2048, samples=7, pending={"http://127.0.0.1:1": 7, "http://127.0.0.1:2": 0}, dead_letters=1, lost=5
    )
    assert expected == status.spool_of(EXPOSITION)
    assert status.spool_of("latido_load1 0.5\n") is None


def test_text_shows_every_part_and_no_control_character() -> None:
    found = Status(
        [ProgramStatus("exporter", "http://a", ready=True), ProgramStatus("bridge", "http://b", False, "503 \x1b[2J")],
        "mysql://latido@db:3306/latido",
        "",
        [FeedStatus("web-1", "s", "procesos", 1.25, 10, 20), FeedStatus("web-1", "s", "ram", 0.5, 1, 2)],
        Spool(2048, 7, {"http://127.0.0.1:1": 7}, 1, 0),
    )
    lines = status.as_text(found).splitlines()
    assert all(line.isprintable() for line in lines)
    assert "exporter     http://a                                     ready" == lines[0]
    assert lines[1].split()[2:4] == ["NOT", "READY:"]
    assert ["web-1", "ram", "0.5", "s", "ago", "1", "2"] == lines[-2].split()
    mirrored = replace(found, spool=Spool(2048, 7, {"http://127.0.0.1:1": 7, "http://127.0.0.1:2": 0}, 1, 0))
    assert "A sample goes to every API and is stored once" in status.as_text(mirrored).splitlines()[-1]
    assert not found.well
    assert json.loads(status.as_json(found))["well"] is False


def test_what_does_not_answer_is_shown_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    # port 1 of loopback: nothing listens there
    flags = [f"--{name}.url=http://127.0.0.1:1" for name in ("exporter", "ingest-raw", "ingest-orm", "bridge")]
    assert 1 == status.main([*flags, "--db.dsn=mysql://u@127.0.0.1:1/d", "--timeout=1s"])
    output = capsys.readouterr().out
    assert 4 == output.count("NOT READY: [Errno 111] Connection refused")
    assert "Can't connect to MySQL server on '127.0.0.1'" in output


def test_a_mistake_in_a_url_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == status.main(["--exporter.url=localhost:10110"])
    assert "latido status: expected a URL such as" in capsys.readouterr().err
