"""The YAML file of group rules: text in, rules out. Every fault is named with its line and column.

YAML's own types are not used: what stands in the file is what is meant, so a container id of digits alone is no
number, and a command called `no` is no truth value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import yaml

from exporter.rules import nodes
from exporter.rules.conditions import (
    CgroupIs,
    CommandIs,
    Condition,
    ContainerIs,
    KernelThreadIs,
    Matches,
    Subject,
    UserIs,
)
from exporter.rules.errors import Place, RulesError
from exporter.rules.expressions import Expression
from exporter.rules.names import VALUES, NameTemplate, parse_template
from exporter.sources.procfs_parse import COMMAND_BYTES

MAX_RULES: Final = 1000

_ID: Final = re.compile(r"[0-9a-f]{12,64}")
_LARGEST_UID: Final = 2**32 - 2
"""2**32 - 1 means `no change` to chown(2) and setuid(2)."""


@dataclass(frozen=True, slots=True)
class GroupRule:
    """Who is in which group: those for whom every condition holds."""

    place: Place
    name: NameTemplate
    conditions: tuple[Condition, ...]


def parse_rules(text: str) -> tuple[GroupRule, ...]:
    """Parse a file of rules, in their order. Raises RulesError."""
    top = nodes.mapping(nodes.document(text, "groups"), "`groups:` and a list of rules", {"groups"})
    if "groups" not in top:
        raise RulesError("expected `groups:` and a list of rules", Place(1, 1))
    node = top["groups"]
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise RulesError("expected a list of rules, each beginning with `- name: ...`", nodes.place(node))
    if len(node.value) > MAX_RULES:
        raise RulesError(f"expected at most {MAX_RULES} rules, found {len(node.value)}", nodes.place(node))
    return tuple(_rule(item) for item in node.value)


def _rule(node: yaml.Node) -> GroupRule:
    items = nodes.mapping(node, "a rule: `name: ...` and what its processes have in common", {"name", *_CONDITIONS})
    if "name" not in items:
        raise RulesError("expected `name:` in every rule", nodes.place(node))
    conditions = tuple(read(items[key]) for key, read in _CONDITIONS.items() if key in items)
    if not conditions:
        raise RulesError(f"expected at least one of {', '.join(_CONDITIONS)}", nodes.place(node))
    captures: set[str] = set()
    for condition in conditions:
        clash = condition.captures & {*captures, *VALUES}
        if clash:
            raise RulesError(f"{min(clash)!r} is captured, or there already, under that name", nodes.place(node))
        captures |= condition.captures
    name = nodes.each(items["name"], lambda text: parse_template(text, captures))
    return GroupRule(nodes.place(node), name, conditions)


def _commands(node: yaml.Node) -> Condition:
    return CommandIs(frozenset(nodes.several(node, _command)))


def _command(text: str) -> str:
    data = text.encode()
    if len(data) > COMMAND_BYTES:
        kept = data[:COMMAND_BYTES].decode("utf-8", "ignore")
        raise ValueError(f"the kernel keeps {COMMAND_BYTES} bytes of a command; expected {kept!r}, got {text!r}")
    return text


def _cgroups(node: yaml.Node) -> Condition:
    return CgroupIs(frozenset(nodes.several(node, _cgroup)))


def _cgroup(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"expected a path such as /system.slice/cron.service, got {text!r}")
    return text


def _containers(node: yaml.Node) -> Condition:
    if isinstance(node, yaml.ScalarNode) and node.value == "any":
        return ContainerIs(frozenset())
    return ContainerIs(frozenset(nodes.several(node, _container)))


def _container(text: str) -> str:
    if not _ID.fullmatch(text):
        raise ValueError(f"expected `any`, or 12 to 64 hexadecimal digits of a container's id, got {text!r}")
    return text


def _users(node: yaml.Node) -> Condition:
    given = nodes.several(node, _user)
    return UserIs(
        frozenset(user for user in given if isinstance(user, str)),
        frozenset(user for user in given if isinstance(user, int)),
    )


def _user(text: str) -> str | int:
    if not text.isdecimal():
        if not text or ":" in text:
            raise ValueError(f"expected a user's name or number, got {text!r}")
        return text
    if int(text) > _LARGEST_UID:
        raise ValueError(f"expected a uid from 0 to {_LARGEST_UID}, got {text}")
    return int(text)


def _kernel_thread(node: yaml.Node) -> Condition:
    def truth(text: str) -> bool:
        if text not in {"true", "false"}:
            raise ValueError(f"expected true or false, got {text!r}")
        return text == "true"

    return KernelThreadIs(nodes.each(node, truth))


def _regex(subject: Subject) -> Callable[[yaml.Node], Condition]:
    def read(node: yaml.Node) -> Condition:
        expressions = nodes.several(node, Expression)
        names = [name for expression in expressions for name in expression.captures]
        if len(names) != len(set(names)):
            raise RulesError("two expressions capture under one name", nodes.place(node))
        return Matches(subject, tuple(expressions))

    return read


_CONDITIONS: Final[Mapping[str, Callable[[yaml.Node], Condition]]] = {
    "command": _commands,
    "command_regex": _regex(Subject.COMMAND),
    "kernel_thread": _kernel_thread,
    "user": _users,
    "cgroup": _cgroups,
    "container": _containers,
    "cgroup_regex": _regex(Subject.CGROUP),
    "command_line_regex": _regex(Subject.COMMAND_LINE),
}
"""In the order in which they are asked: what costs least first."""
