"""A fleet on one machine: an API, a bridge, and an exporter for each host, all real, over a database that is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.program import Program
from ingest.schema import upgrade


@dataclass(frozen=True)
class Fleet:
    """The programs that run; `exporters` in the order of the hosts."""

    dsn: str
    api: Program
    bridge: Program
    exporters: tuple[Program, ...]


@contextmanager
def running_fleet(dsn: str, hosts: Sequence[str], folder: Path, interval: str = "1s") -> Iterator[Fleet]:
    """Make the tables, run the programs, and end them. Spools go into `folder`. Raises RuntimeError, TimeoutError."""
    if upgrade.main([f"--db.dsn={dsn}"]) != 0:
        raise RuntimeError("the tables could not be made; see above")
    with ExitStack() as stack:

        def start(*command: str, flags: tuple[str, ...] = ()) -> Program:
            program = Program(command, flags, {"LATIDO_DB_DSN": dsn})
            stack.callback(program.close)
            stack.callback(program.stop)
            return program.start()

        api, bridge = start("ingest", "raw"), start("bridge")
        pushes = (f"--push.url={api.url}", f"--push.interval={interval}")
        exporters = [
            start("exporter", flags=(*pushes, f"--push.host={host}", f"--spool.path={folder}/{host}.sqlite"))
            for host in hosts
        ]
        yield Fleet(dsn, api, bridge, tuple(exporters))
