"""What is looked at, and what each key does to it. Pure.

Keys are those that users of htop(1) and top(1) have in their fingers; terminals send them as ECMA-48 says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from latido.top.fleet import Machine, Row


class Sort(StrEnum):
    """What comes first."""

    CPU = "cpu"
    RSS = "rss"
    IO = "io"
    TIME = "time"
    PID = "pid"
    COMMAND = "command"


SORT_KEYS: Final = {"P": Sort.CPU, "M": Sort.RSS, "I": Sort.IO, "T": Sort.TIME, "N": Sort.PID, "C": Sort.COMMAND}
_ASCENDING: Final = frozenset({Sort.PID, Sort.COMMAND})

_PROCESS: Final[dict[Sort, Callable[[Row], float | str]]] = {
    Sort.CPU: lambda row: row.cpu or 0.0,
    Sort.RSS: lambda row: row.process.rss_bytes,
    Sort.IO: lambda row: row.io,
    Sort.TIME: lambda row: row.process.cpu_ns,
    Sort.PID: lambda row: row.process.pid,
    Sort.COMMAND: lambda row: row.process.command,
}
_MACHINE: Final[dict[Sort, Callable[[Machine], float | str]]] = {
    Sort.CPU: lambda machine: machine.usage.busy if machine.usage is not None else -1.0,
    Sort.RSS: lambda machine: machine.memory_used if machine.memory_used is not None else -1.0,
    Sort.IO: lambda machine: machine.usage.modes["iowait"] if machine.usage is not None else -1.0,
    Sort.TIME: lambda machine: machine.cpu.load1_milli if machine.cpu is not None else -1.0,
}
"""A fleet by: CPU, memory, waiting for disks, load. By pid or command: by name."""


@dataclass(frozen=True)
class View:
    """What is on the screen. `host` None: the fleet. `cursor` is the marked line's number."""

    host: str | None = None
    fixed: bool = False
    """The host was named on the command line: there is no fleet to go back to."""
    sort: Sort = Sort.CPU
    reverse: bool = False
    filter: str = ""
    typing: bool = False
    cores: bool = False
    help: bool = False
    cursor: int = 0
    done: bool = False

    def processes(self, rows: Sequence[Row]) -> list[Row]:
        """Return the processes that match, in order; equals by pid, so that they stay where they are."""
        found = [row for row in rows if self._matches(row.process.command, str(row.process.pid), row.process.cgroup)]
        found.sort(key=lambda row: (row.process.pid, row.process.start_ticks))
        found.sort(key=_PROCESS[self.sort], reverse=self.descending)
        return found

    @property
    def descending(self) -> bool:
        """Whether the largest comes first."""
        return (self.sort not in _ASCENDING) is not self.reverse

    def machines(self, machines: Sequence[Machine]) -> list[Machine]:
        """Return the hosts that match, in order; equals by name."""
        found = sorted(machines, key=lambda machine: machine.name)
        found = [machine for machine in found if self._matches(machine.name)]
        if self.sort in _MACHINE:
            found.sort(key=_MACHINE[self.sort], reverse=not self.reverse)
        elif self.reverse:
            found.reverse()
        return found

    def _matches(self, *texts: str | None) -> bool:
        wanted = self.filter.casefold()
        return not wanted or any(wanted in text.casefold() for text in texts if text is not None)


def press(view: View, key: str, lines: Sequence[str], page: int) -> View:
    """Return the view after a key. `lines` are the names of a fleet's hosts as shown (one for each process: any).

    `page` is how many lines fit.
    """
    if view.typing:
        return _type(view, key)
    if view.help:
        return replace(view, help=False, done=key == "q")
    last = max(0, len(lines) - 1)
    cursor = min(view.cursor, last)
    moved = {"up": cursor - 1, "down": cursor + 1, "page up": cursor - page, "page down": cursor + page}
    moved |= {"k": cursor - 1, "j": cursor + 1, "home": 0, "end": last}
    if key in moved:
        return replace(view, cursor=max(0, min(moved[key], last)))
    if key in SORT_KEYS:
        again = SORT_KEYS[key] is view.sort
        return replace(view, sort=SORT_KEYS[key], reverse=again and not view.reverse, cursor=0)
    if key in {"enter", "right"} and view.host is None and lines:
        return replace(view, host=lines[cursor], filter="", cursor=0)
    simple: dict[str, Callable[[], View]] = {
        "q": lambda: replace(view, done=True),
        "escape": lambda: _back(view),
        "left": lambda: _back(view),
        "/": lambda: replace(view, typing=True, filter="", cursor=0),
        "h": lambda: replace(view, help=True),
        "?": lambda: replace(view, help=True),
        "R": lambda: replace(view, reverse=not view.reverse),
        "1": lambda: replace(view, cores=not view.cores),
    }
    return simple[key]() if key in simple else view


def _back(view: View) -> View:
    if view.filter:
        return replace(view, filter="", cursor=0)
    if view.host is not None and not view.fixed:
        return replace(view, host=None, cursor=0)
    return view


MAX_FILTER: Final = 64


def _type(view: View, key: str) -> View:
    if key == "enter":
        return replace(view, typing=False)
    if key == "escape":
        return replace(view, typing=False, filter="")
    if key == "backspace":
        return replace(view, filter=view.filter[:-1], cursor=0)
    if len(key) == 1 and key.isprintable():
        return replace(view, filter=(view.filter + key)[:MAX_FILTER], cursor=0)
    return view


_SEQUENCES: Final = {
    b"A": "up", b"B": "down", b"C": "right", b"D": "left", b"H": "home", b"F": "end",
    b"1~": "home", b"7~": "home", b"4~": "end", b"8~": "end", b"5~": "page up", b"6~": "page down",
}  # fmt: skip
_CONTROL: Final = re.compile(rb"\x1b(?:\[([0-?]*)([ -/]*[@-~])|O([ -~]))")
_NAMES: Final = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x1b": "escape"}
_UNFINISHED: Final = re.compile(rb"\x1b(?:[\[O][0-?]*[ -/]*)?")
_LONGEST: Final = 64


def keys(data: bytes, *, final: bool = False) -> tuple[list[str], bytes]:
    """Return the keys that a terminal sent, and the start of one that may not have come whole (not if `final`).

    Characters are keys by themselves, others have names; what is not known is left out.
    """
    found: list[str] = []
    position = 0
    while position < len(data):
        match = _CONTROL.match(data, position)
        if match is not None:
            name = _SEQUENCES.get((match[1] or b"") + match[2] if match[2] else match[3])
            found += [name] if name is not None else []
            position = match.end()
            continue
        rest = data[position:]
        size = _character(rest[0])
        if not final and (len(rest) < size or (_UNFINISHED.fullmatch(rest) and len(rest) <= _LONGEST)):
            return found, rest
        text = rest[:size].decode("utf-8", "ignore")
        name = _NAMES.get(text, text if text.isprintable() else None)
        found += [name] if name else []
        position += size
    return found, b""


def _character(first: int) -> int:
    """Return how many bytes a UTF-8 character takes (RFC 3629)."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4  # noqa: PLR2004
