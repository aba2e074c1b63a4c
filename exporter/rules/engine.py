"""Applies rules to a whole table: once for all processes that are alike in what the rules ask.

Of 10,000 processes a few hundred differ in command, cgroup and user. Each such combination goes through the rules
once and is remembered, so a table costs numpy's sorting and a dictionary look-up a combination. Where the command
line decides, it is read once for each process (pid, start and combination) and what came out is remembered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exporter.distinct import Commands, renumber
from exporter.grouping import Grouped, command_label, kernel_threads
from exporter.model import UNKNOWN, ProcessTable, command_text
from exporter.rules.command_lines import CommandLines
from exporter.rules.conditions import Column, Condition, Values
from exporter.rules.containers import container_id
from exporter.rules.document import GroupRule
from exporter.rules.errors import SlowExpressionError
from exporter.rules.users import Users
from latido import logs

log = logs.get(__name__)

_REMEMBERED: Final = 32_768
"""Combinations, and as many processes, whose group is kept. Far beyond a host's; a few MiB."""


class Key(NamedTuple):
    """What processes that are alike have in common. What no rule asks for is left empty."""

    command: bytes
    kernel_thread: bool
    cgroup: str
    uid: int


class _Undecided:
    """Stands for a label that only the command line can give."""


_BY_COMMAND_LINE: Final = _Undecided()


@dataclass(frozen=True, slots=True)
class Tried:
    """A rule that was tried on a process: the condition that did not hold, or None: it is the process's."""

    rule: GroupRule
    failed: Condition | None
    off: bool = False


