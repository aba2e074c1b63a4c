"""The name of a rule's group: a template with values of the process and captures of the rule in braces."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from exporter.grouping import OTHER

VALUES: Final = ("command", "cgroup", "container", "user", "uid")
"""What every template may name. No pid and no start time: that would be a group for each process."""

NAME_CHARACTERS: Final = 200
"""Longer names are cut: they are labels of a dozen series each."""


@dataclass(frozen=True, slots=True)
class NameTemplate:
    """A parsed template: literal text, and names of values where the text is None."""

    text: str
    parts: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> frozenset[str]:
        """The values that it names."""
        return frozenset(name for _, name in self.parts if name is not None)

    def render(self, values: Mapping[str, str]) -> str:
        """Return the name. `other`, which is the remainder's, becomes `other (by rule)`; nothing, `(empty name)`."""
        pieces = [literal if name is None else literal + values[name] for literal, name in self.parts]
        rendered = "".join(pieces)[:NAME_CHARACTERS]
        return {OTHER: "other (by rule)", "": "(empty name)"}.get(rendered, rendered)


def parse_template(text: str, captures: Collection[str]) -> NameTemplate:
    """Parse a template; `{{` and `}}` are braces. Raises ValueError with what was expected."""
    known = {*VALUES, *captures}
    parts: list[tuple[str, str | None]] = []
    try:
        pieces = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f'expected a name such as "web-{{unit}}", got {text!r}: {error}') from None
    for literal, name, spec, conversion in pieces:
        if name is not None and (name not in known or spec or conversion):
            shown = f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
            raise ValueError(f"expected one of {', '.join(sorted(known))} in braces, got {shown}")
        parts.append((literal, name))
    if not text:
        raise ValueError("expected a name for the group, got nothing")
    return NameTemplate(text, tuple(parts))
