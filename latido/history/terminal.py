"""Text for a terminal: columns that fit, numbers that a person reads, and no control character of a stranger. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_ESCAPES: Final = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
MINUTE: Final = 60
HOUR: Final = 3600
DAY: Final = 86400


@dataclass(frozen=True, slots=True)
class Style:
    """Marks by ANSI colours (ECMA-48, SGR), or none."""

    colour: bool

    def strong(self, text: str) -> str:
        """Mark what leads."""
        return self._mark(text, "1")

    def faint(self, text: str) -> str:
        """Mark what is over."""
        return self._mark(text, "2")

    def warning(self, text: str) -> str:
        """Mark what a reader must know before trusting the rest."""
        return self._mark(text, "33")

    def _mark(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour else text


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column; the last one takes the width that is left, and may be cut to it."""

    title: str
    right: bool = True


def escaped(text: str) -> str:
    """Return text without control, format or unassigned characters: those as escapes, a backslash doubled."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        _ESCAPES.get(character) or (character if character.isprintable() else _escape(ord(character)))
        for character in text
    )


def _escape(code: int) -> str:
    if code <= 0xFF:  # noqa: PLR2004 - what two digits hold
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - what four digits hold


def width(text: str) -> int:
    """Return how many cells a terminal gives to printable text (UAX 11)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def cut(text: str, cells: int) -> str:
    """Return text that takes at most so many cells, its end marked where it was cut."""
    if width(text) <= cells:
        return text
    kept, used = [], 1
    for character in text:
        used += width(character)
        if used > cells:
            break
        kept.append(character)
    return "".join(kept) + "…" if cells > 0 else ""


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], cells: int) -> list[str]:
    """Return a table's lines, the titles first, each at most `cells` wide while the last column has room to give."""
    widths = [
        max([width(column.title), *(width(row[number]) for row in rows)]) for number, column in enumerate(columns)
    ]
    room = max(width(columns[-1].title), cells - sum(widths[:-1]) - 2 * (len(columns) - 1))
    widths[-1] = min(widths[-1], room)
    return [_line(columns, row, widths) for row in ([column.title for column in columns], *rows)]


def _line(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for column, cell, wanted in zip(columns, row, widths, strict=True):
        shown = cut(cell, wanted)
        fill = " " * (wanted - width(shown))
        padded.append(fill + shown if column.right else shown + fill)
    return "  ".join(padded).rstrip()


def wrapped(label: str, parts: Sequence[str], cells: int) -> list[str]:
    """Return parts after a label, over as many lines as they need, none of them broken."""
    indent = " " * width(label)
    lines, current = [], label
    for number, part in enumerate(parts):
        separator = "" if number == 0 or current == indent else " · "
        if current not in {label, indent} and width(current) + width(separator) + width(part) > cells:
            lines.append(current)
            current, separator = indent, ""
        current += separator + part
    return [*lines, current]


def size(count: int | None) -> str:
    """Return bytes in the unit that leaves one to four digits; `-` where they are not known."""
    if count is None:
        return "-"
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - four digits are a wide column
        value /= 1024
        unit += 1
    digits = 0 if unit == 0 or value >= 99.95 else 1  # noqa: PLR2004 - three digits say enough
    return f"{value:.{digits}f} {_UNITS[unit]}"


def percent(part: float, whole: float) -> str:
    """Return a share with one digit after the point; `-` of nothing."""
    return f"{100 * part / whole:.1f}" if whole > 0 else "-"


def span(seconds: float) -> str:
    """Return a length of time in its two largest units."""
    if seconds < MINUTE:
        return f"{seconds:.0f} s" if seconds == int(seconds) else f"{seconds:.1f} s"
    whole = int(seconds)
    for unit, smaller, names in ((DAY, HOUR, "dh"), (HOUR, MINUTE, "hm"), (MINUTE, 1, "ms")):
        if whole >= unit:
            first, rest = divmod(whole, unit)
            second = rest // smaller
            return f"{first} {_name(names[0])}" + (f" {second} {_name(names[1])}" if second else "")
    raise AssertionError("a minute is the smallest unit here")


def _name(letter: str) -> str:
    return {"d": "d", "h": "h", "m": "min", "s": "s"}[letter]


def cpu_time(nanoseconds: int) -> str:
    """Return CPU time, milliseconds kept while they matter."""
    seconds = nanoseconds / 1e9
    if 0 < seconds < 1:
        return f"{nanoseconds / 1e6:.1f} ms" if nanoseconds < 99_950_000 else f"{nanoseconds / 1e6:.0f} ms"  # noqa: PLR2004
    if seconds < MINUTE:
        return f"{seconds:.1f} s" if seconds else "0"
    return span(seconds)


def back(step: timedelta) -> str:
    """Return how far a clock went back."""
    return span(abs(step.total_seconds()))
