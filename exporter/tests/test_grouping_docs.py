"""What the documentation of group rules says is so: its examples are understood, its flags, keys and metrics exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.rules.document import parse_rules
from exporter.rules.names import VALUES
from latido.cli import main

LATIDO = str(Path(sys.executable).parent / "latido")


def text_of(repository: Path, name: str) -> str:
    return (repository / "docs" / name).read_text(encoding="utf-8")


def test_every_example_passes_check_config(repository: Path, tmp_path: Path) -> None:
    examples = re.findall(r"^```yaml\n(.*?)^```$", text_of(repository, "grouping.md"), re.MULTILINE | re.DOTALL)
    assert len(examples) == 4
    for number, example in enumerate(examples):
        file = tmp_path / f"{number}.yml"
        file.write_text(example)
        flags = [f"--collector.processes.config-file={file}", "--collector.processes.command-line", "--check-config"]
        result = subprocess.run([LATIDO, "exporter", *flags], capture_output=True, text=True, timeout=60, check=False)
        assert (result.returncode, result.stderr) == (0, ""), example
        assert "characters" not in result.stdout, "an example sees less than the whole value"


def test_every_condition_and_value_is_documented_and_nothing_else_is(repository: Path) -> None:
    text = text_of(repository, "grouping.md")
    documented = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    with pytest.raises(Exception, match="expected at least one of ") as caught:
        parse_rules("groups: [{name: x}]")
    assert documented == set(str(caught.value).removeprefix("expected at least one of ").split(", "))
    for value in VALUES:
        assert f"`{{{value}}}`" in text


@pytest.mark.parametrize("name", ["grouping.md", "coming-from-process-exporter.md"])
def test_flags_that_are_documented_exist(repository: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["exporter", "--help"])
    known = set(re.findall(r"--[a-z][a-z.-]*[a-z]", capsys.readouterr().out))
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*[a-z]", text_of(repository, name)))
    assert flags
    assert flags <= known


def test_metrics_that_replace_theirs_are_documented(repository: Path) -> None:
    known = set(re.findall(r"^\| `(latido_\w+)` \|", text_of(repository, "metrics.md"), re.MULTILINE))
    ours = set(re.findall(r"`(latido_\w+)", text_of(repository, "coming-from-process-exporter.md")))
    assert len(ours) > 10
    assert ours <= known
    assert {name for name in known if name.startswith("latido_config_")} == {
        "latido_config_last_reload_successful",
        "latido_config_last_reload_success_timestamp_seconds",
    }
