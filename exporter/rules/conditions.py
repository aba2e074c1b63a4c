"""What a rule can ask about a process. Each condition answers for values alone, with the captures it made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Protocol

from exporter.rules.expressions import Expression

_NONE: Final[Mapping[str, str]] = {}


class Column(Enum):
    """What must be read of a process, so that rules can be applied once for all that are alike in it."""

    CGROUP = "cgroup"
    UID = "uid"
    COMMAND_LINE = "command_line"


@dataclass(frozen=True, slots=True)
class Values:
    """One process, or all that are alike in what the rules ask."""

    command: str
    kernel_thread: bool
    cgroup: str
    """"" where no source could read it."""
    container: str
    """"" outside any."""
    uid: int
    users: tuple[str, ...]
    """Its names; none where /etc/passwd has none."""
    command_line: str | None = None
    """None: not read, or none to be read."""

    def texts(self) -> dict[str, str]:
        """Return what a template may name."""
        return {
            "command": self.command,
            "cgroup": self.cgroup,
            "container": self.container[:12],
            "user": self.users[0] if self.users else str(self.uid),
            "uid": str(self.uid),
        }


class Condition(Protocol):
    """A line of a rule."""

    @property
    def needs(self) -> frozenset[Column]:
        """Return the columns that it looks at, command and kernel thread aside."""

    @property
    def captures(self) -> frozenset[str]:
        """Return the names that it captures where it holds."""

    def match(self, values: Values) -> Mapping[str, str] | None:
        """Return what it captured, or None where it does not hold. Raises SlowExpressionError."""

    def __str__(self) -> str:
        """Return it as the file says it."""


@dataclass(frozen=True, slots=True)
class CommandIs:
    """The command is one of these."""

    commands: frozenset[str]
    needs: frozenset[Column] = field(default=frozenset(), init=False)
    captures: frozenset[str] = field(default=frozenset(), init=False)

    def match(self, values: Values) -> Mapping[str, str] | None:
        """See `Condition`."""
        return _NONE if values.command in self.commands else None

    def __str__(self) -> str:
        """See `Condition`."""
        return f"command: {_listed(self.commands)}"


@dataclass(frozen=True, slots=True)
class CgroupIs:
    """The cgroup is one of these, or below one."""

    paths: frozenset[str]
    needs: frozenset[Column] = field(default=frozenset({Column.CGROUP}), init=False)
    captures: frozenset[str] = field(default=frozenset(), init=False)

    def match(self, values: Values) -> Mapping[str, str] | None:
        """See `Condition`."""
        here = values.cgroup
        below = (here == path or here.startswith(path.rstrip("/") + "/") for path in self.paths)
        return _NONE if any(below) else None

    def __str__(self) -> str:
        """See `Condition`."""
        return f"cgroup: {_listed(self.paths)}"


@dataclass(frozen=True, slots=True)
class ContainerIs:
    """The process is in a container whose id begins with one of these; none given: in any."""

    ids: frozenset[str]
    needs: frozenset[Column] = field(default=frozenset({Column.CGROUP}), init=False)
    captures: frozenset[str] = field(default=frozenset(), init=False)

    def match(self, values: Values) -> Mapping[str, str] | None:
        """See `Condition`. A path may hold fewer digits than the rule: then those that there are must be the same."""
        here = values.container
        if not here:
            return None
        same = (here.startswith(given[: len(here)]) for given in self.ids)
        return _NONE if not self.ids or any(same) else None

    def __str__(self) -> str:
        """See `Condition`."""
        return f"container: {_listed(self.ids) if self.ids else 'any'}"


@dataclass(frozen=True, slots=True)
class UserIs:
    """The effective user is one of these."""

    names: frozenset[str]
    uids: frozenset[int]
    needs: frozenset[Column] = field(default=frozenset({Column.UID}), init=False)
    captures: frozenset[str] = field(default=frozenset(), init=False)

    def match(self, values: Values) -> Mapping[str, str] | None:
        """See `Condition`."""
        return _NONE if values.uid in self.uids or not self.names.isdisjoint(values.users) else None

    def __str__(self) -> str:
        """See `Condition`."""
        return f"user: {_listed({*self.names, *map(str, self.uids)})}"


@dataclass(frozen=True, slots=True)
class KernelThreadIs:
    """The process is a thread of the kernel, or is none."""

    wanted: bool
    needs: frozenset[Column] = field(default=frozenset(), init=False)
    captures: frozenset[str] = field(default=frozenset(), init=False)

    def match(self, values: Values) -> Mapping[str, str] | None:
        """See `Condition`."""
        return _NONE if values.kernel_thread is self.wanted else None

    def __str__(self) -> str:
        """See `Condition`."""
        return f"kernel_thread: {str(self.wanted).lower()}"


class Subject(Enum):
    """What a regular expression looks at: a field of `Values`."""

    COMMAND = "command"
    CGROUP = "cgroup"
    COMMAND_LINE = "command_line"


@dataclass(frozen=True, slots=True)
class Matches:
    """Every one of these expressions is found somewhere in a value."""

    subject: Subject
    expressions: tuple[Expression, ...]

    @property
    def needs(self) -> frozenset[Column]:
        """See `Condition`."""
        columns = {Subject.CGROUP: {Column.CGROUP}, Subject.COMMAND_LINE: {Column.COMMAND_LINE}}
        return frozenset(columns.get(self.subject, set()))

    @property
    def captures(self) -> frozenset[str]:
        """See `Condition`."""
        return frozenset().union(*(expression.captures for expression in self.expressions))

    def match(self, values: Values) -> Mapping[str, str] | None:
        """See `Condition`. What could not be read matches nothing, not even an expression of nothing."""
        text = self._text(values)
        if text is None:
            return None
        captured: dict[str, str] = {}
        for expression in self.expressions:
            found = expression.search(text)
            if found is None:
                return None
            captured.update(found)
        return captured

    def _text(self, values: Values) -> str | None:
        if self.subject is Subject.COMMAND:
            return values.command
        return (values.cgroup or None) if self.subject is Subject.CGROUP else values.command_line

    def __str__(self) -> str:
        """See `Condition`."""
        return f"{self.subject.value}_regex: {', '.join(expression.pattern for expression in self.expressions)}"


def _listed(values: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(values))
