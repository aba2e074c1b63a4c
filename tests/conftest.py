"""The whole stack for one test: a database with its tables, both APIs, and more where asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dev.mariadb import Mariadb
from dev.program import Program, Start
from ingest.schema import upgrade


@pytest.fixture
def database(empty_database: str) -> str:
    """Return the DSN of a database of this version."""
    assert upgrade.main([f"--db.dsn={empty_database}"]) == 0
    return empty_database


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs; each must end by SIGTERM with status 0 if it still runs when the test is over."""
    programs: list[Program] = []

    def start_it(*command: str, ready: str = "/-/ready", flags: tuple[str, ...] = (), dsn: str = "") -> Program:
        program = Program(command, flags, {"LATIDO_DB_DSN": dsn} if dsn else {})
        programs.append(program)
        return program.start(ready)

    yield start_it
    statuses = {" ".join(program.command): program.stop() for program in reversed(programs) if program.runs()}
    for program in programs:
        program.close()
    assert dict.fromkeys(statuses, 0) == statuses


@pytest.fixture
def own_mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mariadb]:
    """Run a server of the test's own, which it may stop and start."""
    server = Mariadb(tmp_path_factory.mktemp("own-mariadb"), options=("--innodb-buffer-pool-size=128M",))
    server.start()
    yield server
    server.stop()
