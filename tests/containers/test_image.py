"""The images: every command in them starts as an ordinary user without capabilities, on a root that is read-only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.podman import BASE, IMAGE, LOADTEST_IMAGE, Podman
from latido.cli import COMMANDS

LOCKED = ("--rm", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none")


@dataclass(frozen=True)
class Image:
    """An image, whose libraries it has (those of load tests would double the programs'), and how docs say its size."""

    tag: str
    extras: frozenset[str]
    requirements: str
    libraries: frozenset[str]
    size: str


IMAGES = {
    "latido": Image(
        IMAGE,
        frozenset({"exporter", "ingest", "bridge"}),
        "requirements.txt",
        frozenset({"numpy", "aiohttp", "msgspec"}),
        r"About (\d+) MB of it are Latido",
    ),
    "latido-loadtest": Image(
        LOADTEST_IMAGE,
        frozenset({"loadtest"}),
        "requirements-loadtest.txt",
        frozenset({"locust", "matplotlib", "pymysql"}),
        r"About (\d+) MB of that one are Locust",
    ),
}


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> Image:
    """Each of the two."""
    return IMAGES[request.param]


def plain(name: str) -> str:
    """Return a package's name as indexes compare it (PyPA, name normalization)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def run(podman: Podman, image: Image, *command: str, entrypoint: str = "") -> str:
    chosen = (f"--entrypoint={entrypoint}",) if entrypoint else ()
    return podman.run("run", *LOCKED, *chosen, image.tag, *command)


@pytest.mark.parametrize(
    ("name", "command"),
    [(name, each) for name, image in IMAGES.items() for each, what in COMMANDS.items() if what.extra in image.extras],
)
def test_every_command_starts(podman: Podman, name: str, command: str) -> None:
    assert f"usage: latido {command}" in " ".join(run(podman, IMAGES[name], *command.split(), "--help").split())


def test_it_is_an_ordinary_user_who_can_write_nothing_but_tmp_and_the_spool(podman: Podman, image: Image) -> None:
    assert "10001 10001" == run(podman, image, "-c", "echo $(id -u) $(id -g)", entrypoint="sh")
    assert "CapEff: 0000000000000000" == run(
        podman, image, "-c", "grep CapEff /proc/self/status | tr '\\t' ' '", entrypoint="sh"
    )
    script = "for f in / /opt/latido /etc /tmp /var/lib/latido; do if touch $f/x 2>/dev/null; then echo $f; fi; done"
    written = run(podman, image, "-c", script, entrypoint="sh").split()
    assert ["/tmp", "/var/lib/latido"] == written  # noqa: S108 - the container's


def test_it_holds_no_compiler_and_no_pip(podman: Podman, image: Image) -> None:
    script = "for name in gcc cc c++ clang make /opt/latido/bin/pip; do command -v $name; done; true"
    assert "" == run(podman, image, "-c", script, entrypoint="sh")


def test_its_packages_are_those_that_are_pinned(podman: Podman, image: Image, repository: Path) -> None:
    """What an inventory of the image finds is what its requirements say, Latido and nothing else."""
    text = (repository / "packaging" / "container" / image.requirements).read_text()
    pins = re.findall(r"^([\w.-]+)==([\w.!]+)", text, re.MULTILINE)  # some twice, by the Python that they are for
    pinned = {(plain(name), version) for name, version in pins}
    script = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    listed = run(podman, image, "-c", script, entrypoint="/opt/latido/bin/python3").split()
    found = {plain(name): version for name, _, version in (each.partition("==") for each in listed)}
    assert found.pop("latido") == "0.1.0"
    assert found.items() <= pinned
    assert image.libraries <= found.keys()


def test_its_size_is_what_the_docs_say(podman: Podman, image: Image, repository: Path) -> None:
    own = (podman.inspect(image.tag, "image")["Size"] - podman.inspect(BASE, "image")["Size"]) / 1e6
    (said,) = re.findall(image.size, (repository / "docs" / "operating.md").read_text())
    assert own == pytest.approx(float(said), rel=0.1)


def test_it_says_what_it_is(podman: Podman, image: Image) -> None:
    config = podman.inspect(image.tag, "image")["Config"]
    assert image.tag == f"localhost/{config['Labels']['org.opencontainers.image.title']}:0.1.0"
    assert "0.1.0" == config["Labels"]["org.opencontainers.image.version"]
    assert (["latido"], "10001:10001", "SIGTERM") == (config["Entrypoint"], config["User"], config["StopSignal"])
