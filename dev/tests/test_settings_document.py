"""docs/settings.md is what the code declares, and what each command's `--help` says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dev import settings_document
from latido.cli import COMMANDS


def test_the_document_is_what_the_code_says() -> None:
    assert settings_document.DOCUMENT.read_text(encoding="utf-8") == settings_document.rendered(), (
        "python -m dev.settings_document"
    )


def test_every_command_has_its_section() -> None:
    assert settings_document.DECLARED.keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_the_flags_that_its_section_lists(command: str) -> None:
    text = settings_document.DOCUMENT.read_text(encoding="utf-8")
    section = text.partition(f"\n## latido {command}\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\| `--([a-z0-9.-]+)", section, re.MULTILINE))
    latido = Path(sys.executable).parent / "latido"
    done = subprocess.run([latido, *command.split(), "--help"], capture_output=True, text=True, check=True)
    taken = set(re.findall(r"^  (?:-\w(?: \w+)?, )?--([a-z0-9.-]+)", done.stdout, re.MULTILINE))
    assert taken - {"help", "version", "config.file"} == listed
