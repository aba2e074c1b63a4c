"""Tables as plain lines, one below the other: for pipes, files and mail."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from typing import Final

from latido.history.terminal import escaped
from latido.top.client import Client
from latido.top.fleet import Machine
from latido.top.paint import Page
from latido.top.session import Following, clock

AWAITED_SECONDS: Final = 15.0
"""A host that sent nothing for so long, three of the default interval, holds no table up."""


@dataclass(frozen=True)
class Wanted:
    """How many tables (None: until a signal), how many lines of each (0: all), how many seconds to wait for one."""

    tables: int | None
    limit: int
    patience: float


async def print_tables(following: Following, client: Client, page: Page, wanted: Wanted) -> int:
    """Print tables; return the exit status. Raises client.RefusedError."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _end, ended, 128 + number)
    reading = asyncio.create_task(client.run(following.take))
    printing = asyncio.create_task(_Printer(following, page, wanted).run())
    tasks: list[asyncio.Future[int] | asyncio.Task[None]] = [reading, printing, ended]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
        return printing.result() if printing.done() else ended.result()
    finally:
        reading.cancel()
        printing.cancel()
        await asyncio.wait(tasks[:2])


def _end(ended: asyncio.Future[int], status: int) -> None:
    if not ended.done():
        ended.set_result(status)


class _Printer:
    def __init__(self, following: Following, page: Page, wanted: Wanted) -> None:
        self._following, self._page, self._wanted = following, page, wanted
        self._printed: dict[str, int] = {}

    async def run(self) -> int:
        """Print the tables; return 1 if there is nothing to show."""
        tables, count = self._wanted.tables, 0
        while tables is None or count < tables:
            try:
                async with asyncio.timeout(self._wanted.patience if tables is not None else None):
                    await self._complete()
            except TimeoutError:
                if not self._machines():
                    sys.stderr.write(f"latido top: {escaped(self._nothing())}\n")
                    return 1
            self._printed = {machine.stream: self._newest(machine) for machine in self._machines()}
            self._print(first=count == 0)
            count += 1
        return 0

    async def _complete(self) -> None:
        """Return once each host that is live has rates which were not printed yet."""
        while True:
            live = [machine for machine in self._machines() if machine.age(clock()) < AWAITED_SECONDS]
            if live and all(self._newest(machine) > self._printed.get(machine.stream, 0) for machine in live):
                return
            self._following.changed.clear()
            await self._following.changed.wait()

    def _machines(self) -> list[Machine]:
        fleet, host = self._following.fleet, self._following.view.host
        if host is None:
            return fleet.machines(clock())
        machine = fleet.machine(host, clock())
        return [machine] if machine is not None else []

    def _newest(self, machine: Machine) -> int:
        """Return the `seq` of what there are rates of; 0 while one more sample is needed."""
        if self._following.view.host is None:
            return machine.cpu.seq if machine.cpu is not None and machine.usage is not None else 0
        return machine.procesos.seq if machine.procesos is not None and machine.rated else 0

    def _nothing(self) -> str:
        fleet, host = self._following.fleet, self._following.view.host
        if self._following.link.warning:
            return self._following.link.text
        known = f"; known hosts: {', '.join(fleet.names)}" if fleet.names else ""
        return f"no sample of {host}{known}" if host is not None else f"no sample{known}"

    def _print(self, *, first: bool) -> None:
        painted = self._following.paint(self._page)
        lines = painted.lines
        if self._wanted.limit:
            lines = lines[: painted.head + self._wanted.limit]
        encoding = sys.stdout.encoding or "utf-8"
        text = "\n".join([*([] if first else [""]), *lines, ""])
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
