"""The command `latido top`: flags, and whether it paints a screen or prints tables."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from latido import settings
from latido.history import moments
from latido.history.terminal import Style, escaped
from latido.settings import setting
from latido.top.client import Client, RefusedError
from latido.top.paint import ALL_LINES, Page
from latido.top.printing import Wanted, print_tables
from latido.top.session import Following, run_session
from latido.top.view import Sort, View

PROG: Final = "latido top"
DESCRIPTION: Final = """\
Show what hosts and their processes do now, from the bridge's live feed.

examples:
  latido top
  latido top --host web-1 --sort rss
  latido top --url wss://latido.example.org/ws --token-file ~/.latido-token
  latido top --host web-1 --once --limit 10 | mail -s processes ops@example.org

Without --host it shows the fleet; Enter goes to a host, Esc back, h lists the keys. Where standard output is not a
terminal it prints tables, one for each new sample, or as many as -n says. CPU% is of one CPU: 200 is two of them."""

LIMIT: Final = 30
_WIDTH: Final = 132
"""Columns where no terminal says how many: the wide mode of the VT100."""


def websocket_url(value: str) -> str:
    """Return a WebSocket URL; `http` becomes `ws`, and no path becomes `/ws`. A parser of settings."""
    parts = urlsplit(value)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in {"ws", "wss"} or not parts.hostname:
        raise ValueError(f"expected a URL such as ws://127.0.0.1:10113/ws, got {value!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("expected a URL without user, query or fragment; a token goes into a file")
    path = "/ws" if parts.path in {"", "/"} else parts.path
    return f"{scheme}://{parts.netloc}{path}"


@dataclass(frozen=True)
class TopSettings:
    """What `latido top` takes."""

    url: str = setting("url", websocket_url, "ws://127.0.0.1:10113/ws", "the bridge", metavar="URL")
    host: str | None = setting("host", settings.text, None, "show this host's processes; without it the fleet")
    token_file: Path | None = setting(
        "token-file", settings.path, None, "file that holds the bridge's token alone", metavar="FILE"
    )
    sort: Sort = setting(
        "sort", settings.choice(*Sort), "cpu", f"what comes first: {', '.join(Sort)}", metavar="COLUMN"
    )
    filter: str | None = setting(
        "filter", settings.text, None, "only what has this in its command, pid or cgroup; of a fleet: in its name"
    )
    once: bool = setting("once", settings.boolean, "false", "print one table and end, the same as -n 1")
    iterations: int | None = setting(
        "iterations", settings.integer(1, 2**31 - 1), None, "print so many tables and end; -n for short", metavar="N"
    )
    limit: int = setting(
        "limit", settings.integer(0, 1_000_000), str(LIMIT), "lines of a printed table, 0 for all", metavar="N"
    )
    timeout: float = setting(
        "timeout", settings.positive_duration, "30s", "give up on a table to print that does not come", metavar="TIME"
    )
    zone: tzinfo | None = setting(
        "timezone", moments.timezone, "local", "zone of times shown: local, UTC or Europe/Madrid", metavar="ZONE"
    )


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status: 1 if the bridge does not serve, 2 for a mistake."""
    return settings.run(PROG, lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    given = settings.load(TopSettings, PROG, DESCRIPTION, _long(argv), os.environ)
    token = settings.read_secret(given.token_file, "--token-file") if given.token_file is not None else None
    view = View(host=given.host, fixed=given.host is not None, sort=Sort(given.sort), filter=given.filter or "")
    tables = 1 if given.once else given.iterations
    try:
        if tables is None and sys.stdout.isatty():
            page = Page(0, 0, Style(_colours(os.environ)), given.zone)
            return asyncio.run(run_session(Following(view), Client(given.url, token, given.host), page))
        page = Page(
            shutil.get_terminal_size((_WIDTH, 24)).columns,
            ALL_LINES,
            Style(colour=False),
            given.zone,
            interactive=False,
        )
        following = Following(view)
        client = Client(given.url, token, given.host)
        return asyncio.run(print_tables(following, client, page, Wanted(tables, given.limit, given.timeout)))
    except RefusedError as error:
        # What the other side says goes to a terminal.
        sys.stderr.write(f"{PROG}: {given.url}: {escaped(str(error))}\n")
        return 1
    except KeyboardInterrupt:
        return 130  # as a shell counts SIGINT
    except BrokenPipeError:
        # `| head` has seen enough. The interpreter would flush once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _long(argv: Sequence[str]) -> list[str]:
    """Return the arguments with `-n N` and `-nN` of top(1) as the setting that they are."""
    found: list[str] = []
    for argument in argv:
        if argument == "-n":
            found.append("--iterations")
        elif argument.startswith("-n") and argument[2:].isdecimal():
            found.append(f"--iterations={argument[2:]}")
        else:
            found.append(argument)
    return found


def _colours(environ: Mapping[str, str]) -> bool:
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
