"""`latido db downgrade`: take the tables back to an earlier revision, for a version that cannot live with this one's.

A rollback of the programs alone needs none: an older version serves with newer tables. Going back is said by name, and
what drops rows wants to be said twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from ingest.schema import database, upgrade
from latido import logs, settings
from latido.settings import DatabaseSettings, LogSettings, SettingsError, group, setting

log = logs.get(__name__)

PROG: Final = "latido db downgrade"
NOTHING: Final = "base"
"""The state before the first revision."""


@dataclass(frozen=True)
class DowngradeSettings:
    """What `latido db downgrade` takes."""

    to: str | None = setting(
        "to",
        str,
        None,
        "the revision to go back to, such as 0001; `base` drops all tables with the whole history",
        metavar="REVISION",
    )
    drop_history: bool = setting(
        "drop-history", settings.boolean, "false", "yes, drop every row of the history: what `--to=base` does"
    )
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(
        DowngradeSettings,
        PROG,
        "Take the tables back to an earlier revision. Stop the APIs of newer ones.",
        argv,
        os.environ,
    )
    logs.setup(given.log.level, given.log.format)
    dsn = given.database.resolved()
    try:
        with database.connect(dsn) as connection, database.turn(connection, dsn.database):
            scripts = ScriptDirectory.from_config(upgrade.alembic(connection, attributes={}))
            known = [script.revision for script in scripts.walk_revisions()]  # the newest first
            now = upgrade.revision(connection)
            if given.to is None:
                raise SettingsError(
                    f"--to is missing: the revision to go back to, one of {', '.join((*known, NOTHING))}"
                )
            if given.to not in {*known, NOTHING}:
                raise SettingsError(f"--to: no revision {given.to!r}; known are {', '.join((*known, NOTHING))}")
            if now is None:
                raise SettingsError(f"{dsn}: no tables; `latido db upgrade` makes them")
            if now not in known:
                raise SettingsError(f"{dsn}: at revision {now!r}, which a newer version made; downgrade with that one")
            if given.to != NOTHING and known.index(given.to) < known.index(now):
                raise SettingsError(f"--to: {dsn} is at {now}; `latido db upgrade` goes forward")
            if given.to == NOTHING and not given.drop_history:
                raise SettingsError(f"--to=base drops the whole history of {dsn}; say so with --drop-history")
            upgrade.downgrade(connection, given.to)
            log.info("the tables went back", before=now, now=given.to)
    except DBAPIError as error:
        raise SettingsError(f"{dsn}: {database.reason(error)}") from None
    return 0
