"""The command `latido history`: flags, the database, and which page is written. It only reads."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

import pymysql

from latido import settings
from latido.history import export, follow, groups, moments, reader, rebuild, text
from latido.history.follow import Followed, Life, Step
from latido.history.groups import By, Sort
from latido.history.model import NoDataError, ProcessRow, Stream, Tick
from latido.history.terminal import Style, escaped
from latido.settings import DatabaseSettings, Dsn, SettingsError, group, setting

PROG: Final = "latido history"
DESCRIPTION: Final = """\
Show the process table of a host as it was at a moment, or one process through time.

examples:
  latido history --host web-1 --at '2026-11-23 03:12'
  latido history --host web-1 --at 03:12 --by container --sort rss
  latido history --host web-1 --at '5m ago' --window 1h --limit 10
  latido history --host web-1 --pid 4242 --from 'yesterday 22:00' --to '2h ago'
  latido history --host web-1 --at 03:12 --utc --json | jq '.machines[].rows[0]'

CPU% is of one CPU: 200 is two of them, busy all the time. CPU, READ and WRITTEN are sums over the window that ends
at the moment; a process that ended in it is marked (exited) and has its last values. Times are this machine's
local ones unless --utc or --timezone says otherwise."""

TEXT_LIMIT: Final = 30
LONGEST_WINDOW: Final = timedelta(days=7)
FOLLOWED: Final = timedelta(days=1)
"""How far back a process is followed unless --from says otherwise."""
STEPS_SHOWN: Final = 40
"""Lines that a process through time takes at most, unless --step says otherwise."""
MANY_ROWS: Final = 3000
"""Rows of one process that are read one by one though a page shows fewer: half a second's work."""
_STEP_SIZES: Final = (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 86400)
_WIDTH: Final = 132
"""Columns where no terminal says how many: the wide mode of the VT100."""


@dataclass(frozen=True)
class HistorySettings:
    """What `latido history` takes."""

    host: str | None = setting("host", settings.text, None, "the host's name; not needed where there is one alone")
    at: str | None = setting("at", settings.text, None, f"the moment: {moments.FORMS}; otherwise now", metavar="TIME")
    window: float = setting(
        "window", settings.positive_duration, "5m", "stretch before the moment that CPU and I/O are summed over"
    )
    by: By = setting("by", settings.choice(*groups.BY), "pid", f"one line for each: {', '.join(groups.BY)}")
    sort: Sort = setting("sort", settings.choice(*groups.SORT), "cpu", f"largest first: {', '.join(groups.SORT)}")
    limit: int | None = setting(
        "limit", settings.integer(0, 1_000_000), None, f"lines shown, 0 for all; {TEXT_LIMIT}, with --json or --csv all"
    )
    pid: int | None = setting("pid", settings.integer(1, 2**31 - 1), None, "follow this process through time")
    start: int | None = setting(
        "start", settings.integer(0, 2**63 - 1), None, "start ticks of the process, where several had the pid"
    )
    first: str | None = setting(
        "from", settings.text, None, "follow from this moment; a day before --to", metavar="TIME"
    )
    last: str | None = setting("to", settings.text, None, "follow to this moment; --at, or now", metavar="TIME")
    step: float | None = setting(
        "step", settings.duration, None, "follow in steps of this length, 0s for every sample; as long as fits a page"
    )
    stream: str | None = setting(
        "stream", settings.text, None, "only streams whose id begins so, where several machines report as one host"
    )
    zone: tzinfo | None = setting(
        "timezone", moments.timezone, "local", "zone of times given and shown: local, UTC or Europe/Madrid"
    )
    utc: bool = setting("utc", settings.boolean, "false", "the same as --timezone=UTC")
    json: bool = setting("json", settings.boolean, "false", "print one JSON document, at full precision")
    csv: bool = setting("csv", settings.boolean, "false", "print CSV, at full precision")
    timeout: float = setting("timeout", settings.positive_duration, "1m", "how long to wait for the database")
    database: DatabaseSettings = group(DatabaseSettings)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status: 1 if there is nothing to show or no database, 2 for a mistake."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(HistorySettings, PROG, DESCRIPTION, argv, os.environ)
    try:
        written = answer(given, datetime.now(UTC), page(given, os.environ, is_terminal=sys.stdout.isatty()))
    except NoDataError as error:
        sys.stderr.write(f"{PROG}: {error}\n")
        return 1
    except pymysql.MySQLError as error:
        reason = str(error.args[-1]) if error.args else type(error).__name__
        sys.stderr.write(f"{PROG}: {given.database.dsn}: {reason}\n")
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell counts SIGINT
    return _write(written)


