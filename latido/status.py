"""`latido status`: is everything running, how old is the newest sample of each host, who stored how much.

It asks each program over HTTP, as Prometheus and a load balancer would, and the database by SQL; what does not
answer is shown with its reason. Exit status 0 if all is well, 1 if something is not, 2 for a mistake in the flags.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import pymysql

from latido import settings
from latido.settings import DatabaseSettings, Dsn, SettingsError, group, setting

PROG: Final = "latido status"
FEEDS: Final = ("ram", "cpu", "procesos")
MAX_BODY: Final = 16 << 20


@dataclass(frozen=True)
class StatusSettings:
    """What `latido status` takes. A program whose URL is given as `none` is left out."""

    exporter: str = setting("exporter.url", str, "http://127.0.0.1:10110", "the exporter", metavar="URL")
    raw: str = setting("ingest-raw.url", str, "http://127.0.0.1:10111", "the raw ingest API", metavar="URL")
    orm: str = setting("ingest-orm.url", str, "http://127.0.0.1:10112", "the orm ingest API", metavar="URL")
    bridge: str = setting("bridge.url", str, "http://127.0.0.1:10113", "the bridge", metavar="URL")
    prometheus: str = setting("prometheus.url", str, "none", "a Prometheus", metavar="URL")
    timeout: float = setting("timeout", settings.positive_duration, "3s", "how long to wait for each", metavar="TIME")
    json: bool = setting("json", settings.boolean, "false", "print one JSON document")
    database: DatabaseSettings = group(DatabaseSettings)

    def programs(self) -> dict[str, str]:
        """Return the programs to ask, name to URL. Raises SettingsError."""
        given = {
            "exporter": self.exporter,
            "ingest-raw": self.raw,
            "ingest-orm": self.orm,
            "bridge": self.bridge,
            "prometheus": self.prometheus,
        }
        try:
            return {name: settings.http_url(url) for name, url in given.items() if url != "none"}
        except ValueError as error:
            raise SettingsError(str(error)) from None


@dataclass(frozen=True)
class ProgramStatus:
    """One program: `ready` as it says itself, else why it is not."""

    name: str
    url: str
    ready: bool
    reason: str = ""


@dataclass(frozen=True)
class FeedStatus:
    """One feed of one host: the age in seconds of its newest sample, and samples of the last hour by API."""

    host: str
    stream: str
    feed: str
    age_seconds: float
    raw: int
    orm: int


@dataclass(frozen=True)
class Spool:
    """The exporter's spool: bytes, samples, and what waits for each API."""

    bytes: int
    samples: int
    pending: dict[str, int]
    dead_letters: int
    lost: int


@dataclass(frozen=True)
class Status:
    """Everything that `latido status` shows."""

    programs: list[ProgramStatus]
    database: str
    database_reason: str
    feeds: list[FeedStatus]
    spool: Spool | None

    @property
    def well(self) -> bool:
        """Whether every program is ready and the database answers."""
        return not self.database_reason and all(program.ready for program in self.programs)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(StatusSettings, PROG, "Show how the programs and the data are doing.", argv, os.environ)
    found = gather(given)
    sys.stdout.write(as_json(found) if given.json else as_text(found))
    return 0 if found.well else 1


def gather(given: StatusSettings) -> Status:
    """Ask every program and the database."""
    programs = given.programs()
    asked = [_ask(name, url, given.timeout) for name, url in programs.items()]
    dsn = given.database.resolved()
    reason, feeds = "", []
    try:
        feeds = _feeds(dsn, given.timeout)
    except pymysql.MySQLError as error:
        reason = str(error.args[-1]) if error.args else type(error).__name__
    spool = None
    if "exporter" in programs:
        body, _ = _get(f"{programs['exporter']}/metrics", given.timeout)
        spool = spool_of(body) if body is not None else None
    return Status(asked, str(dsn), reason, feeds, spool)


def _ask(name: str, url: str, timeout: float) -> ProgramStatus:
    body, reason = _get(f"{url}/-/ready", timeout)
    return ProgramStatus(name, url, body is not None, reason)


