"""Regular expressions that cannot hang a scrape.

Python's `re` backtracks. Who may start a process chooses what is matched, so an expression must be harmless on any
text. What can take time exponential in the text is refused when the rules are read. What remains is polynomial, its
degree bounded by how many repeats without an end may give back what they took: the more there are, the fewer
characters of a value are looked at, so that no search takes much more than `STEPS` steps. Each distinct value is
looked at once. Should one take longer than `LIMIT_SECONDS` all the same, it raises, and its rule is turned off.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Final

from exporter.rules.errors import SlowExpressionError

SUBJECT_CHARACTERS: Final = 4096
"""PATH_MAX: no cgroup path is longer, and what follows so much of a command line names no group."""

STEPS: Final = 100_000_000
"""Of the matcher, for one value: 0.2 s where an attacker chose it, microseconds for any other."""

_FEWEST_CHARACTERS: Final = 64

_MOST_PLACES: Final = 10
"""More are counted as these, which leave 28 characters, too few already: n ** degree / degree! means something only
where degree is small beside n, and for 160 places it would allow 67 characters again."""

LIMIT_SECONDS: Final = 0.25
"""Of CPU, for one value. A usual expression takes microseconds."""

_REMEMBERED: Final = 4096
"""Distinct values whose answer is kept. Forgotten all at once: who makes values without end gains nothing by order."""

_SHORT: Final = 16
"""A repeat that may mean more than so many is as good as one without an end."""

_TOKEN: Final = re.compile(
    r"""(?P<escaped>\\.)
      | (?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
      | (?P<comment>\(\?\#[^)]*\))
      | (?P<open>\((?:\?(?:P<\w+>|P=\w+|<?[=!]|>|\(\w+\)|[a-zA-Z-]*:|[a-zA-Z]+(?=\)))?)?)
      | (?P<close>\))
      | (?P<repeat>[*+?]|\{\d*,?\d*\})
      | (?P<either>\|)
      | (?P<plain>.)""",
    re.DOTALL | re.VERBOSE,
)
_VERBOSE: Final = re.compile(r"\(\?[a-zA-Z]*x[a-zA-Z]*(?:-[a-zA-Z]*)?:?")
_BOUNDS: Final = re.compile(r"\{(\d*)(,?)(\d*)\}")


class Expression:
    """A compiled regular expression that remembers its answers. For one thread.

    Raises ValueError, with what is wrong and the remedy, for one that is not valid or could take for ever.
    """

    def __init__(self, pattern: str, cpu_clock: Callable[[], float] = time.thread_time) -> None:
        try:
            with warnings.catch_warnings():
                # `[[:alpha:]]` and the like: valid, but not what its writer means.
                warnings.simplefilter("error", FutureWarning)
                self._regex = re.compile(pattern)
        except (re.error, RecursionError, OverflowError, FutureWarning) as error:
            raise ValueError(f"expected a regular expression, got {pattern!r}: {error}") from None
        verbose = next((text for kind, text, _, _ in _tokens(pattern) if _VERBOSE.fullmatch(text)), None)
        if verbose is not None:
            raise ValueError(f"{verbose!r}: expected no flag x; a comment could hide what takes for ever")
        ambiguous = _ambiguous_repeat(pattern)
        if ambiguous is not None:
            raise ValueError(
                f"{ambiguous!r} repeats a group that itself can match in more than one way, which can take for ever; "
                f"let it not backtrack, by one more plus: {ambiguous + '+'!r}"
            )
        self.characters: Final = _characters(pattern)
        """How many characters of a value are looked at."""
        if self.characters < _FEWEST_CHARACTERS:
            raise ValueError(
                f"{pattern!r} has too many repeats without an end, each of which may give back what it took; "
                r"let most of them not do so, by one more plus: `\S++` for `\S+`"
            )
        self._cpu_clock = cpu_clock
        self._answers: dict[str, dict[str, str] | None] = {}

    @property
    def pattern(self) -> str:
        """The expression as it was given."""
        return self._regex.pattern

    @property
    def captures(self) -> frozenset[str]:
        """The names of its named groups."""
        return frozenset(self._regex.groupindex)

    def search(self, value: str) -> dict[str, str] | None:
        """Return the named captures of the first match anywhere in `value` (one without a part in it: empty), or None.

        Raises SlowExpressionError.
        """
        subject = value[: self.characters]
        if subject in self._answers:
            return self._answers[subject]
        start = self._cpu_clock()
        match = self._regex.search(subject)
        if self._cpu_clock() - start > LIMIT_SECONDS:
            raise SlowExpressionError(f"{self.pattern!r} took longer than {LIMIT_SECONDS:g} s over one value")
        if len(self._answers) >= _REMEMBERED:
            self._answers.clear()
        answer = None if match is None else match.groupdict(default="")
        self._answers[subject] = answer
        return answer


def _characters(pattern: str) -> int:
    """Return on how many characters a search takes at most STEPS: with `degree` places free, n ** degree / degree!.

    Where the match begins is one more place, unless it is fixed.
    """
    degree = 0 if pattern.startswith(("^", r"\A")) else 1
    for kind, text, _, possessive in _tokens(pattern):
        if kind == "repeat" and not possessive:
            high = _range(text)[1]
            degree += high is None or high > _SHORT
    if degree == 0:
        return SUBJECT_CHARACTERS
    degree = min(degree, _MOST_PLACES)
    return min(SUBJECT_CHARACTERS, int((STEPS * math.factorial(degree)) ** (1 / degree)))


def _ambiguous_repeat(pattern: str) -> str | None:
    """Return the first repeated group whose content can itself match in several ways, as it is written; or None.

    Such a group can take time exponential in the text: `(a+)+`, `(a|aa)*`. What is possessive (`(a+)++`) or atomic
    gives nothing back and takes no such time (Python 3.11).
    """
    open_groups: list[tuple[int, bool, bool]] = []  # start, atomic, ambiguous before it
    ambiguous = False
    last: tuple[int, bool, bool] | None = None  # the group just closed: its start, ambiguous inside, before it
    for kind, text, start, possessive in _tokens(pattern):
        closed, last = last, None
        if kind == "open":
            open_groups.append((start, text == "(?>", ambiguous))
            ambiguous = False
        elif kind == "close" and open_groups:
            opened, atomic, before = open_groups.pop()
            last = (opened, ambiguous and not atomic, before)
            ambiguous = before or (ambiguous and not atomic)
        elif kind == "either":
            ambiguous = True
        elif kind == "repeat":
            if closed is not None and closed[1] and _repeats(text) and not possessive:
                return pattern[closed[0] : start + len(text)]
            if not possessive:
                ambiguous = ambiguous or _varies(text)
            elif closed is not None:  # gives nothing back: one way to match, whatever is inside
                ambiguous = closed[2]
    return None


def _tokens(pattern: str) -> Iterator[tuple[str, str, int, bool]]:
    """Yield kind, text, start, and of repeats whether they are possessive. A lazy `?` belongs to its repeat."""
    position = 0
    while position < len(pattern):
        match = _TOKEN.match(pattern, position)
        if match is None or match.lastgroup is None:  # a lone backslash: not valid, and refused before
            return
        position = match.end()
        possessive = False
        if match.lastgroup == "repeat" and pattern[position : position + 1] in {"+", "?"}:
            possessive = pattern[position] == "+"
            position += 1
        if match.lastgroup != "comment":
            yield match.lastgroup, match[0], match.start(), possessive


def _repeats(text: str) -> bool:
    """Whether a repeat can mean more than once."""
    low, high = _range(text)
    return high is None or max(low, high) > 1


def _varies(text: str) -> bool:
    low, high = _range(text)
    return low != high


def _range(text: str) -> tuple[int, int | None]:
    if text in {"*", "+", "?"}:
        return {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
    bounds = _BOUNDS.fullmatch(text)
    if bounds is None or not (bounds[1] or bounds[3]):
        return 1, 1  # `{}` and `{,}`... stand for themselves
    low = int(bounds[1] or 0)
    if not bounds[2]:
        return low, low
    return low, int(bounds[3]) if bounds[3] else None
