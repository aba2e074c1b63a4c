"""A terminal as a screen: keys one by one, lines repainted where they changed, and left as it was found.

The terminal is opened anew by its name, so that it can be written without blocking and nothing of that is left to the
shell, whose standard streams share one file description. Sequences are those of ECMA-48 and xterm's alternate screen.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import termios
import time
import tty
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

_ENTER: Final = b"\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE: Final = b"\x1b[0m\x1b[?25h\x1b[?1049l"
LEAVE_SECONDS: Final = 1.0
"""For a terminal that takes nothing any more, at the end."""


class Screen:
    """The terminal behind a file descriptor, as long as its `with` block lasts. Raises OSError."""

    def __init__(self, descriptor: int, encoding: str) -> None:
        self._name = os.ttyname(descriptor)
        self._encoding = encoding
        self._shown: list[str] = []
        self._size = (0, 0)
        self._waiting = b""
        self.fd = -1

    def __enter__(self) -> Self:
        """Take the terminal over."""
        self.fd = os.open(self._name, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            self._found = termios.tcgetattr(self.fd)
            self.enter()
        except BaseException:
            os.close(self.fd)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back, whatever happened."""
        try:
            self.leave()
        finally:
            os.close(self.fd)

    def enter(self) -> None:
        """Show our screen, and take keys as they are pressed (Ctrl-C and Ctrl-Z stay signals)."""
        tty.setcbreak(self.fd, termios.TCSADRAIN)
        self._shown, self._size = [], (0, 0)
        self._write(_ENTER)

    def leave(self) -> None:
        """Show what was there before, and set the terminal as it was."""
        # What waits is of a frame that nobody will see; ours must end any sequence that was cut.
        self._waiting = b"\x18" + _LEAVE if self._waiting else _LEAVE
        deadline = time.monotonic() + LEAVE_SECONDS
        with contextlib.suppress(OSError):  # a terminal that was closed cannot be left better
            while not self.flush() and (left := deadline - time.monotonic()) > 0:
                select.select([], [self.fd], [], left)
            termios.tcsetattr(self.fd, termios.TCSANOW, self._found)

    def size(self) -> tuple[int, int]:
        """Return cells and lines: of the terminal, else what the environment says, else 80 by 24."""
        try:
            found = os.get_terminal_size(self.fd)
        except OSError:
            found = os.terminal_size((0, 0))
        if found.columns > 0 and found.lines > 0:
            return found.columns, found.lines
        fallback = shutil.get_terminal_size()
        return fallback.columns, fallback.lines

    def read(self) -> bytes | None:
        """Return what was typed; None where the terminal is gone."""
        try:
            return os.read(self.fd, 1024) or None
        except BlockingIOError:
            return b""
        except OSError:
            return None

    def show(self, lines: Sequence[str], size: tuple[int, int]) -> bool:
        """Repaint what changed; return False where the terminal has not taken all yet (then nothing new is shown)."""
        if not self.flush():
            return False
        if size != self._size:
            self._shown, self._size = [], size
            self._waiting = b"\x1b[0m\x1b[2J"
        parts = []
        for number in range(max(len(lines), len(self._shown))):
            new = lines[number] if number < len(lines) else ""
            if number >= len(self._shown) or self._shown[number] != new:
                parts.append(f"\x1b[{number + 1};1H{new}\x1b[K")
        self._shown = list(lines)
        self._waiting += "".join(parts).encode(self._encoding, "replace")
        return self.flush()

    def flush(self) -> bool:
        """Write what waits, as far as the terminal takes it; return whether all is written."""
        while self._waiting:
            try:
                self._waiting = self._waiting[os.write(self.fd, self._waiting) :]
            except BlockingIOError:
                return False
        return True

    def _write(self, data: bytes) -> None:
        self._waiting += data
        self.flush()
