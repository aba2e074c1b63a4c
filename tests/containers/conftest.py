"""The images, built once, and the stack of compose.yaml, run once for the tests that ask of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dev import compose
from dev.compose import Stack
from dev.podman import Podman, why_not

LEFT_OUT = ("grafana",)
"""Debian has no Grafana, and no registry is asked: its service is the one that is not run."""


@pytest.fixture(scope="session")
def podman() -> Podman:
    """Return podman with Latido's images of this checkout and the stand-ins for the others."""
    if "LATIDO_CONTAINERS" not in os.environ:
        pytest.skip("builds images and takes a quarter of an hour: make containers runs it")
    reason = why_not()
    assert reason is None, reason
    podman = Podman()
    podman.build_stand_ins()
    podman.build_latido()
    return podman


@pytest.fixture(scope="session")
def stack(podman: Podman) -> Iterator[Stack]:
    """Run compose.yaml but for what is left out; Debian's MariaDB, nginx, Prometheus stand in for their images."""
    stack = compose.read(podman, "latido")
    stack.down()
    try:
        stack.up(without=LEFT_OUT)
        yield stack
    finally:
        stack.down()