class RuleSet:
    """Groups by `rules`, the first that matches; processes that none does go by their command.

    It is a `grouping.Rule`. `command_lines` is None where nobody allowed to read them: then no rule may need them.
    For one thread.
    """

    def __init__(
        self, rules: Sequence[GroupRule], users: Users | None = None, command_lines: CommandLines | None = None
    ) -> None:
        self._rules = tuple(rules)
        self._users = users or Users()
        self._command_lines = command_lines
        asked = {column for rule in rules for condition in rule.conditions for column in condition.needs}
        named = {field for rule in rules for field in rule.name.fields}
        self._by_cgroup = Column.CGROUP in asked or bool(named & {"cgroup", "container"})
        self._by_uid = Column.UID in asked or bool(named & {"user", "uid"})
        self._off: set[int] = set()
        self._commands = Commands()
        self._labels: dict[Key, str | _Undecided] = {}
        self._decided: dict[tuple[int, int, Key], str] = {}

    def __call__(self, table: ProcessTable) -> Grouped:
        """Group a table. A rule whose expression takes too long is turned off for good, and logged."""
        while True:
            try:
                return self._group(table)
            except _SlowRuleError as error:
                self._off.add(error.index)
                self._labels.clear()
                self._decided.clear()
                log.error(
                    "group rule is off until rules are read again",
                    rule=self._rules[error.index].name.text,
                    line=self._rules[error.index].place.line,
                    error=str(error),
                )

    def values(self, table: ProcessTable, row: int) -> Values:
        """Return everything that rules could ask of the process in `row`."""
        record = table.records[row]
        cgroup = table.cgroups.get(int(record["cgroup"]), "")
        key = Key(bytes(record["command"]), bool(kernel_threads(table)[row]), cgroup, int(record["uid"]))
        values = self._values(key)
        if self._command_lines is None or int(record["virtual_bytes"]) == 0:
            return values
        return replace(values, command_line=self._command_lines.read(int(record["pid"]), int(record["start_ticks"])))

    def trace(self, values: Values) -> Iterator[Tried]:
        """Yield the rules that are tried, up to the one that matches. Raises SlowExpressionError."""
        for index, rule in enumerate(self._rules):
            failed = next((condition for condition in rule.conditions if condition.match(values) is None), None)
            yield Tried(rule, failed, off=index in self._off)
            if failed is None and index not in self._off:
                return

    def label(self, values: Values) -> str | None:
        """Return the name that the rules give; None where none matches."""
        for index, rule in enumerate(self._rules):
            if index not in self._off:
                captured = self._match(index, values)
                if captured is not None:
                    return rule.name.render({**values.texts(), **captured})
        return None

    def _group(self, table: ProcessTable) -> Grouped:
        records = table.records
        keys, codes = self._keys(table)
        labels: dict[str, int] = {}
        positions = np.full(len(keys), UNKNOWN, dtype=np.intp)
        if len(self._labels) + len(keys) > _REMEMBERED:
            self._labels.clear()
        for index, key in enumerate(keys):
            label = self._labels.get(key)
            if label is None:
                label = self._labels[key] = self._label_of(key)
            if isinstance(label, str):
                positions[index] = labels.setdefault(label, len(labels))
        result = positions[codes]
        rows = np.flatnonzero(result == UNKNOWN)
        if len(rows):
            chosen = records[rows]
            pids, starts = chosen["pid"].tolist(), chosen["start_ticks"].tolist()
            living = (chosen["virtual_bytes"] != 0).tolist()
            if len(self._decided) + len(rows) > _REMEMBERED:
                kept = set(zip(pids, starts, strict=True))
                self._decided = {key: label for key, label in self._decided.items() if key[:2] in kept}
            keys_of_rows = [keys[code] for code in codes[rows].tolist()]
            for row, pid, start, lives, key in zip(rows.tolist(), pids, starts, living, keys_of_rows, strict=True):
                label = self._decide(pid, start, key, lives=lives)
                result[row] = labels.setdefault(label, len(labels))
        return Grouped(list(labels), result)

    def _keys(self, table: ProcessTable) -> tuple[list[Key], NDArray[np.intp]]:
        """Return the distinct combinations, and which one each row has."""
        records = table.records
        commands, codes = self._commands.number(records["command"])
        kernel = kernel_threads(table)
        codes, bound = codes * 2 + kernel, len(commands) * 2
        for name, wanted in (("cgroup", self._by_cgroup), ("uid", self._by_uid)):
            if wanted:
                distinct, parts = np.unique(records[name], return_inverse=True)
                codes, bound = codes * len(distinct) + parts, bound * len(distinct)
        rows, codes = renumber(codes, bound)
        alike = records[rows]
        cgroups: list[str] = [""] * len(alike)
        uids: list[int] = [0] * len(alike)
        if self._by_cgroup:
            cgroups = [table.cgroups.get(number, "") for number in alike["cgroup"].tolist()]
        if self._by_uid:
            uids = alike["uid"].tolist()
        return list(map(Key, alike["command"].tolist(), kernel[rows].tolist(), cgroups, uids)), codes

    def _values(self, key: Key) -> Values:
        return Values(
            command=command_text(key.command),
            kernel_thread=key.kernel_thread,
            cgroup=key.cgroup,
            container=container_id(key.cgroup),
            uid=key.uid,
            users=self._users.names.get(key.uid, ()),
        )

    def _label_of(self, key: Key) -> str | _Undecided:
        values = self._values(key)
        for index, rule in enumerate(self._rules):
            if index in self._off:
                continue
            # The command line is asked last, and only where all else holds.
            needs_line = any(Column.COMMAND_LINE in condition.needs for condition in rule.conditions)
            captured = self._match(index, values, without_line=needs_line)
            if captured is not None:
                return _BY_COMMAND_LINE if needs_line else rule.name.render({**values.texts(), **captured})
        return command_label(key.command, kernel_thread=key.kernel_thread)

    def _decide(self, pid: int, start_ticks: int, key: Key, *, lives: bool) -> str:
        identity = (pid, start_ticks, key)
        known = self._decided.get(identity)
        if known is not None:
            return known
        # What has no memory has no arguments: a thread of the kernel, a zombie.
        line = self._command_lines.read(pid, start_ticks) if lives and self._command_lines is not None else None
        label = self.label(replace(self._values(key), command_line=line))
        if label is None:
            label = command_label(key.command, kernel_thread=key.kernel_thread)
        if line is not None or not lives:
            # One that could not be read may be in the midst of exec: it is asked again at the next table.
            self._decided[identity] = label
        return label

    def _match(self, index: int, values: Values, *, without_line: bool = False) -> dict[str, str] | None:
        captured: dict[str, str] = {}
        try:
            for condition in self._rules[index].conditions:
                if without_line and Column.COMMAND_LINE in condition.needs:
                    continue
                found = condition.match(values)
                if found is None:
                    return None
                captured.update(found)
        except SlowExpressionError as error:
            raise _SlowRuleError(index, str(error)) from None
        return captured


class _SlowRuleError(Exception):
    """An expression of this rule took too long."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index