def _get(url: str, timeout: float) -> tuple[str | None, str]:
    """Return the body of a 200, or None and why there is none."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:  # noqa: S310 - http_url let only http and https pass
            return response.read(MAX_BODY).decode("utf-8", "replace"), ""
    except urllib.error.HTTPError as error:
        body = error.read(300).decode("utf-8", "replace").strip()
        return None, f"{error.code} {body}"
    except (OSError, http.client.HTTPException) as error:
        return None, str(getattr(error, "reason", error)) or type(error).__name__


_SERIES: Final = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def spool_of(exposition: str) -> Spool | None:
    """Return the spool's state from the exporter's exposition; None if the exporter does not push."""
    values: dict[str, float] = {}
    pending: dict[str, int] = {}
    lost = 0
    for line in exposition.splitlines():
        match = _SERIES.match(line)
        if match is None:
            continue
        name, labels, value = match[1], dict(_LABEL.findall(match[2] or "")), match[3]
        if name == "latido_spool_pending_samples":
            pending[labels["api"]] = pending.get(labels["api"], 0) + int(float(value))
        elif name == "latido_spool_lost_samples_total":
            lost += int(float(value))
        elif name.startswith("latido_spool_"):
            values[name] = float(value)
    if "latido_spool_bytes" not in values:
        return None
    return Spool(
        bytes=int(values["latido_spool_bytes"]),
        samples=int(values["latido_spool_samples"]),
        pending=pending,
        dead_letters=int(values["latido_spool_dead_letters"]),
        lost=lost,
    )


def _feeds(dsn: Dsn, timeout: float) -> list[FeedStatus]:
    connection = pymysql.connect(
        host=dsn.host,
        port=dsn.port,
        user=dsn.user,
        password=dsn.password,
        database=dsn.database,
        ssl={"ca": dsn.ssl_ca} if dsn.ssl_ca else None,
        connect_timeout=max(1, int(timeout)),
        read_timeout=max(1, int(timeout)),
        init_command="SET time_zone = '+00:00'",
    )
    found: list[FeedStatus] = []
    with connection, connection.cursor() as cursor:
        for feed in FEEDS:
            # The newest by primary key; the counts over an hour of it, which the day's partition answers.
            cursor.execute(
                "SELECT name, stream, TIMESTAMPDIFF(MICROSECOND, newest, UTC_TIMESTAMP(3)) / 1000000,"  # noqa: S608 - feed is one of FEEDS
                f" (SELECT COUNT(*) FROM {feed} WHERE host_id = id AND api = 'raw'"
                "   AND sampled_at > UTC_TIMESTAMP(3) - INTERVAL 1 HOUR),"
                f" (SELECT COUNT(*) FROM {feed} WHERE host_id = id AND api = 'orm'"
                "   AND sampled_at > UTC_TIMESTAMP(3) - INTERVAL 1 HOUR)"
                f" FROM (SELECT id, name, stream, (SELECT MAX(sampled_at) FROM {feed} WHERE host_id = id) AS newest"
                " FROM hosts) AS latest WHERE newest IS NOT NULL ORDER BY newest DESC, name LIMIT 1000"
            )
            for host, stream, age, raw, orm in cursor.fetchall():
                found.append(FeedStatus(host, stream, feed, float(age), int(raw), int(orm)))
    return found


def as_json(found: Status) -> str:
    """Return the status as one JSON document."""
    return json.dumps({"well": found.well, **asdict(found)}, indent=2) + "\n"


def as_text(found: Status) -> str:
    """Return the status for a terminal."""
    lines = [_row((program.name, program.url, _health(program))) for program in found.programs]
    lines.append(_row(("database", found.database, found.database_reason or "answers")))
    if found.spool is not None:
        lines += ["", *_spool_lines(found.spool)]
    if found.feeds:
        lines += ["", _row(("HOST", "FEED", "NEWEST", "BY RAW, 1 H", "BY ORM, 1 H"), _WIDE)]
        lines += [
            _row((feed.host, feed.feed, f"{feed.age_seconds:.1f} s ago", str(feed.raw), str(feed.orm)), _WIDE)
            for feed in sorted(found.feeds, key=lambda feed: (feed.host, feed.stream, FEEDS.index(feed.feed)))
        ]
        if found.spool is not None and len(found.spool.pending) > 1:
            lines += ["", "A sample goes to every API and is stored once: it counts for the API that was first."]
    elif not found.database_reason:
        lines += ["", "no sample stored yet"]
    return "\n".join(lines) + "\n"


_NARROW: Final = (12, 44)
_WIDE: Final = (24, 9, 14, 12)


def _row(cells: Sequence[str], widths: Sequence[int] = _NARROW) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return " ".join([*padded, *cells[len(widths) :]]).rstrip()


def _health(program: ProgramStatus) -> str:
    # What a program answers goes to a terminal: no control character passes.
    reason = "".join(character if character.isprintable() else " " for character in program.reason)
    return "ready" if program.ready else f"NOT READY: {reason}"


def _spool_lines(spool: Spool) -> list[str]:
    pending: Mapping[str, int] = spool.pending
    lines = [_row(("spool", f"{spool.samples} samples, {spool.bytes / 1024:.0f} KiB", f"{spool.lost} lost"))]
    lines += [_row(("", url, f"{count} waiting")) for url, count in pending.items()]
    if spool.dead_letters:
        lines.append(_row(("", "refused and kept aside", str(spool.dead_letters))))
    return lines
