"""A session on a terminal: samples and keys in, repaints out, and the terminal left as it was found."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from typing import Final

from latido.top.client import Client, Down, Up
from latido.top.fleet import Clock, Fleet
from latido.top.frames import AnyFrame, Hello, Reading, Trouble
from latido.top.paint import Link, Page, Painted, paint
from latido.top.screen import Screen
from latido.top.view import View, keys, press

PAINT_SECONDS: Final = 0.1
"""The shortest pause between two repaints for samples; a key repaints at once."""
AGE_SECONDS: Final = 1.0
"""Ages grow by themselves: a repaint is due without a sample too."""
ESCAPE_SECONDS: Final = 0.05
"""For the rest of a key's sequence; an Esc that nothing follows is the key."""


def clock() -> Clock:
    """Return this moment."""
    return Clock(time.time_ns() // 1_000_000, time.monotonic())


class Following:
    """The fleet as the feed tells it, what is looked at, and how it stands with the feed."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.fleet = Fleet()
        self.link = Link("connecting", warning=True)
        self.changed = asyncio.Event()

    def take(self, frame: AnyFrame | Up | Down) -> None:
        """Take in what the feed gives."""
        if isinstance(frame, Reading):
            if self.fleet.apply(frame, clock()):
                self.link = Link("live", warning=False)
        elif isinstance(frame, Hello):
            self.fleet.names = tuple(sorted(frame.hosts))
        elif isinstance(frame, Up):
            self.link = Link("connected", warning=False)
        elif isinstance(frame, Down):
            self.link = Link(f"no connection: {frame.reason}; next try in {frame.seconds:.1f} s", warning=True)
        elif isinstance(frame, Trouble):
            self.link = Link(f"the bridge says: {frame.detail}", warning=True)
        self.changed.set()

    def paint(self, page: Page) -> Painted:
        """Return what is to be shown now."""
        return paint(self.fleet, self.view, self.link, page, clock())


async def run_session(following: Following, client: Client, page: Page) -> int:
    """Paint on standard output, a terminal, until `q` or a signal; return the exit status.

    Raises client.RefusedError once the terminal is as it was.
    """
    with Screen(sys.stdout.fileno(), sys.stdout.encoding or "utf-8") as screen:
        session = _Session(following, client, page, screen)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, session.stop.set)
        loop.add_signal_handler(signal.SIGWINCH, session.paint)
        loop.add_signal_handler(signal.SIGTSTP, session.suspend)
        loop.add_reader(screen.fd, session.read)
        tasks = [
            asyncio.create_task(client.run(following.take)),
            asyncio.create_task(session.follow()),
            asyncio.create_task(session.stop.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            loop.remove_reader(screen.fd)
            loop.remove_writer(screen.fd)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
    for task in done:
        task.result()  # a refusal, or a defect: raised where it can be read
    return 0


class _Session:
    def __init__(self, following: Following, client: Client, page: Page, screen: Screen) -> None:
        self.stop = asyncio.Event()
        self._following, self._client, self._page, self._screen = following, client, page, screen
        self._painted = Painted([])
        self._typed = b""
        self._escape: asyncio.TimerHandle | None = None

    async def follow(self) -> None:
        """Repaint what changes, and ages."""
        while True:
            self.paint()
            await asyncio.sleep(PAINT_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGE_SECONDS):
                    await self._following.changed.wait()
            self._following.changed.clear()

    def paint(self) -> None:
        """Repaint what changed, unless the terminal has not taken the page before: then once it has."""
        size = self._screen.size()
        self._painted = self._following.paint(replace(self._page, cells=size[0], lines=size[1]))
        loop = asyncio.get_running_loop()
        if self._screen.show(self._painted.lines, size):
            loop.remove_writer(self._screen.fd)
        else:
            loop.add_writer(self._screen.fd, self._drained)

    def _drained(self) -> None:
        if self._screen.flush():
            asyncio.get_running_loop().remove_writer(self._screen.fd)
            self._following.changed.set()

    def read(self) -> None:
        """Take the keys that were pressed."""
        data = self._screen.read()
        if data is None:
            self.stop.set()  # the terminal is gone
            return
        if self._escape is not None:
            self._escape.cancel()
            self._escape = None
        self._press(self._typed + data, final=False)
        if self._typed:
            loop = asyncio.get_running_loop()
            self._escape = loop.call_later(ESCAPE_SECONDS, lambda: self._press(self._typed, final=True))

    def _press(self, data: bytes, *, final: bool) -> None:
        pressed, self._typed = keys(data, final=final)
        following = self._following
        for key in pressed:
            before = following.view
            following.view = press(before, key, self._painted.names, self._painted.room)
            if before.host != following.view.host:
                if before.host is not None:
                    following.fleet.forget_tables(before.host)
                self._client.look_at(following.view.host)
            if following.view.done:
                self.stop.set()
                return
            self.paint()

    def suspend(self) -> None:
        """Give the terminal back for as long as the shell has stopped us (Ctrl-Z)."""
        self._screen.leave()
        os.kill(0, signal.SIGSTOP)
        self._screen.enter()
        self.paint()
