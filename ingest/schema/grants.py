"""`latido db grants`: print the SQL that gives each program's database user the rights it needs, and no others.

Printed, and run only with `--apply`: users, their passwords and where they may come from are their administrator's to
decide. A user must exist before it is granted anything; docs/database.md shows both steps. Table rights name tables, so
the tables come first (`latido db upgrade`). `… ON DUPLICATE KEY UPDATE` wants UPDATE even where it sets a column to
itself; MariaDB 10.11 refuses it to who may update that column alone, hence UPDATE of whole tables. Of the numbers of
processes, which are inserted by whoever won their sample's row, nobody needs it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import DBAPIError

from ingest.schema import database, partitions
from latido import settings
from latido.settings import DatabaseSettings, Dsn, LogSettings, SettingsError, group, setting

PROG: Final = "latido db grants"

ALL_TABLES: Final = ("hosts", *partitions.PARTITIONED)

Rights = Mapping[str, str]
"""By table, `*` being the whole database: the privileges."""

_READ: Final[Rights] = dict.fromkeys(ALL_TABLES, "SELECT")

PROGRAMS: Final[Mapping[str, Rights]] = {
    "upgrade": {"*": "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX"},
    "ingest": {
        "hosts": "SELECT, INSERT, UPDATE",
        "ram": "SELECT, INSERT, UPDATE",
        "cpu": "SELECT, INSERT, UPDATE",
        "procesos": "SELECT, INSERT, UPDATE",
        "process_samples": "SELECT, INSERT",
        "processes": "SELECT, INSERT, UPDATE",
    },
    "bridge": _READ,
    "grafana": _READ,
    "history": _READ,
    "retain": dict.fromkeys(partitions.PARTITIONED, "SELECT, INSERT, CREATE, ALTER, DROP"),
}
"""`history` stands for `latido history` and `latido status`. ALTER wants CREATE and INSERT too (MySQL 8.4, ALTER TABLE
Statement), of which retain makes no use; it has neither on `hosts`."""

_HOST: Final = re.compile(r"[A-Za-z0-9.:%_/-]{1,255}")
_USER_PREFIX: Final = re.compile(r"[A-Za-z0-9_]{1,20}")


def program(value: str) -> str:
    """Return the name of a program that has rights."""
    return settings.choice(*PROGRAMS)(value)


def host(value: str) -> str:
    """Return where users come from: a name, an address or a pattern of MySQL's."""
    if _HOST.fullmatch(value) is None:
        raise ValueError(f"expected a host such as localhost, 10.0.0.% or %, got {value!r}")
    return value


def prefix(value: str) -> str:
    """Return what users' names begin with."""
    if _USER_PREFIX.fullmatch(value) is None:
        raise ValueError(f"expected at most 20 letters, digits and underscores, got {value!r}")
    return value


@dataclass(frozen=True)
class GrantsSettings:
    """What `latido db grants` takes."""

    programs: tuple[str, ...] = setting(
        "program", program, None, f"{', '.join(PROGRAMS)}; give it once for each (default: all)", repeated=True
    )
    host: str = setting("user-host", host, "localhost", "where the users connect from", metavar="HOST")
    prefix: str = setting("user-prefix", prefix, "latido_", "users are named by it and the program", metavar="PREFIX")
    apply: bool = setting(
        "apply",
        settings.boolean,
        "false",
        "run the statements, too, as the user of --db.dsn, who must hold what it grants",
    )
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(
        GrantsSettings,
        PROG,
        "Print the SQL that grants each program's user what it needs. Without --apply it connects to nothing: of\n"
        "--db.dsn the database's name alone is used.",
        argv,
        os.environ,
    )
    wanted = [
        statement
        for name in given.programs or tuple(PROGRAMS)
        for statement in statements(given.database.dsn.database, name, f"{given.prefix}{name}", given.host)
    ]
    for statement in wanted:
        sys.stdout.write(f"{statement};\n")
    if given.apply:
        _apply(given.database.resolved(), wanted)
    return 0


def _apply(dsn: Dsn, wanted: Sequence[str]) -> None:
    try:
        with database.connect(dsn) as connection:
            for statement in wanted:
                # A pattern such as `%` in a user's host is no placeholder.
                connection.exec_driver_sql(statement.replace("%", "%%"))
    except DBAPIError as error:
        raise SettingsError(f"{dsn}: {database.reason(error)}") from None


def statements(schema: str, program: str, user: str, host: str) -> list[str]:
    """Return the GRANT statements of a program (a key of `PROGRAMS`) for a user that exists."""
    name = "`" + schema.replace("`", "``") + "`"
    return [f"GRANT {rights} ON {name}.{table} TO '{user}'@'{host}'" for table, rights in PROGRAMS[program].items()]
