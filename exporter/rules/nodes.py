"""YAML as nodes, which know their line and column: the reading that files of rules have in common."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, TypeVar

import yaml

from exporter.rules.errors import Place, RulesError

T = TypeVar("T")

MAX_CHARACTERS: Final = 1 << 20
_MAX_VALUES: Final = 10_000


def document(text: str, key: str) -> yaml.Node:
    """Return the root of a document whose first line should be `key:`. Raises RulesError."""
    if len(text) > MAX_CHARACTERS:
        raise RulesError(f"expected at most {MAX_CHARACTERS} characters, found {len(text)}")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = None if mark is None else Place(mark.line + 1, mark.column + 1)
        raise RulesError(f"not YAML: {error.problem or error.context}", place) from None
    except yaml.YAMLError as error:
        raise RulesError(f"not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RulesError("not a file of rules: lists within lists, without end") from None
    if node is None:
        raise RulesError(f"expected `{key}:` and a list of rules, found an empty file", Place(1, 1))
    return node


def place(node: yaml.Node) -> Place:
    """Return where a node begins."""
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def mapping(node: yaml.Node, expected: str, known: Collection[str]) -> dict[str, yaml.Node]:
    """Return what a mapping holds, by key; one that is not known or there twice is refused. Raises RulesError."""
    if not isinstance(node, yaml.MappingNode):
        raise RulesError(f"expected {expected}", place(node))
    items: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name is None or name not in known:
            shown = "something else" if name is None else repr(name)
            raise RulesError(f"expected one of {', '.join(sorted(known))}, got {shown}", place(key))
        if name in items:
            raise RulesError(f"{name!r} is there twice", place(key))
        items[name] = value
    return items


def several(node: yaml.Node, parse: Callable[[str], T]) -> list[T]:
    """Parse a value, or each of a list of them. Raises RulesError."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not 1 <= len(nodes) <= _MAX_VALUES:
        raise RulesError(f"expected 1 to {_MAX_VALUES} values, found {len(nodes)}", place(node))
    return [each(item, parse) for item in nodes]


def each(node: yaml.Node, parse: Callable[[str], T]) -> T:
    """Parse one value, by a function that raises ValueError. Raises RulesError."""
    if not isinstance(node, yaml.ScalarNode) or (node.value == "" and node.style is None):
        raise RulesError("expected a value", place(node))
    try:
        node.value.encode()
    except UnicodeEncodeError:  # YAML can write half of a pair: `"\\ud800"`
        raise RulesError("expected characters of Unicode", place(node)) from None
    try:
        return parse(node.value)
    except ValueError as error:
        raise RulesError(str(error), place(node)) from None
