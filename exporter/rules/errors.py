"""What can go wrong with rules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file. Both count from 1, as editors do."""

    line: int
    column: int


class RulesError(Exception):
    """A file of rules that cannot be used. The message says what was expected; `place` where, if that is known."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.place = place

    def in_file(self, file: str) -> str:
        """Return the message with its place, in the form that editors and compilers know."""
        return f"{file}: {self}" if self.place is None else f"{file}:{self.place.line}:{self.place.column}: {self}"


class SlowExpressionError(Exception):
    """A regular expression took longer over one value than any may."""