def _write(written: str) -> int:
    encoding = sys.stdout.encoding or "utf-8"
    shown = written.encode(encoding, "backslashreplace").decode(encoding)  # a terminal may know only ASCII
    try:
        sys.stdout.write(shown)
        sys.stdout.flush()
    except BrokenPipeError:
        # `| head` has seen enough. The interpreter would flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def page(given: HistorySettings, environ: Mapping[str, str], *, is_terminal: bool) -> text.Page:
    """Return the page that standard output is: colours on a terminal alone, if NO_COLOR does not forbid them."""
    colour = is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    cells = shutil.get_terminal_size((_WIDTH, 24)).columns
    return text.Page(cells, Style(colour), UTC if given.utc else given.zone)


def answer(given: HistorySettings, now: datetime, shown: text.Page) -> str:
    """Return what is written. Raises SettingsError, NoDataError and pymysql.MySQLError."""
    _check(given)
    at = _moment("at", given.at, now, now, shown.zone)
    with database(given.database.resolved(), given.timeout) as query:
        found = _streams(query, given)
        if given.pid is None:
            return _snapshot(query, found, given, at, shown)
        return _follow(query, found, given, now, shown)


def _check(given: HistorySettings) -> None:
    if given.json and given.csv:
        raise SettingsError("--json and --csv: choose one")
    if given.window > LONGEST_WINDOW.total_seconds():
        raise SettingsError(f"--window: expected at most {LONGEST_WINDOW.days}d")
    for flag, value in (("start", given.start), ("from", given.first), ("to", given.last), ("step", given.step)):
        if value is not None and given.pid is None:
            raise SettingsError(f"--{flag} is about one process: give its --pid, or a moment with --at")


