"""Macros and variables as Grafana expands them, so that a panel's query can be run without Grafana.

Sources: Grafana's documentation, "Global variables", "Variable syntax: advanced formatting options", "MySQL data
source: macros", "Prometheus template variables"; for `$__timeGroup` its code (pkg/tsdb/mysql/macros.go), which writes
DIV where the documentation shows a CAST. What is not known is refused: an expression that still holds a `$` is never
run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

ALL: Final = "$__all"

STEPS: Final = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 15000, 20000, 30000, 60000, 120000, 300000, 600000)
"""Widths that Grafana rounds an interval to (rangeUtil.roundInterval), in milliseconds, as far as needed here."""

_VARIABLE: Final = re.compile(r"\$\{(\w+)(?:\.[^:}]+)?(?::(\w+))?\}|\$(\w+)")
_MACRO: Final = re.compile(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)")
"""macros.go: no closing parenthesis inside a macro's arguments."""
_DURATION: Final = re.compile(r"(\d+)(ms|s|m|h|d)")
_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SPECIAL: Final = re.compile(r"[$^*{}\[\]'+?.()|]")


class ExpansionError(Exception):
    """A query uses what this does not know; the message says what."""


@dataclass(frozen=True)
class Variable:
    """What a person picked; `multi` variables have a list, and `all_value` stands for All where one is set."""

    values: Sequence[str]
    multi: bool = False
    all_value: str | None = None


@dataclass(frozen=True)
class Picked:
    """The time picker, in seconds since the epoch, the panel's width in points and what the variables hold."""

    first: float
    last: float
    scrape_seconds: float = 15
    minimum_seconds: float = 0.001
    points: int = 1000
    variables: Mapping[str, Variable] = field(default_factory=dict)

    @property
    def interval_ms(self) -> int:
        """`$__interval_ms`: the range over the points, rounded, and not below the panel's minimum."""
        exact = max((self.last - self.first) * 1000 / self.points, self.minimum_seconds * 1000)
        steps = [step for step in STEPS if step >= exact]
        return max(steps[0] if steps else STEPS[-1], round(self.minimum_seconds * 1000))

    @property
    def rate_interval_seconds(self) -> float:
        """`$__rate_interval`: max($__interval + scrape interval, 4 * scrape interval)."""
        return max(self.interval_ms / 1000 + self.scrape_seconds, 4 * self.scrape_seconds)


def promql(text: str, picked: Picked) -> str:
    """Return a PromQL query as Grafana sends it. Raises ExpansionError."""
    known = {
        "__interval": duration(picked.interval_ms / 1000),
        "__interval_ms": str(picked.interval_ms),
        "__rate_interval": duration(picked.rate_interval_seconds),
        "__range": f"{round(picked.last - picked.first)}s",
        "__range_s": str(round(picked.last - picked.first)),
        "__range_ms": str(round((picked.last - picked.first) * 1000)),
    }
    return _finished(_variables(text, picked, known, _prometheus))


def mysql(text: str, picked: Picked) -> str:
    """Return a MySQL query as Grafana sends it. Raises ExpansionError."""
    known = {"__interval": duration(picked.interval_ms / 1000), "__interval_ms": str(picked.interval_ms)}
    return _finished(_MACRO.sub(lambda found: _macro(found, picked), _variables(text, picked, known, _sql)))


def duration(seconds: float) -> str:
    """Return a length of time as Grafana writes it: 1h, 5m, 30s, 100ms."""
    milliseconds = round(seconds * 1000)
    for unit, width in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds >= width and milliseconds % width == 0:
            return f"{milliseconds // width}{unit}"
    return f"{milliseconds}ms"


def _finished(text: str) -> str:
    if "$" in text:
        at = text.index("$")
        raise ExpansionError(f"not known: {text[at : at + 60]!r}")
    return text


