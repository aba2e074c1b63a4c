"""The front door: what it lists, loads and refuses."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata

import pytest

from latido import cli


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == cli.main([])
    text = capsys.readouterr().out
    for name, command in cli.COMMANDS.items():
        assert name in text
        assert command.summary in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_exists_and_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, function = cli.COMMANDS[name].target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as caught:
        cli.main([*name.split(), "--help"])
    assert 0 == caught.value.code
    assert f"usage: latido {name}" in capsys.readouterr().out


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == cli.main(["--version"])
    assert f"latido {metadata.version('latido')}\n" == capsys.readouterr().out


def test_help_loads_no_program() -> None:
    script = (
        "import sys; from latido.cli import main; main(['--help'])\n"
        "heavy = {'numpy', 'aiohttp', 'sqlmodel', 'prometheus_client', 'yaml', 'exporter', 'ingest', 'bridge_ws'}\n"
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stderr


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["ingest"], "one of: ingest raw, ingest orm"),
        (["ingest", "blue"], "one of: ingest raw, ingest orm"),
        (["frobnicate"], "`latido --help` lists the commands"),
        (["\x1b[2J"], r"\x1b[2J"),
    ],
)
def test_an_unknown_command_gets_a_hint(argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == cli.main(argv)
    error = capsys.readouterr().err
    assert hint in error
    assert "\x1b" not in error


def test_a_mistake_in_a_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == cli.main(["exporter", "--push.interval=soon"])
    assert (
        "latido exporter: --push.interval: expected a duration such as 500ms, 5s, 1h30m or 7d, got 'soon'\n"
        == capsys.readouterr().err
    )
