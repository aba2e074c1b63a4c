"""The rules in force: read at the start, and again when told. A bad file changes nothing but what is logged.

What was counted goes on: groups that keep their name keep their count, as when a process changes its command.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from exporter.grouping import Grouped
from exporter.model import ProcessTable
from exporter.rules.command_lines import ProcfsCommandLines
from exporter.rules.conditions import Column
from exporter.rules.document import GroupRule, parse_rules
from exporter.rules.engine import RuleSet
from exporter.rules.errors import RulesError
from exporter.rules.nodes import MAX_CHARACTERS
from exporter.rules.settings import RuleSettings
from exporter.rules.users import PasswdFile, Users
from latido import logs

log = logs.get(__name__)

COMMAND_LINE_FLAG = "--collector.processes.command-line"


@dataclass(frozen=True, slots=True)
class _InForce:
    rules: tuple[GroupRule, ...]
    users: Users
    groups: RuleSet
    passwd: tuple[int, int, int] | None


class LiveRules:
    """A `grouping.Rule` whose rules can be read again meanwhile, from another thread.

    `procfs` is where command lines are read, `clock` gives Unix time. Raises RulesError where the file cannot be used
    at the start; its message already names the file.
    """

    def __init__(self, given: RuleSettings, procfs: Path, clock: Callable[[], float] = time.time) -> None:
        self._given = given
        self._passwd = PasswdFile(given.rootfs)
        self._command_lines = ProcfsCommandLines(procfs) if given.command_line else None
        self._clock = clock
        self._turn = threading.Lock()
        self._in_force = self._build(self._read())
        self.successful = True
        """Whether the last reading of the file worked."""
        self.success_time = clock()
        """When one last did, in Unix time."""

    @property
    def rules(self) -> tuple[GroupRule, ...]:
        """The rules in force, in their order."""
        return self._in_force.rules

    @property
    def users(self) -> Users:
        """The host's users."""
        return self._in_force.users

    @property
    def groups(self) -> RuleSet:
        """What applies them."""
        return self._in_force.groups

    def __call__(self, table: ProcessTable) -> Grouped:
        """Group a table by the rules in force. A changed /etc/passwd is read before."""
        current = self._in_force
        if _asks_for_users(current.rules) and current.passwd != self._passwd.version():
            with self._turn:
                self._in_force = current = self._build(self._in_force.rules)
            log.info("users read again", file=str(self._passwd.path))
        return current.groups(table)

    def reload(self) -> str | None:
        """Read the file again. Return why its rules were not taken, or None."""
        with self._turn:
            try:
                rules = self._read()
            except RulesError as error:
                self.successful = False
                log.error("group rules not read again: the old ones stay", error=str(error))
                return str(error)
            self._in_force = self._build(rules)
            self.successful = True
            self.success_time = self._clock()
        file = self._given.file
        log.info("group rules read again", rules=len(rules), file="none is given" if file is None else str(file))
        return None

    def register(self, registry: CollectorRegistry) -> None:
        """Expose how the last reading went, under the names that Prometheus uses for its own."""
        successful = Gauge(
            "latido_config_last_reload_successful",
            "Whether the group rules could be read when they last were.",
            registry=registry,
        )
        successful.set_function(lambda: self.successful)
        when = Gauge(
            "latido_config_last_reload_success_timestamp_seconds",
            "When the group rules were last read and taken, in Unix time.",
            registry=registry,
        )
        when.set_function(lambda: self.success_time)

    def _read(self) -> tuple[GroupRule, ...]:
        file = self._given.file
        if file is None:
            return ()
        text = read_text(file)
        try:
            rules = parse_rules(text)
            if self._command_lines is None:
                _refuse_command_lines(rules)
        except RulesError as error:
            raise RulesError(error.in_file(str(file))) from None
        return rules

    def _build(self, rules: tuple[GroupRule, ...]) -> _InForce:
        # Asked before it is read: what changes in between is seen at the next table.
        version = self._passwd.version()
        try:
            users = self._passwd.read()
        except OSError as error:
            users = Users()
            if _asks_for_users(rules):
                log.warning(
                    "users have numbers only",
                    file=str(self._passwd.path),
                    error=error.strerror,
                    hint="--path.rootfs says where the host's file system is",
                )
        return _InForce(rules, users, RuleSet(rules, users, self._command_lines), version)


def read_text(file: Path) -> str:
    """Return a file of rules. Raises RulesError, which names the file."""
    try:
        with file.open("rb") as stream:
            data = stream.read(4 * MAX_CHARACTERS + 1)  # UTF-8 has up to 4 bytes a character
        return data.decode("utf-8")
    except OSError as error:
        raise RulesError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RulesError(f"{file}: not UTF-8 from byte {error.start} on") from None


def _asks_for_users(rules: tuple[GroupRule, ...]) -> bool:
    return any(
        "user" in rule.name.fields or any(Column.UID in condition.needs for condition in rule.conditions)
        for rule in rules
    )


def _refuse_command_lines(rules: tuple[GroupRule, ...]) -> None:
    for rule in rules:
        if any(Column.COMMAND_LINE in condition.needs for condition in rule.conditions):
            raise RulesError(
                f"command_line_regex needs {COMMAND_LINE_FLAG}: command lines can hold secrets", rule.place
            )
