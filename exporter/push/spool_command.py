"""`latido spool list|retry|drop`: what ingest APIs have refused for what it holds, and what becomes of it.

`list` reads beside a running exporter. `retry` and `drop` write: SQLite's own lock lets them take turns with it
(sqlite.org/wal.html, Concurrency), so the exporter need not stop. `retry` posts a dead letter to the API that refused
it, as the exporter would, and forgets it once it is stored; one that is refused again stays.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import aiohttp

from exporter.push.delivery import Answer, Envelope, HttpPoster, Verdict
from exporter.push.sampler import BOOT_ID
from exporter.push.spool import VERSION, Stored
from exporter.push.tls import client_tls
from exporter.settings import TlsSettings, host_name, this_host
from ingest.contract.wire import parse_accepted
from latido import settings
from latido.settings import SettingsError, group, http_url, path, positive_duration, read_secret, setting

BUSY_SECONDS: Final = 10.0
"""How long a write waits for the exporter's, which take milliseconds."""
MAX_ID: Final = 2**63 - 1


@dataclass(frozen=True)
class DeadLetter:
    """A refused sample. `api` is the URL that refused it, or the name of a delivery mode over several."""

    id: int
    api: str
    feed: str
    stored: Stored
    status: int
    problem: str
    refused_at: int

    def line(self) -> str:
        """Return it for a person: its number, what it is, and why it was refused. An answer may hold anything."""
        problem = self.problem if self.problem.isprintable() else ascii(self.problem)
        sampled, refused = (
            datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
            for ms in (self.stored.sampled_at, self.refused_at)
        )
        return f"{self.id}\t{sampled}\t{self.feed}\t{self.stored.seq}\t{refused}\t{self.api}\t{self.status}\t{problem}"


@dataclass(frozen=True)
class ChoiceSettings:
    """Which dead letters of which spool."""

    spool_path: Path = setting("spool.path", path, "latido-spool.sqlite", "the exporter's spool", metavar="FILE")
    ids: tuple[int, ...] = setting(
        "id", settings.integer(1, MAX_ID), None, "a dead letter by its number; none: all", metavar="ID", repeated=True
    )


@dataclass(frozen=True)
class DropSettings:
    """What is forgotten: everything must be asked for."""

    everything: bool = setting("all", settings.boolean, "false", "drop every dead letter")
    choice: ChoiceSettings = group(ChoiceSettings)


@dataclass(frozen=True)
class RetrySettings:
    """Where dead letters are sent again."""

    urls: tuple[str, ...] = setting(
        "push.url", http_url, None, "APIs to try in turn; none: the one that refused", metavar="URL", repeated=True
    )
    timeout: float = setting(
        "push.timeout", positive_duration, "15s", "how long an API may take to answer", metavar="TIME"
    )
    token_file: Path | None = setting(
        "push.token-file", path, None, "file that holds the bearer token alone", metavar="FILE"
    )
    host: str | None = setting(
        "push.host", host_name, None, "name to store samples under; default: this machine's", metavar="NAME"
    )
    tls: TlsSettings = group(TlsSettings)
    choice: ChoiceSettings = group(ChoiceSettings)


def list_letters(argv: Sequence[str]) -> int:
    """`latido spool list`: print each dead letter in a line, tab-separated; return the exit status."""
    prog = "latido spool list"

    def body() -> int:
        given = settings.load(ChoiceSettings, prog, "Print what APIs have refused for what it holds.", argv, os.environ)
        with _opened(given.spool_path) as database:
            for letter in letters(database, given.ids):
                sys.stdout.write(f"{letter.line()}\n")
        return 0

    return settings.run(prog, body)


def drop(argv: Sequence[str]) -> int:
    """`latido spool drop`: forget dead letters; return the exit status."""
    prog = "latido spool drop"

    def body() -> int:
        given = settings.load(DropSettings, prog, "Forget dead letters.", argv, os.environ)
        if given.everything == bool(given.choice.ids):
            raise SettingsError("say which: --id, once for each dead letter, or --all")
        with _opened(given.choice.spool_path) as database:
            found = [letter.id for letter in letters(database, given.choice.ids)]
            for number in found:
                _forget(database, number)
        sys.stdout.write(f"{len(found)} dropped\n")
        return 0

    return settings.run(prog, body)


