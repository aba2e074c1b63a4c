"""The image: every command in it starts as an ordinary user without capabilities, on a root that is read-only."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dev.podman import BASE, IMAGE, Podman
from latido.cli import COMMANDS

LOCKED = ("--rm", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")
EXTRAS = {"exporter", "ingest", "bridge"}
"""Those whose libraries the image has: the load test's would double it."""


def run(podman: Podman, *command: str, entrypoint: str = "") -> str:
    chosen = (f"--entrypoint={entrypoint}",) if entrypoint else ()
    return podman.run("run", *LOCKED, *chosen, IMAGE, *command)


@pytest.mark.parametrize("command", [name for name, command in COMMANDS.items() if command.extra in EXTRAS])
def test_every_command_starts(podman: Podman, command: str) -> None:
    assert f"usage: latido {command}" in " ".join(run(podman, *command.split(), "--help").split())


def test_it_is_an_ordinary_user_who_can_write_nothing_but_tmp_and_the_spool(podman: Podman) -> None:
    assert "10001 10001" == run(podman, "-c", "echo $(id -u) $(id -g)", entrypoint="sh")
    assert "CapEff: 0000000000000000" == run(
        podman, "-c", "grep CapEff /proc/self/status | tr '\\t' ' '", entrypoint="sh"
    )
    script = "for f in / /opt/latido /etc /tmp /var/lib/latido; do if touch $f/x 2>/dev/null; then echo $f; fi; done"
    written = run(podman, "-c", script, entrypoint="sh").split()
    assert ["/tmp", "/var/lib/latido"] == written  # noqa: S108 - the container's


def test_it_holds_no_compiler_and_no_pip(podman: Podman) -> None:
    script = "for name in gcc cc c++ clang make /opt/latido/bin/pip; do command -v $name; done; true"
    assert "" == run(podman, "-c", script, entrypoint="sh")


def test_its_packages_are_those_that_are_pinned(podman: Podman, repository: Path) -> None:
    """What an inventory of the image finds is what requirements.txt says, Latido and nothing else."""
    text = (repository / "packaging" / "container" / "requirements.txt").read_text()
    pins = re.findall(r"^([\w.-]+)==([\w.!]+)", text, re.MULTILINE)  # some twice, by the Python that they are for
    pinned = {(name.lower().replace("_", "-"), version) for name, version in pins}
    script = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    listed = run(podman, "-c", script, entrypoint="/opt/latido/bin/python3").split()
    found = {name.lower().replace("_", "-"): version for name, _, version in (each.partition("==") for each in listed)}
    assert found.pop("latido") == "0.1.0"
    assert found.items() <= pinned
    assert {"numpy", "aiohttp", "msgspec"} <= found.keys()


def test_its_size_is_what_the_docs_say(podman: Podman, repository: Path) -> None:
    own = (podman.inspect(IMAGE, "image")["Size"] - podman.inspect(BASE, "image")["Size"]) / 1e6
    (said,) = re.findall(r"About (\d+) MB of it are Latido", (repository / "docs" / "operating.md").read_text())
    assert own == pytest.approx(float(said), rel=0.1)


def test_it_says_what_it_is(podman: Podman) -> None:
    config = podman.inspect(IMAGE, "image")["Config"]
    assert "latido" == config["Labels"]["org.opencontainers.image.title"]
    assert "0.1.0" == config["Labels"]["org.opencontainers.image.version"]
    assert (["latido"], "10001:10001", "SIGTERM") == (config["Entrypoint"], config["User"], config["StopSignal"])
