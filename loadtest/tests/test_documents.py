"""What docs/loadtest.md says of flags is so, and no flag is missing there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

LATIDO = str(Path(sys.executable).parent / "latido")
COMMANDS = ("record", "loadtest run", "loadtest report", "loadtest stress")
EVERYWHERE = {"--help", "--version", "--config.file", "--log.level", "--log.format"}
OTHERS = {
    *("--push.url", "--rm", "--build", "--profile", "--target"),
    *("--cpu", "--vm", "--vm-bytes", "--timeout", "--namespace", "--follow"),
}
"""Of other commands: the exporter's, Docker's, stress's, kubectl's."""


@pytest.fixture
def known() -> set[str]:
    """Return the flags of the commands here."""
    found: set[str] = set()
    for command in COMMANDS:
        done = subprocess.run([LATIDO, *command.split(), "--help"], capture_output=True, text=True, check=True)
        found |= set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", done.stdout))
    return found


def test_flags_are_documented_and_documented_flags_exist(repository: Path, known: set[str]) -> None:
    text = (repository / "docs" / "loadtest.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]", text))
    assert set() == known - documented - EVERYWHERE
    assert set() == documented - known - OTHERS
