"""`latido db grants`: print the SQL that gives each program's database user the rights it needs, and no others.

Printed, not run: users, their passwords and where they may come from are their administrator's to decide. A user must
exist before it is granted anything; docs/database.md shows both steps. Table rights name tables, so the tables come
first (`latido db upgrade`). `… ON DUPLICATE KEY UPDATE` wants UPDATE even where it sets a column to itself; MariaDB
10.11 refuses it to who may update that column alone, hence UPDATE of whole tables. Of the numbers of processes, which
are inserted by whoever won their sample's row, nobody needs it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ingest.schema import partitions
from latido import settings
from latido.settings import DatabaseSettings, LogSettings, group, setting

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
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(
        GrantsSettings,
        PROG,
        "Print the SQL that grants each program's user what it needs. Connects to nothing: of --db.dsn the\n"
        "database's name alone is used.",
        argv,
        os.environ,
    )
    for name in given.programs or tuple(PROGRAMS):
        for statement in statements(given.database.dsn.database, name, f"{given.prefix}{name}", given.host):
            sys.stdout.write(f"{statement};\n")
    return 0


def statements(database: str, program: str, user: str, host: str) -> list[str]:
    """Return the GRANT statements of a program (a key of `PROGRAMS`) for a user that exists."""
    name = "`" + database.replace("`", "``") + "`"
    return [f"GRANT {rights} ON {name}.{table} TO '{user}'@'{host}'" for table, rights in PROGRAMS[program].items()]
