from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bridge_ws.tests.rig import Writer, upgrade
from dev.mariadb import Mariadb
from dev.program import Program
from latido import settings
from latido.settings import Dsn


@pytest.fixture(scope="session")
def tables(mariadb: Mariadb) -> list[str]:
    """Return the statements that make this version's tables, from a database that `latido db upgrade` has made."""
    upgrade(mariadb.create_database("latido_bridge_tables"))
    with mariadb.connect("latido_bridge_tables") as connection, connection.cursor() as cursor:
        cursor.execute("SHOW TABLES")
        names = [str(row[0]) for row in cursor.fetchall()]
        statements = []
        for name in names:
            cursor.execute(f"SHOW CREATE TABLE `{name}`")
            found = cursor.fetchone()
            assert found is not None
            statements.append(str(found[1]))
    return statements


@pytest.fixture
def database(mariadb: Mariadb, empty_database: str, tables: list[str]) -> Dsn:
    """Return a database with this version's tables."""
    dsn = settings.dsn(empty_database)
    with mariadb.connect(dsn.database) as connection, connection.cursor() as cursor:
        for statement in tables:
            cursor.execute(statement)
    return dsn


@pytest.fixture
def writers(database: Dsn) -> Iterator[Callable[[], Writer]]:
    """Return what opens another writer's connection."""
    opened: list[Writer] = []

    def open_one() -> Writer:
        opened.append(Writer(database))
        return opened[-1]

    yield open_one
    for writer in opened:
        writer.close()


@pytest.fixture
def start_bridge() -> Iterator[Callable[..., Program]]:
    """Return what starts a bridge over a database, with flags; all are ended after the test."""
    started: list[Program] = []

    def start(dsn: Dsn | str, *flags: str, ready: str = "/-/ready") -> Program:
        program = Program(["bridge"], [f"--db.dsn={dsn}", "--bridge.poll-interval=50ms", *flags])
        started.append(program)
        return program.start(ready)

    yield start
    for program in started:
        status = program.stop()
        program.close()
        assert status == 0
