"""Rules that are read again: a bad file changes nothing, and users are those of the file as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from exporter.rules.errors import RulesError
from exporter.rules.live import LiveRules
from exporter.rules.settings import RuleSettings
from exporter.tests.tables import Row, labels, table

GOOD = "groups: [{name: one, command: cat}]"


def given(file: Path | None, rootfs: Path = Path("/"), *, command_line: bool = False) -> RuleSettings:
    return RuleSettings(file=file, command_line=command_line, rootfs=rootfs)


def live(file: Path | None, *, clock: float = 100.0) -> LiveRules:
    return LiveRules(given(file), Path("/proc"), clock=lambda: clock)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "groups.yml"
    path.write_text(GOOD)
    return path


def exposed(rules: LiveRules) -> tuple[float | None, float | None]:
    registry = CollectorRegistry()
    rules.register(registry)
    return (
        registry.get_sample_value("latido_config_last_reload_successful"),
        registry.get_sample_value("latido_config_last_reload_success_timestamp_seconds"),
    )


def test_rules_are_those_of_the_file_when_it_was_last_read(file: Path) -> None:
    times = iter((100.0, 200.0))
    rules = LiveRules(given(file), Path("/proc"), clock=lambda: next(times))
    file.write_text("groups: [{name: two, command: cat}]")
    assert labels(rules(table(Row(1)))) == ["one"]
    assert exposed(rules) == (1.0, 100.0)
    assert rules.reload() is None
    assert labels(rules(table(Row(1)))) == ["two"]
    assert exposed(rules) == (1.0, 200.0)


@pytest.mark.parametrize("content", [b"groups: [", b"\xff", None])
def test_bad_file_changes_nothing_but_the_metric(file: Path, content: bytes | None) -> None:
    rules = live(file)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    error = rules.reload()
    assert error is not None
    assert error.startswith(str(file))
    assert labels(rules(table(Row(1)))) == ["one"]
    assert exposed(rules) == (0.0, 100.0)
    file.write_text(GOOD)
    assert rules.reload() is None
    assert exposed(rules) == (1.0, 100.0)


def test_bad_file_at_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match=r"none\.yml: cannot be read: No such file or directory"):
        live(tmp_path / "none.yml")


def test_command_lines_need_their_flag(file: Path) -> None:
    file.write_text("groups:\n  - {name: x, command_line_regex: y}\n")
    with pytest.raises(RulesError, match=rf"^{file}:2:5: .* needs --collector\.processes\.command-line"):
        live(file)
    assert len(LiveRules(given(file, command_line=True), Path("/proc")).rules) == 1


def test_without_a_file_processes_go_by_their_command_and_there_is_nothing_to_read_again() -> None:
    rules = live(None)
    assert rules.reload() is None
    assert labels(rules(table(Row(1)))) == ["cat"]


def test_user_that_gets_a_name_is_known_at_the_next_table(tmp_path: Path, file: Path) -> None:
    file.write_text("groups: [{name: '{user}', kernel_thread: false}]")
    (tmp_path / "etc").mkdir()
    passwd = tmp_path / "etc" / "passwd"
    rules = LiveRules(given(file, tmp_path), Path("/proc"))
    assert labels(rules(table(Row(1, uid=7)))) == ["7"]
    passwd.write_text("seven:x:7:7::/:/bin/sh\n")
    assert labels(rules(table(Row(1, uid=7)))) == ["seven"]
    os.truncate(passwd, 0)
    assert labels(rules(table(Row(1, uid=7)))) == ["7"]
