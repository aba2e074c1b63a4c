"""`latido db retain`: make the partitions of coming days, drop those of expired ones.

A whole day goes at once, whatever it holds. Days are those of the database's clock.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final, NoReturn

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ingest.schema import database, partitions
from latido import logs, settings
from latido.settings import DatabaseSettings, Dsn, LogSettings, SettingsError, group, setting

log = logs.get(__name__)

PROG: Final = "latido db retain"

AWAY_SECONDS: Final = 5.0
"""With --every: how soon a database that was away is tried again."""


@dataclass(frozen=True)
class RetainSettings:
    """What `latido db retain` takes."""

    days: int = setting("days", settings.integer(1, 3650), "30", "whole days kept before today", metavar="DAYS")
    ahead: int = setting(
        "ahead", settings.integer(1, 100), "7", "coming days for which partitions are made", metavar="DAYS"
    )
    every: float | None = setting(
        "every", settings.positive_duration, None, "do it again and again, this far apart", metavar="DURATION"
    )
    database: DatabaseSettings = group(DatabaseSettings)
    log: LogSettings = group(LogSettings)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(RetainSettings, PROG, "Make coming day partitions, drop expired ones.", argv, os.environ)
    logs.setup(given.log.level, given.log.format)
    dsn = given.database.resolved()
    if given.every is None:
        try:
            retain_once(dsn, keep=given.days, ahead=given.ahead)
        except DBAPIError as error:
            raise SettingsError(f"{dsn}: {database.reason(error)}") from None
        return 0
    # An exception from the handler also ends a statement that waits: DDL on either server is whole or not at all.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    try:
        _repeat(dsn, given, given.every)
    except _Stopped:
        log.info("stopped")
    return 0


class _Stopped(BaseException):
    """SIGTERM or SIGINT. No `except Exception` on the way may take it for an error."""


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped


def _repeat(dsn: Dsn, given: RetainSettings, every: float) -> NoReturn:
    while True:
        pause = every
        try:
            retain_once(dsn, keep=given.days, ahead=given.ahead)
        except (DBAPIError, SettingsError) as error:
            # Also before the first `latido db upgrade`, and while another program alters the tables: both pass.
            pause = min(every, AWAY_SECONDS)
            text = database.reason(error) if isinstance(error, DBAPIError) else str(error)
            log.warning("partitions not looked after", reason=text, retry_seconds=pause)
        time.sleep(pause)


def retain_once(dsn: Dsn, *, keep: int, ahead: int) -> None:
    """Do it once. Raises DBAPIError, or SettingsError when there are no tables or a table stays locked."""
    with database.connect(dsn) as connection, database.turn(connection, dsn.database):
        retain(connection, keep=keep, ahead=ahead)


def retain(connection: Connection, *, keep: int, ahead: int) -> None:
    """Make every table hold `keep` days before today, today and `ahead` days after it."""
    held = database.read_days(connection)
    absent = [table for table in partitions.PARTITIONED if table not in held]
    if absent:
        raise SettingsError(f"no partitioned table {', '.join(absent)}; `latido db upgrade` makes the tables")
    today = database.today(connection)
    plans = {table: partitions.plan(held[table], today, keep=keep, ahead=ahead) for table in partitions.PARTITIONED}
    for table, plan in plans.items():
        if plan.make:
            database.alter(connection, f"ALTER TABLE {table} ADD PARTITION {partitions.definitions(plan.make)}", table)
            log.info("made partitions", table=table, first=partitions.name(plan.make[0]), count=len(plan.make))
    for table, plan in plans.items():
        if plan.drop:
            names = ", ".join(partitions.name(day) for day in plan.drop)
            database.alter(connection, f"ALTER TABLE {table} DROP PARTITION {names}", table)
            log.info("dropped partitions", table=table, names=names)
    log.info("partitions are as they should be", keep_days=keep, ahead_days=ahead, today=today.isoformat())
