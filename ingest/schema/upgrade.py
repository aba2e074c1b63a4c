"""`latido db upgrade`: bring the database to this version's tables, with the day partitions around today.

Running it again changes nothing; two at once take turns.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ingest.schema import database, partitions
from latido import logs, settings
from latido.settings import DatabaseSettings, LogSettings, SettingsError, group, setting

log = logs.get(__name__)

PROG: Final = "latido db upgrade"
VERSION_TABLE: Final = "latido_schema_version"
"""Not `alembic_version`: the database may be shared with a program that uses Alembic too."""


@dataclass(frozen=True)
class UpgradeSettings:
    """What `latido db upgrade` takes."""

    days_back: int = setting(
        "days-back", settings.integer(0, 400), "3", "days before today that new tables hold", metavar="DAYS"
    )
    ahead: int = setting(
        "ahead", settings.integer(1, 100), "7", "coming days for which partitions are made", metavar="DAYS"
    )
    wait: float = setting(
        "wait", settings.duration, "60s", "how long to wait for a database that comes up late", metavar="DURATION"
    )
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(
        UpgradeSettings, PROG, "Bring the database to this version's tables. Safe to run again.", argv, os.environ
    )
    logs.setup(given.log.level, given.log.format)
    dsn = given.database.resolved()
    try:
        with database.connect(dsn, wait=given.wait) as connection, database.turn(connection, dsn.database):
            upgrade(connection, days_back=given.days_back, ahead=given.ahead)
    except DBAPIError as error:
        raise SettingsError(f"{dsn}: {database.reason(error)}") from None
    return 0


def upgrade(connection: Connection, *, days_back: int, ahead: int) -> None:
    """Run the revisions that the database lacks, then make the partitions up to `ahead` days after today."""
    today = database.today(connection)
    first_days = partitions.days(today - timedelta(days=days_back), today + timedelta(days=ahead))
    command.upgrade(alembic(connection, attributes={"first_days": first_days}), "head")
    for table, held in database.read_days(connection).items():
        coming = partitions.missing(held, today, ahead=ahead)
        if coming:
            statement = f"ALTER TABLE {table} ADD PARTITION {partitions.definitions(coming)}"
            database.alter(connection, statement, table)
            log.info("made partitions", table=table, first=partitions.name(coming[0]), count=len(coming))
    held = database.read_days(connection)["procesos"]
    log.info("the database is up to date", first_day=held[0].isoformat(), last_day=held[-1].isoformat())


def downgrade(connection: Connection, revision: str) -> None:
    """Take revisions back to `revision` (`base`: no tables)."""
    command.downgrade(alembic(connection, attributes={}), revision)


def revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, None without tables."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def alembic(connection: Connection, attributes: dict[str, object]) -> Config:
    """Return what Alembic's commands need: the scripts, and the connection that they run over."""
    config = Config()  # no alembic.ini: the scripts are in the wheel
    config.set_main_option("script_location", str(files("ingest.schema") / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    config.attributes.update(attributes)
    return config
