"""What people see of rules: all of them for `--check-config`, one process's way through them for `--explain`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from exporter.grouping import command_label
from exporter.model import ProcessTable
from exporter.rules.conditions import Matches, UserIs, Values
from exporter.rules.document import GroupRule
from exporter.rules.engine import RuleSet
from exporter.rules.errors import SlowExpressionError
from exporter.rules.expressions import SUBJECT_CHARACTERS
from exporter.rules.users import Users

_DEFAULT = "every other process goes by its command; threads of the kernel by the stem of theirs"


def rules_shown(rules: Sequence[GroupRule], users: Users) -> Iterator[str]:
    """Yield lines that say what was understood. A user that this host does not have is said: a typing error, often."""
    yield f"{len(rules)} {'rule' if len(rules) == 1 else 'rules'}; the first that matches decides"
    for number, rule in enumerate(rules, 1):
        yield f"{number}. {_printable(rule.name.text)}  (line {rule.place.line})"
        for condition in rule.conditions:
            yield f"     {_printable(str(condition))}"
            if isinstance(condition, Matches):
                for expression in condition.expressions:
                    if expression.characters < SUBJECT_CHARACTERS:
                        yield f"     note: {_printable(expression.pattern)} sees {expression.characters} characters"
            if isinstance(condition, UserIs):
                for name in sorted(condition.names):
                    if not users.has(name):
                        yield f"     note: this host has no user {_printable(name)}"
    yield _DEFAULT


def explained(table: ProcessTable, pid: int, groups: RuleSet) -> Iterator[str]:
    """Yield lines: what was seen of a process, each rule tried, its group. Raises KeyError: no such process."""
    rows = np.flatnonzero(table.records["pid"] == pid)
    if not len(rows):
        raise KeyError(pid)
    row = int(rows[0])
    values = groups.values(table, row)
    yield f"process {pid}"
    yield from _seen(values)
    label: str | None = None
    try:
        for number, tried in enumerate(groups.trace(values), 1):
            name = _printable(tried.rule.name.text)
            where = f"rule {number}, line {tried.rule.place.line}, {name}"
            if tried.failed is not None:
                yield f"{where}: no, not {_printable(str(tried.failed))}"
            else:
                yield f"{where}: matches"
        label = groups.label(values)
    except SlowExpressionError as error:
        yield f"an expression takes too long, and its rule would be turned off: {error}"
    if label is None:
        yield "no rule matches: it goes by its command" + (", as a thread of the kernel" * values.kernel_thread)
        label = command_label(bytes(table.records[row]["command"]), kernel_thread=values.kernel_thread)
    yield f"group: {_printable(label)}"


def _seen(values: Values) -> Iterator[str]:
    yield f"  command        {_printable(values.command)}"
    yield f"  kernel_thread  {str(values.kernel_thread).lower()}"
    yield f"  cgroup         {_printable(values.cgroup) or '(not known)'}"
    yield f"  container      {values.container or '(none)'}"
    yield f"  user           {_printable(', '.join(values.users)) or '(no name)'}, uid {values.uid}"
    yield f"  command_line   {'(not read)' if values.command_line is None else _printable(values.command_line)}"


def _printable(text: str) -> str:
    """Show what a process calls itself so that it cannot play with a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
