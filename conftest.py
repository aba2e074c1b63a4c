"""Fixtures that rooms share: a real MariaDB for the session, a database of its own for each test that asks for one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from dev.mariadb import Mariadb
from dev.prometheus import BINARIES

_numbers = itertools.count(1)

# How long an example takes says something of who else uses the machine, and nothing of what is tested.
hypothesis.settings.register_profile("latido", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("latido")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let golden files be written anew, to be read in the diff."""
    parser.addoption("--update-golden", action="store_true", help="write golden files from what is produced now")


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mariadb]:
    """Run a private MariaDB until the session ends."""
    server = Mariadb(
        tmp_path_factory.mktemp("mariadb"),
        options=("--innodb-flush-log-at-trx-commit=2", "--innodb-buffer-pool-size=256M"),
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def empty_database(mariadb: Mariadb) -> str:
    """Return the DSN of a new database without tables."""
    return mariadb.create_database(f"latido_{next(_numbers)}")


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Return Prometheus's promtool, which `make test` has set up."""
    path = BINARIES / "promtool"
    assert path.exists(), f"{path} is missing: `dev/setup.sh test` puts it there"
    return path


@pytest.fixture
def repository() -> Path:
    """Return the root of this checkout."""
    return Path(__file__).parent
