"""The front door: a table of commands, each loaded only when it is called.

Programs are named by strings and imported on use, so that `latido --help` needs none of their libraries and a
host that runs only the exporter installs only the exporter's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from latido import settings


@dataclass(frozen=True)
class Command:
    """Where a command lives (`module:function`, called with its arguments), and the extra that brings its libraries."""

    target: str
    extra: str
    summary: str


COMMANDS: Final[dict[str, Command]] = {
    "exporter": Command("exporter.start:main", "exporter", "read the kernel: serve /metrics and push samples"),
    "ingest raw": Command("ingest.raw.app:main", "ingest", "take pushed samples into MySQL (aiohttp, built for speed)"),
    "ingest orm": Command("ingest.orm.app:main", "ingest", "the same contract by FastAPI and SQLModel"),
    "bridge": Command("bridge_ws.server:main", "bridge", "serve the live WebSocket feed and its page"),
    "db upgrade": Command("ingest.schema.upgrade:main", "ingest", "bring the database to this version's tables"),
    "db downgrade": Command("ingest.schema.downgrade:main", "ingest", "take the tables back to an earlier revision"),
    "db retain": Command("ingest.schema.retain:main", "ingest", "make coming day partitions, drop expired ones"),
    "db grants": Command(
        "ingest.schema.grants:main", "ingest", "print the SQL of the rights of each program's database user"
    ),
    "spool list": Command("exporter.push.spool_command:list_letters", "exporter", "show what ingest APIs have refused"),
    "spool retry": Command("exporter.push.spool_command:retry", "exporter", "send refused samples again"),
    "spool drop": Command("exporter.push.spool_command:drop", "exporter", "forget refused samples"),
    "history": Command("latido.history.program:main", "ingest", "the process table of a host as it was at a moment"),
    "top": Command("latido.top.program:main", "bridge", "the live feed in a terminal: a fleet, or a host's processes"),
    "record": Command(
        "loadtest.record:main", "loadtest", "record what this machine pushes, anonymised, for load tests"
    ),
    "loadtest run": Command(
        "loadtest.run:main", "loadtest", "load the ingest APIs as a fleet would, and count every sample after"
    ),
    "loadtest report": Command("loadtest.report:main", "loadtest", "draw a load test's results as one HTML file"),
    "loadtest stress": Command(
        "loadtest.stress.program:main", "loadtest", "load this machine for a while and see it arrive in its metrics"
    ),
    "status": Command("latido.status:main", "ingest", "each program's health, sample ages, spool depth, rows stored"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names; return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"latido {settings.version()}")
        return 0
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return _call(name, COMMANDS[name], arguments[words:])
    family = [name for name in COMMANDS if name.split()[0] == arguments[0]]
    hint = f"one of: {', '.join(family)}" if family else "`latido --help` lists the commands"
    # repr: an argument may hold anything, and it goes to a terminal
    sys.stderr.write(f"latido: no command {' '.join(arguments[:2])!r}; {hint}\n")
    return 2


def usage() -> str:
    """Return what `latido --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [
        "usage: latido COMMAND [FLAGS]",
        "",
        "What every process on every Linux host is doing now, and what it did at 03:12.",
        "",
        "commands:",
        *(f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()),
        "",
        "`latido COMMAND --help` lists a command's flags; each is also a LATIDO_… variable",
        "and a line of the file that --config.file names.",
    ]
    return "\n".join(lines)


def _call(name: str, command: Command, arguments: list[str]) -> int:
    module_name, _, function_name = command.target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in {"latido", "exporter", "ingest", "bridge_ws", "loadtest", ""}:
            raise  # ours: a defect, not a missing extra
        sys.stderr.write(f"latido {name}: the library {missing!r} is missing; pip install 'latido[{command.extra}]'\n")
        return 2
    status = getattr(module, function_name)(arguments)
    return int(status)
