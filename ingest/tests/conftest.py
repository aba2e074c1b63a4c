"""A database with its tables, and the APIs over it as programs."""

from __future__ import annotations

import itertools
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
import pytest

from dev.mariadb import Mariadb
from dev.program import Program, Start
from ingest.contract.vectors import TOKEN_FILE
from ingest.schema import upgrade
from ingest.tests.clients import Database
from latido import settings

Running = dict[tuple[str, bool], Program]

APIS = ("raw", "orm")

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def make_database(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Return a maker of empty databases: on the session's MariaDB, or on the server of LATIDO_TEST_DSN."""
    given = os.environ.get("LATIDO_TEST_DSN")
    if given is None:
        mariadb: Mariadb = request.getfixturevalue("mariadb")
        return lambda: mariadb.create_database(f"ingest_{next(_numbers)}")
    server = given if urlsplit(given).path.strip("/") else given.rstrip("/") + "/mysql"
    dsn = settings.dsn(server)
    run = secrets.token_hex(4)

    def make() -> str:
        name = f"latido_test_{run}_{next(_numbers)}"
        with (
            pymysql.connect(host=dsn.host, port=dsn.port, user=dsn.user, password=dsn.password) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(f"CREATE DATABASE `{name}`")
        return server.removesuffix(dsn.database) + name

    return make


@pytest.fixture
def bare(make_database: Callable[[], str]) -> str:
    """Return the DSN of a database without tables."""
    return make_database()


def make_tables(dsn: str) -> None:
    """Run `latido db upgrade` in this process."""
    environ = pytest.MonkeyPatch()
    with environ.context() as patch:
        patch.setenv("LATIDO_DB_DSN", dsn)
        assert upgrade.main([]) == 0


@pytest.fixture
def tables(bare: str) -> str:
    """Return the DSN of a database of this version."""
    make_tables(bare)
    return bare


@pytest.fixture
def start() -> Iterator[Start]:
    """Start programs; each must end by SIGTERM with status 0 if it still runs when the test is over."""
    programs: list[Program] = []

    def start_it(*command: str, ready: str = "/-/ready", flags: tuple[str, ...] = (), dsn: str = "") -> Program:
        program = Program(command, flags, {"LATIDO_DB_DSN": dsn} if dsn else {})
        programs.append(program)
        return program.start(ready)

    yield start_it
    _end(programs)


@pytest.fixture(scope="session")
def shared_dsn(make_database: Callable[[], str]) -> str:
    """Return the DSN of the database behind `running`."""
    dsn = make_database()
    make_tables(dsn)
    return dsn


@pytest.fixture(scope="session")
def running(shared_dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, bool], Program]]:
    """Run both APIs, each without and with tokens, over one database: keys are (API, with tokens)."""
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    _write_private(tokens, TOKEN_FILE)
    programs: dict[tuple[str, bool], Program] = {}
    for api in APIS:
        for with_tokens in (False, True):
            flags = (f"--auth.token-file={tokens}",) if with_tokens else ()
            program = Program(("ingest", api), flags, {"LATIDO_DB_DSN": shared_dsn})
            programs[(api, with_tokens)] = program.start(ready="")
    for program in programs.values():
        program.wait_ready()
    yield programs
    _end(list(programs.values()))


@pytest.fixture
def database(shared_dsn: str) -> Iterator[Database]:
    """Give a view into the database behind `running`."""
    view = Database(settings.dsn(shared_dsn))
    yield view
    view.close()


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _end(programs: list[Program]) -> None:
    statuses = {" ".join(program.command): program.stop() for program in reversed(programs) if program.runs()}
    logs = {" ".join(program.command): program.log() for program in programs}
    for program in programs:
        program.close()
    assert dict.fromkeys(statuses, 0) == statuses, logs
