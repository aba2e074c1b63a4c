"""One database with its tables and the raw API over it, and what runs the command against it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pymysql
import pytest

from dev.mariadb import Mariadb
from dev.program import Program
from ingest.schema import upgrade
from latido import settings
from latido.history import program


@dataclass(frozen=True)
class Outcome:
    """What a run of the command wrote, and its exit status."""

    status: int
    out: str
    err: str

    def json(self) -> Any:  # noqa: ANN401 - a test looks at what it is
        assert self.status == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Outcome]


def connect(dsn: str) -> pymysql.Connection[pymysql.cursors.Cursor]:
    """Return a connection with autocommit."""
    parts = settings.dsn(dsn)
    return pymysql.connect(
        host=parts.host,
        port=parts.port,
        user=parts.user,
        password=parts.password,
        database=parts.database,
        autocommit=True,
    )


@pytest.fixture(scope="session")
def make_database(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Yield a maker of databases of this version: on the session's MariaDB, or on the server of LATIDO_TEST_DSN."""
    made: list[tuple[str, str]] = []
    given = os.environ.get("LATIDO_TEST_DSN")
    prefix = f"history_{secrets.token_hex(3)}"

    def make(name: str) -> str:
        if given is None:
            mariadb: Mariadb = request.getfixturevalue("mariadb")
            dsn = mariadb.create_database(f"{prefix}_{name}")
        else:
            server = given if urlsplit(given).path.strip("/") else given.rstrip("/") + "/mysql"
            with connect(server) as connection, connection.cursor() as cursor:
                cursor.execute(f"CREATE DATABASE `{prefix}_{name}`")
            made.append((server, f"{prefix}_{name}"))
            dsn = f"{server.removesuffix(settings.dsn(server).database)}{prefix}_{name}"
        environ = pytest.MonkeyPatch()
        with environ.context() as patch:
            patch.setenv("LATIDO_DB_DSN", dsn)
            assert upgrade.main(["--days-back=3"]) == 0
        return dsn

    yield make
    for server, name in made:  # a server that was given to the tests is left as it was
        with connect(server) as connection, connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE `{name}`")


@pytest.fixture(scope="session")
def dsn(make_database: Callable[[str], str]) -> str:
    """Return the DSN of the database that the tests share, each with hosts of its own."""
    return make_database("shared")


@pytest.fixture(scope="session")
def api(dsn: str) -> Iterator[str]:
    """Run `latido ingest raw` over it and return its URL."""
    running = Program(("ingest", "raw"), (), {"LATIDO_DB_DSN": dsn}).start()
    yield running.url
    status, log = running.stop(), running.log()
    running.close()
    assert status == 0, log


@pytest.fixture
def history(dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return what runs `latido history` with flags, in UTC."""

    def run(*flags: str, database: str = dsn, columns: int = 120) -> Outcome:
        monkeypatch.setenv("LATIDO_DB_DSN", database)
        monkeypatch.setenv("COLUMNS", str(columns))
        status = program.main([*flags, "--utc"])
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run