def _variables(text: str, picked: Picked, known: Mapping[str, str], plain: Callable[[Variable], str]) -> str:
    def replaced(found: re.Match[str]) -> str:
        name, form = found[1] or found[3], found[2]
        if name in known:
            return known[name]
        variable = picked.variables.get(name)
        if variable is None:
            return found[0]  # a macro, or unknown: then `_finished` says so
        return plain(variable) if form is None else _formatted(variable, form)

    return _VARIABLE.sub(replaced, text)


def _formatted(variable: Variable, form: str) -> str:
    values = _values(variable)
    formats: Mapping[str, Callable[[], str]] = {
        "raw": lambda: ",".join(values),
        "csv": lambda: ",".join(values),
        "pipe": lambda: "|".join(values),
        "regex": lambda: _regex(values),
        "sqlstring": lambda: ",".join(_quoted(value) for value in values),
        "singlequote": lambda: ",".join("'" + value.replace("'", "\\'") + "'" for value in values),
        "doublequote": lambda: ",".join('"' + value.replace('"', '\\"') + '"' for value in values),
    }
    if form not in formats:
        raise ExpansionError(f"format :{form} is not known")
    return formats[form]()


def _values(variable: Variable) -> Sequence[str]:
    if list(variable.values) == [ALL] and variable.all_value is not None:
        return [variable.all_value]
    return variable.values


def _prometheus(variable: Variable) -> str:
    """Write a value into PromQL: of several a regular expression, of All what the variable says, unescaped."""
    if list(variable.values) == [ALL] and variable.all_value is not None:
        return variable.all_value
    if not variable.multi:
        return variable.values[0].replace("\\", r"\\").replace("'", r"\\'")
    doubled = [value.replace("\\", r"\\\\") for value in variable.values]
    escaped = [_SPECIAL.sub(lambda found: r"\\" + found[0], value) for value in doubled]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _sql(variable: Variable) -> str:
    """Write a value into SQL: one as it is, several quoted."""
    return ",".join(_quoted(value) for value in variable.values) if variable.multi else variable.values[0]


def _regex(values: Sequence[str]) -> str:
    escaped = [re.sub(r"[\\^$*+?.()|[\]{}/]", lambda found: "\\" + found[0], value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _macro(found: re.Match[str], picked: Picked) -> str:
    name, arguments = found[1], [argument.strip(" ") for argument in found[2].split(",")]
    first, last = int(picked.first), int(picked.last)
    column = arguments[0]
    simple: Mapping[str, str] = {
        "__timeFilter": f"{column} BETWEEN FROM_UNIXTIME({first}) AND FROM_UNIXTIME({last})",
        "__timeFrom": f"FROM_UNIXTIME({first})",
        "__timeTo": f"FROM_UNIXTIME({last})",
        "__time": f"UNIX_TIMESTAMP({column}) as time_sec",
        "__timeEpoch": f"UNIX_TIMESTAMP({column}) as time_sec",
        "__unixEpochFilter": f"{column} >= {first} AND {column} <= {last}",
        "__unixEpochFrom": f"{first}",
        "__unixEpochTo": f"{last}",
    }
    if name in simple:
        if column == "" and name in {"__timeFilter", "__time", "__timeEpoch", "__unixEpochFilter"}:
            raise ExpansionError(f"${name} needs a column")
        return simple[name]
    groups = {"__timeGroup": ("UNIX_TIMESTAMP({})", ""), "__timeGroupAlias": ("UNIX_TIMESTAMP({})", ' AS "time"')}
    groups |= {"__unixEpochGroup": ("{}", ""), "__unixEpochGroupAlias": ("{}", ' AS "time"')}
    if name in groups:
        if len(arguments) != 2:  # noqa: PLR2004 - the third, a fill mode, is not used here
            raise ExpansionError(f"${name} needs a column and an interval, got {found[2]!r}")
        length = _DURATION.fullmatch(arguments[1].strip("'\""))
        if length is None:
            raise ExpansionError(f"${name}: not an interval: {arguments[1]!r}")
        seconds = f"{int(length[1]) * _UNITS[length[2]]:.0f}"
        form, alias = groups[name]
        return f"{form.format(column)} DIV {seconds} * {seconds}{alias}"
    raise ExpansionError(f"macro ${name} is not known")