def retry(argv: Sequence[str]) -> int:
    """`latido spool retry`: send dead letters again; return 1 if one was not stored."""
    prog = "latido spool retry"

    def body() -> int:
        given = settings.load(RetrySettings, prog, "Send dead letters again.", argv, os.environ)
        with _opened(given.choice.spool_path) as database:
            found = list(letters(database, given.choice.ids))
            stored = asyncio.run(_send(database, found, given))
        sys.stdout.write(f"{stored} stored, {len(found) - stored} kept\n")
        return 0 if stored == len(found) else 1

    return settings.run(prog, body)


def letters(database: sqlite3.Connection, ids: Sequence[int]) -> Iterator[DeadLetter]:
    """Yield the dead letters of these numbers, or all. Raises SettingsError naming a number that is none."""
    numbers = [number for (number,) in database.execute("SELECT id FROM dead_letters ORDER BY id")]
    absent = [number for number in ids if number not in numbers]
    if absent:
        raise SettingsError(f"--id: no dead letter has the number {absent[0]}; `latido spool list` shows them")
    for number in ids or numbers:
        row = database.execute(
            "SELECT api, feed, seq, sampled_at, body, status, problem, refused_at FROM dead_letters WHERE id = ?",
            (number,),
        ).fetchone()
        if row is not None:  # None: another `drop` was quicker
            api, feed, seq, sampled_at, body, status, problem, refused_at = row
            stored = Stored(seq, sampled_at, zlib.decompress(body))
            yield DeadLetter(number, api, feed, stored, status, problem, refused_at)


async def _send(database: sqlite3.Connection, found: Sequence[DeadLetter], given: RetrySettings) -> int:
    envelope = Envelope(
        given.host or this_host(), _meta(database, "stream"), _meta(database, f"fact:{BOOT_ID}"), os.uname().release
    )
    token = None if given.token_file is None else read_secret(given.token_file, "--push.token-file")
    connector = aiohttp.TCPConnector(ssl=client_tls(given.tls))
    stored = 0
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=given.timeout), connector=connector
    ) as session:
        poster = HttpPoster(session, lambda: token)
        for letter in found:
            urls = given.urls or ((letter.api,) if "://" in letter.api else ())
            if not urls:
                raise SettingsError(f"--push.url: needed, since dead letter {letter.id} was sent by {letter.api}")
            answer = Answer(0, "no API")
            for url in urls:
                answer = await poster.post(f"{url}/api/{letter.feed}", envelope.body([letter.stored]))
                if answer.verdict not in {Verdict.RETRY, Verdict.PAUSE}:
                    break
            if answer.verdict is Verdict.STORED and parse_accepted(answer.text) is not None:
                _forget(database, letter.id)
                stored += 1
            else:
                text = answer.text[:500]
                sys.stderr.write(
                    f"{letter.id}: {answer.status or 'no answer'} {text if text.isprintable() else ascii(text)}\n"
                )
    return stored


@contextmanager
def _opened(spool: Path) -> Iterator[sqlite3.Connection]:
    """Open a spool that exists, beside its exporter. Raises SettingsError."""
    if not spool.exists():
        raise SettingsError(f"--spool.path: {spool} does not exist")
    try:
        with closing(
            sqlite3.connect(f"{spool.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_SECONDS)
        ) as database:
            database.isolation_level = None
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version != VERSION:
                raise SettingsError(f"--spool.path: {spool} is of format {version}, ours is {VERSION}")
            yield database
    except sqlite3.Error as error:
        raise SettingsError(f"--spool.path: {spool}: {error}") from None


def _forget(database: sqlite3.Connection, number: int) -> None:
    database.execute("DELETE FROM dead_letters WHERE id = ?", (number,))


def _meta(database: sqlite3.Connection, name: str) -> str:
    row = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise SettingsError(f"the spool holds no {name}: no exporter has written a sample to it yet")
    return str(row[0])
