"""A terminal for tests: a real pty with the program on it, and what its screen shows.

It knows the sequences that `latido top` may send and no other, so a control character that slips through fails a test.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

SEQUENCE: Final = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])")
_UNFINISHED: Final = re.compile(r"\x1b(?:\[[?0-9;]*)?\Z")


class Terminal:
    """`command` on a terminal of its own, as its session's leader."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str] | None = None, size: tuple[int, int] = (100, 24)
    ) -> None:
        self.master, self.slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.resize(*size)
        self.found = termios.tcgetattr(self.slave)
        self.sent = b""
        self._read = 0
        self._text = ""
        self.lines: dict[int, str] = {}
        self.alternate = self.hidden = False
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(environ or {})},
        )

    def resize(self, cells: int, lines: int) -> None:
        """Give it another size; the kernel tells the program by SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, cells, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal."""
        self.process.send_signal(number)

    def screen(self) -> str:
        """Return what is shown, lines joined."""
        return "\n".join(self.lines[number] for number in sorted(self.lines))

    def wait(self, condition: Callable[[str], object], what: str, seconds: float = 60.0) -> str:
        """Return the screen once it meets the condition. Raises TimeoutError with what was shown instead."""
        deadline = time.monotonic() + seconds
        while not condition(shown := self.screen()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"after {seconds:.0f} s still not: {what}; shown:\n{shown}\n{self.sent[-300:]!r}")
            self._take(0.05)
        return shown

    def end(self, seconds: float = 30.0) -> int:
        """Return the exit status once the program has ended, all that it sent taken."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
                raise TimeoutError(f"the program does not end; shown:\n{self.screen()}")
            self._take(0.05)
        self._take(0)
        return self.process.wait()

    def close(self) -> None:
        """End it, if it still runs, and let the terminal go."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def restored(self) -> bool:
        """Whether it is as it was found: settings, the main screen, the cursor."""
        return self.found == termios.tcgetattr(self.slave) and not self.alternate and not self.hidden

    def _take(self, seconds: float) -> None:
        select.select([self.master], [], [], seconds)
        try:
            while data := os.read(self.master, 65536):
                self.sent += data
        except (BlockingIOError, OSError):
            pass
        self._interpret()

    def _interpret(self) -> None:
        text = self.sent[self._read :].decode("utf-8", "ignore") if self._whole() else ""
        unfinished = _UNFINISHED.search(text)
        text = text[: unfinished.start()] if unfinished else text
        self._read += len(text.encode())
        row = getattr(self, "_row", 0)
        position = 0
        while position < len(text):
            match = SEQUENCE.match(text, position)
            if match is not None:
                row = self._sequence(match[1], match[2], row)
                position = match.end()
                continue
            character = text[position]
            position += 1
            if self.alternate:
                assert character.isprintable(), f"{character!r} was sent raw"
                self.lines[row] = self.lines.get(row, "") + character
        self._row = row

    def _whole(self) -> bool:
        """Whether what was sent ends with a whole character."""
        try:
            self.sent[self._read :].decode()
        except UnicodeDecodeError as error:
            return error.reason != "unexpected end of data"
        return True

    def _sequence(self, parameters: str, final: str, row: int) -> int:
        if parameters == "?1049":
            self.alternate = final == "h"
            self.lines.clear()
        elif parameters == "?25":
            self.hidden = final == "l"
        elif final == "H":
            row = int(parameters.split(";", maxsplit=1)[0])
            self.lines[row] = ""
        elif final == "J":
            self.lines.clear()
        else:
            assert final in {"K", "m"}, f"\\x1b[{parameters}{final} was sent"
        return row