def _moment(flag: str, given: str | None, now: datetime, otherwise: datetime, zone: tzinfo | None) -> datetime:
    if given is None:
        return otherwise.replace(microsecond=otherwise.microsecond // 1000 * 1000)
    try:
        return moments.parse(given, now, zone)
    except ValueError as error:
        raise SettingsError(f"--{flag}: {error}") from None


@contextmanager
def database(dsn: Dsn, timeout: float) -> Iterator[reader.Query]:
    """Yield what runs statements, all of them over one state of the database. Raises pymysql.MySQLError."""
    seconds = max(1, round(timeout))
    connection = pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        database=dsn.database,
        ssl={"ca": dsn.ssl_ca} if dsn.ssl_ca else None,
        connect_timeout=seconds,
        read_timeout=seconds,
        init_command="SET time_zone = '+00:00'",
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")

        def query(statement: str, arguments: Sequence[reader.Cell]) -> Sequence[reader.Row]:
            cursor.execute(statement, tuple(arguments))
            return cursor.fetchall()

        yield query


def _streams(query: reader.Query, given: HistorySettings) -> list[Stream]:
    host = given.host
    if host is None:
        names = reader.hosts(query)
        if len(names) != 1:
            remedy = "; name one with --host" if names else ""
            raise NoDataError(f"{reader.known(names)}{remedy}")
        host = names[0]
    found = reader.streams(query, host)
    if given.stream is None:
        return found
    chosen = [stream for stream in found if stream.stream.startswith(given.stream)]
    if not chosen:
        known = ", ".join(stream.stream for stream in found)
        raise NoDataError(f"--stream: none of {host} begins with {given.stream!r}; there are {known}")
    return chosen


# --- a moment ---


def _snapshot(
    query: reader.Query, found: Sequence[Stream], given: HistorySettings, at: datetime, shown: text.Page
) -> str:
    window = timedelta(seconds=given.window)
    readings = [reading for stream in found if (reading := reader.read(query, stream, at, window))]
    machines = rebuild.machines(readings)
    host = found[0].host
    if not machines:
        raise NoDataError(_nothing(query, found, at, shown))
    if given.json or given.csv:
        parts = [(machine, _records(machine, given)) for machine in machines]
        if given.json:
            return export.snapshot_json(host, at, given.window, parts)
        return export.snapshot_csv(host, at, parts)
    asked = text.Asked(host, at, window, given.by)
    pages = ["\n".join(_machine_page(machine, asked, given, shown)) for machine in machines]
    if len(machines) > 1:
        names = ", ".join(machine.readings[-1].stream.stream for machine in machines)
        warning = f"! {len(machines)} machines or exporters report as {host}, one below the other (--stream): {names}"
        pages.insert(0, shown.style.warning(warning))
    return "\n\n".join(pages) + "\n"


def _nothing(query: reader.Query, found: Sequence[Stream], at: datetime, shown: text.Page) -> str:
    before, after = reader.nearest(query, found, at)
    nearest = [
        *([f"the last one before it is of {shown.time(before)}"] if before else ["none is older"]),
        *([f"the first one after it is of {shown.time(after)}"] if after else ["none is newer"]),
    ]
    return (
        f"{found[0].host} has no process table in the day before {shown.time(at)}: {' and '.join(nearest)}"
        if before or after
        else f"{found[0].host} has stored no process table"
    )


def _limited(count: int, given: HistorySettings) -> int:
    limit = given.limit if given.limit is not None else 0 if given.json or given.csv else TEXT_LIMIT
    return count if limit == 0 else min(limit, count)


def _records(machine: rebuild.Machine, given: HistorySettings) -> list[export.Record]:
    if given.by == "pid":
        lines = groups.sorted_lines(machine.lines, given.sort)
        return [export.process_record(line) for line in lines[: _limited(len(lines), given)]]
    summed = groups.sorted_groups(groups.grouped(machine.lines, given.by), given.sort)
    return [export.group_record(item, given.by) for item in summed[: _limited(len(summed), given)]]


def _machine_page(machine: rebuild.Machine, asked: text.Asked, given: HistorySettings, shown: text.Page) -> list[str]:
    page_lines = [*text.heading(machine, asked, shown), ""]
    if given.by == "pid":
        lines = groups.sorted_lines(machine.lines, given.sort)
        count = len(lines)
        page_lines += text.process_table(lines[: _limited(count, given)], machine.coverage, shown)
    else:
        summed = groups.sorted_groups(groups.grouped(machine.lines, given.by), given.sort)
        count = len(summed)
        page_lines += text.group_table(summed[: _limited(count, given)], given.by, machine.coverage, shown)
    hidden = count - _limited(count, given)
    if hidden:
        page_lines.append(shown.style.faint(f"and {hidden} more; --limit 0 shows all"))
    return page_lines


# --- one process through time ---


def _follow(
    query: reader.Query,
    found: Sequence[Stream],
    given: HistorySettings,
    now: datetime,
    shown: text.Page,
) -> str:
    assert given.pid is not None  # noqa: S101 - who calls has looked
    at = _moment("at", given.at, now, now, shown.zone)
    last = _moment("to", given.last, now, at, shown.zone)
    first = _moment("from", given.first, now, last - FOLLOWED, shown.zone)
    if first >= last:
        raise SettingsError(f"--from: {shown.time(first)} is not before --to, {shown.time(last)}")
    parts = [life for stream in found for life in follow.lives(stream, _rows(query, stream, given, first, last))]
    if not parts:
        raise NoDataError(
            f"{found[0].host} has no sample of pid {given.pid} from {shown.time(first)} to {shown.time(last)}"
        )
    start = _choose(parts, given, at if given.at else None, shown)
    followed = _join(query, [life for life in parts if life.start_ticks == start], first, last)
    size = _step_size(given, followed.steps)
    steps = follow.bucketed(followed.steps, followed.ticks, timedelta(seconds=size)) if size else followed.steps
    if given.json:
        return export.life_json(followed.life, followed.missing, steps)
    if given.csv:
        return export.life_csv(followed.life, steps)
    return "\n".join(text.life_text(followed, steps, size, shown)) + "\n"


def _rows(
    query: reader.Query, stream: Stream, given: HistorySettings, first: datetime, last: datetime
) -> list[ProcessRow]:
    """Return the rows of the pid: all, or where there are many and steps are shown, as the database sums them."""
    assert given.pid is not None  # noqa: S101 - who calls has looked
    outlines = reader.outline(query, stream, given.pid, first, last)
    count = sum(outline.rows for outline in outlines.values())
    if count > MANY_ROWS and given.step != 0 and (given.step or not (given.json or given.csv)):
        # Of several processes the shortest decides: a step that is shown is a multiple of what is summed here.
        shortest = min((outline.last - outline.first).total_seconds() for outline in outlines.values())
        step = given.step or _fitting(shortest)
        thin = reader.thinned(query, stream, given.pid, (first, last), timedelta(seconds=step))
        if sum(row.stretch.samples for row in thin) == count:
            return thin
    return reader.one_process(query, stream, given.pid, first, last) if count else []


def _choose(parts: Sequence[Life], given: HistorySettings, at: datetime | None, shown: text.Page) -> int:
    """Return the start ticks of the process meant. Raises SettingsError listing those that had the pid."""
    starts = {life.start_ticks for life in parts}
    if given.start is not None and given.start in starts:
        return given.start
    if given.start is None and len(starts) == 1:
        return next(iter(starts))
    if given.start is None and at is not None:
        begun = [life for life in parts if life.rows[0].stretch.first.at <= at]
        if begun:
            return max(begun, key=lambda life: life.rows[0].tick.at).start_ticks
    lines = [
        f"  --start {life.start_ticks}  {shown.time(life.rows[0].stretch.first.at)}"
        f" to {shown.time(life.rows[-1].tick.at)}"
        f"  {escaped(life.rows[-1].names.command or text.UNKNOWN)}{' (exited)' if life.exited else ''}"
        for life in parts
    ]
    raise SettingsError("\n".join([f"--start: these had pid {given.pid}; say which", *lines]))


def _join(query: reader.Query, parts: Sequence[Life], first: datetime, last: datetime) -> Followed:
    """Return a process over all streams that saw it: a spool may have been made anew while it ran."""
    steps: list[Step] = []
    ticks: list[Tick] = []
    missing = 0
    for life in parts:
        before = reader.last_tick(query, life.stream, first - timedelta(milliseconds=1))
        known = sorted({*reader.ticks(query, life.stream, first, last), *([before] if before else [])})
        steps += follow.samples(life, known)
        ticks += known
        seqs = [tick.seq for tick in known]
        if max(seqs) - min(seqs) + 1 > len(seqs):
            missing += max(seqs) - min(seqs) + 1 - len(seqs) - len(reader.elsewhere(query, life.stream, known))
    rows = [row for life in sorted(parts, key=lambda life: life.rows[0].tick.at) for row in life.rows]
    life = Life(parts[-1].stream, rows)
    return Followed(life, first, last, sorted(steps, key=lambda step: step.until), ticks, missing)


def _step_size(given: HistorySettings, steps: Sequence[Step]) -> float:
    """Return the length of a step in seconds, 0 for every sample."""
    if given.step is not None:
        return given.step
    summed = any(step.row is not None and step.row.summed for step in steps)
    if given.json or given.csv or (len(steps) <= STEPS_SHOWN and not summed):
        return 0
    return _fitting((steps[-1].until - steps[0].after).total_seconds())


def _fitting(seconds: float) -> float:
    """Return the smallest step that shows so many seconds on a page."""
    return next((size for size in _STEP_SIZES if seconds / size < STEPS_SHOWN - 1), _STEP_SIZES[-1])
