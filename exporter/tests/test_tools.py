"""What people run: the real command on files of rules and real processes; rules read again by the real program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.ports import free_port
from dev.program import Program
from dev.waiting import wait_for
from exporter.lifecycle import is_loopback
from exporter.tests.processes import child

LATIDO = str(Path(sys.executable).parent / "latido")


def latido(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([LATIDO, "exporter", *flags], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "groups.yml"
    path.write_text(
        "groups:\n"
        "  - name: 'mine-{what}'\n"
        "    command_regex: '^latido-(?P<what>.+)'\n"
        "    user: [nobody-here, '{}']\n"
        "    command_line_regex: '-c'\n".replace("{}", str(os.geteuid()))
    )
    return path


def rules(file: Path) -> str:
    return f"--collector.processes.config-file={file}"


def test_check_config_prints_what_was_understood(file: Path) -> None:
    result = latido("--check-config", rules(file), "--collector.processes.command-line")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "1 rule; the first that matches decides",
        "1. mine-{what}  (line 2)",
        "     command_regex: ^latido-(?P<what>.+)",
        f"     user: {os.geteuid()}, nobody-here",
        "     note: this host has no user nobody-here",
        "     command_line_regex: -c",
        "every other process goes by its command; threads of the kernel by the stem of theirs",
    ]


def test_check_config_names_the_place_of_a_fault_and_starts_nothing(file: Path) -> None:
    result = latido("--check-config", rules(file))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"latido exporter: {file}:2:5: command_line_regex needs ")
    assert len(result.stderr.splitlines()) == 1
    # A port of its own: another exporter may have the default one.
    assert latido(rules(file), f"--web.listen-address=127.0.0.1:{free_port()}").stderr == result.stderr


def test_explain_shows_values_rules_and_the_group(file: Path) -> None:
    with child(b"latido-\x1b[31m") as process:
        result = latido(f"--explain={process.pid}", rules(file), "--collector.processes.command-line")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"process {process.pid}"
    assert lines[-2:] == ["rule 1, line 2, mine-{what}: matches", "group: mine-\\x1b[31m"]
    assert "\x1b" not in result.stdout
    values = dict(line.strip().split(maxsplit=1) for line in lines[1:7])
    assert values["command"] == "latido-\\x1b[31m"
    assert values["kernel_thread"] == "false"
    assert values["user"].endswith(f"uid {os.geteuid()}")
    assert values["command_line"].startswith(f"{sys.executable} -c ")


def test_explain_says_why_a_rule_does_not_match(file: Path) -> None:
    result = latido(f"--explain={os.getpid()}", rules(file), "--collector.processes.command-line")
    assert "rule 1, line 2, mine-{what}: no, not command_regex: ^latido-(?P<what>.+)" in result.stdout
    assert "no rule matches: it goes by its command" in result.stdout
    with child(b"gone") as process:
        pass
    gone = latido(f"--explain={process.pid}")
    assert gone.returncode == 2
    assert f"there is no process {process.pid}" in gone.stderr


def test_conversion_goes_to_standard_output_and_what_is_lost_to_standard_error(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.yml", tmp_path / "ours.yml"
    theirs.write_text("process_names:\n  - exe: [nginx]\n  - {name: '{{.PID}}', comm: [a]}\n")
    result = latido(f"--from-process-exporter={theirs}")
    assert result.returncode == 0
    assert f"{theirs}: line 3: not converted: nothing is left of its name" in result.stderr.splitlines()
    ours.write_text(result.stdout)
    assert latido("--check-config", rules(ours), "--collector.processes.command-line").returncode == 0
    theirs.write_text("a: b")
    refused = latido(f"--from-process-exporter={theirs}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert f"{theirs}:1:1: expected `process_names:` and a list" in refused.stderr


# --- reading again ---


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Program]:
    """Run the exporter with rules that one may change, until the test ends."""
    path = tmp_path / "live.yml"
    path.write_text("groups: [{name: first, command_regex: ''}]")
    program = Program(["exporter"], [rules(path), "--web.enable-lifecycle", "--no-collector.cpu"])
    program.start()
    yield program
    assert program.stop() == 0
    program.close()


def metrics(program: Program) -> str:
    with urllib.request.urlopen(f"{program.url}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def reload(program: Program, *, method: str = "POST", headers: dict[str, str] | None = None) -> tuple[int, str]:
    request = urllib.request.Request(f"{program.url}/-/reload", method=method, headers=headers or {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_rules_are_read_again_on_request_and_a_bad_file_keeps_the_old_ones(exporter: Program, tmp_path: Path) -> None:
    file = tmp_path / "live.yml"
    assert 'latido_group_processes{group="first"}' in metrics(exporter)
    file.write_text("groups: [{name: second, command_regex: ''}]")
    assert reload(exporter) == (200, "read again\n")
    assert 'latido_group_processes{group="second"}' in metrics(exporter)
    file.write_text("groups: [{name: third}]")
    status, reason = reload(exporter, method="PUT")
    assert status == 500
    assert f"{file}:1:10: expected at least one of" in reason
    exposition = metrics(exporter)
    assert 'latido_group_processes{group="second"}' in exposition
    assert "latido_config_last_reload_successful 0" in exposition


def test_rules_are_read_again_on_sighup(exporter: Program, tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text("groups: [{name: second, command_regex: ''}]")
    os.kill(exporter.pid, signal.SIGHUP)
    wait_for(lambda: 'group="second"' in metrics(exporter), "the new group")


def test_reload_is_nothing_for_web_pages_or_reading(exporter: Program) -> None:
    assert reload(exporter, headers={"Origin": "http://evil.example"})[0] == 403
    assert reload(exporter, method="GET")[0] == 405


def test_reload_is_off_unless_enabled() -> None:
    program = Program(["exporter"], ["--no-collector.cpu", "--no-collector.processes"])
    program.start()
    try:
        assert reload(program) == (403, "not enabled; --web.enable-lifecycle enables it\n")
    finally:
        program.stop()
        program.close()


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("192.0.2.7", False),
        ("::ffff:192.0.2.7", False),
        ("fe80::1%eth0", False),
        ("", False),
        (None, False),
    ],
)
def test_who_is_on_this_machine(remote: str | None, expected: bool) -> None:  # noqa: FBT001 - a table's column
    assert is_loopback(remote) is expected
