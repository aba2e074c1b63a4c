"""The wheel, as a user installs it: alone, and with each extra alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from dev.program import Program

PROGRAMS: dict[str, list[tuple[str, ...]]] = {
    "exporter": [("exporter",)],
    "ingest": [("ingest", "raw"), ("ingest", "orm")],
    "bridge": [("bridge",)],
}


PINNED = {
    "packaging/container/requirements.txt": ("exporter", "ingest", "bridge"),
    "packaging/container/requirements-loadtest.txt": ("loadtest",),
    "dev/requirements.txt": ("up",),
}
"""What the pinned packages of a file are for: those of each image, and what `make up` has beside the first."""


def run(*command: str | Path) -> str:
    """Run a command and return what it prints; a failure shows it."""
    environ = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=environ)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    root = Path(__file__).parent.parent
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, root)
    (path,) = folder.glob("latido-*.whl")
    return path


def install(folder: Path, wheel: Path, extra: str) -> Path:
    """Install the wheel with an extra, at the pinned versions, into a new environment; return its `bin`."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    constraints = folder / "constraints.txt"
    text = (Path(__file__).parent.parent / "requirements.txt").read_text()
    constraints.write_text("".join(line.split(" \\")[0] + "\n" for line in text.splitlines() if line[:1].strip()))
    name = f"latido[{extra}] @ file://{wheel}" if extra else f"latido @ file://{wheel}"
    # The pip of this environment, which reaches an index however this machine is set up to, installs into the other.
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python")
    run(*pip, "install", "-q", "--disable-pip-version-check", "--constraint", constraints, name)
    return folder / "bin"


def test_the_wheel_holds_the_programs_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"latido", "exporter", "ingest", "bridge_ws", "loadtest"} < {name.partition("/")[0] for name in names}
    assert [] == [name for name in names if "/tests/" in name or name.startswith(("dev/", "tests/"))]
    for data in ("ingest/contract/openapi.json", "bridge_ws/asyncapi.yaml", "bridge_ws/web/dist/index.html"):
        assert data in names
    assert [] == [name for name in names if name.startswith("bridge_ws/web/") and "/dist/" not in name]


def test_alone_it_has_help_and_names_the_extra_that_a_command_needs(wheel: Path, tmp_path: Path) -> None:
    binaries = install(tmp_path / "venv", wheel, "")
    listing = run(binaries / "latido", "--help")
    for command in ("exporter", "ingest raw", "ingest orm", "bridge", "db upgrade", "db retain", "status"):
        assert f"  {command}" in listing
    for command, extra in (("exporter", "exporter"), ("bridge", "bridge"), ("status", "ingest")):
        done = subprocess.run([binaries / "latido", command], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"pip install 'latido[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def pins(text: str) -> dict[str, str]:
    """Return the packages of a requirements file, as `NAME==VERSION`, with their hashes."""
    entries = re.sub(r" *\\\n *", " ", text).splitlines()
    # For whom (`; sys_platform == …`) depends on who else wants it.
    return {line.split(" ")[0]: line.partition(" --hash=")[2] for line in entries if line}


@pytest.mark.parametrize("name", PINNED)
def test_pinned_packages_are_those_that_are_tested(repository: Path, name: str) -> None:
    """`make requirements`: versions and hashes of the checkout's environment, for these extras, from nowhere."""
    text = (repository / name).read_text()
    found, tested = pins(text), pins((repository / "requirements.txt").read_text())
    assert found.items() <= tested.items()
    assert all("sha256:" in hashes for hashes in found.values())
    assert None is re.search(r"://|^ *--?(i|f|index|extra|find)\b", text, re.MULTILINE)
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = {re.split(r"[><=!~;\[ ]", line)[0] for extra in PINNED[name] for line in extras[extra]}
    # Images build the wheel by hatchling, and `make up` has it from the first file.
    builds = {"hatchling"} if name.startswith("packaging") else set()
    assert {"pyyaml", *builds, *wanted} <= {each.partition("==")[0] for each in found}


@pytest.mark.parametrize("extra", PROGRAMS)
def test_each_extra_alone_starts_its_programs(wheel: Path, tmp_path: Path, extra: str) -> None:
    binaries = install(tmp_path / "venv", wheel, extra)
    for command in PROGRAMS[extra]:
        # no database is there: a program starts all the same, and says that it is not ready
        program = Program(command, environ={"LATIDO_DB_DSN": "mysql://latido@127.0.0.1:1/latido"}, bin=binaries)
        try:
            program.start("/-/healthy")
            assert program.get("/-/ready")[0] == (200 if extra == "exporter" else 503)
            assert program.stop() == 0
        finally:
            program.kill()
            program.close()


def test_the_dependencies_checked_against_advisories_are_the_pinned_ones(repository: Path) -> None:
    """Whoever renews a pin looks for advisories again, and writes the date and the version."""
    text = (repository / "docs/security.md").read_text(encoding="utf-8")
    section = text.partition("\n## Dependencies, and what is known against them\n")[2].partition("\n## ")[0]
    assert re.search(r"Checked on \d{4}-\d\d-\d\d:", section)
    checked = dict(re.findall(r"^\| ([a-z0-9-]+) \| ([0-9.]+) \|", section, re.MULTILINE))
    pins = (repository / "packaging/container/requirements.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==([0-9.]+)", pins, re.MULTILINE))
    assert len(checked) > 10
    assert checked.items() <= pinned
