"""Rules of process-exporter's YAML become ours; what has no counterpart is said, not dropped in silence.

Its format: `process_names`, a list in which the first match wins; each item has `comm` (any of), `exe` (any of: the
base name of argv[0], or all of it) and `cmdline` (every expression, over argv joined by spaces), and a `name` that is a
Go template, `{{.ExeBase}}` where none is given (ncabatoff/process-exporter, README.md, `Configuration and group
naming`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import yaml

from exporter.rules import nodes
from exporter.rules.errors import Place, RulesError
from exporter.rules.expressions import Expression
from exporter.rules.names import VALUES
from exporter.sources.procfs_parse import COMMAND_BYTES

_KEYS: Final = frozenset({"name", "comm", "exe", "cmdline"})
_ACTION: Final = re.compile(r"\{\{\s*(?P<content>.*?)\s*\}\}", re.DOTALL)
_MATCH: Final = re.compile(r"\.Matches\.(\w+)")
_CAPTURE: Final = re.compile(r"\(\?P<(\w+)>")
_ANYTHING: Final = frozenset({".", ".+", ".*"})
"""What every command line matches that is there: all but threads of the kernel have one."""

_BASE: Final = r"^(?:[^ ]*/)?(?P<exe_base>[^ /]+)(?: |$)"
_FULL: Final = r"^(?P<exe_full>[^ ]+)"

_HEAD: Final = """\
# Group rules of Latido, converted from process-exporter's.
# - Processes that no rule matches are not left out: they go by their command. A last rule can gather them:
#   - name: unmatched
#     command_regex: ''
# - process-exporter counts a child that matches nothing to its parent's group (-children); Latido goes by the
#   process alone. Where that matters, a cgroup says it better: `cgroup: /system.slice/NAME.service`.
"""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A file of our rules, and what of the other could not be said in it, each with the line it stood in."""

    text: str
    warnings: tuple[str, ...]
    needs_command_lines: bool


@dataclass
class _Rule:
    """One item on its way."""

    line: int
    notes: list[str] = field(default_factory=list)
    lost: str | None = None
    """Why it cannot be converted at all."""
    name: str = ""
    commands: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """Expressions over the command line."""
    not_kernel: bool = False


def convert(text: str) -> Conversion:
    """Convert a file. Raises RulesError for one that is not process-exporter's."""
    top = nodes.document(text, "process_names")
    listed = _entry(top, "process_names")
    if not isinstance(listed, yaml.SequenceNode):
        raise RulesError("expected `process_names:` and a list", Place(1, 1) if listed is None else nodes.place(listed))
    rules = [_rule(item) for item in listed.value]
    needs_lines = any(rule.lines for rule in rules if rule.lost is None)
    head = _HEAD
    if needs_lines:
        head += "# - Some rules look at command lines: run with --collector.processes.command-line.\n"
    body = "".join(_written(rule) for rule in rules)
    if all(rule.lost is not None for rule in rules):
        body = "# nothing is left: without rules, processes go by their command\n" + body
    else:
        body = "groups:\n" + body
    warnings = tuple(
        f"line {rule.line}: {note}"
        for rule in rules
        for note in (*rule.notes, *([] if rule.lost is None else [f"not converted: {rule.lost}"]))
    )
    return Conversion(head + body, warnings, needs_lines)


def _entry(node: yaml.Node, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        raise RulesError(f"expected `{key}:` and a list", nodes.place(node))
    return next((value for name, value in node.value if isinstance(name, yaml.ScalarNode) and name.value == key), None)


def _rule(node: yaml.Node) -> _Rule:
    if not isinstance(node, yaml.MappingNode):
        raise RulesError("expected an item with `comm`, `exe` or `cmdline`", nodes.place(node))
    given: dict[str, yaml.Node] = {
        key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode) and key.value in _KEYS
    }
    rule = _Rule(nodes.place(node).line)
    unknown = [key for key, _ in node.value if not (isinstance(key, yaml.ScalarNode) and key.value in _KEYS)]
    rule.notes += [f"{str(key.value)!r} is no key of process-exporter: left out" for key in unknown]
    if not given.keys() & {"comm", "exe", "cmdline"}:
        raise RulesError("expected at least one of comm, exe, cmdline", nodes.place(node))
    if "comm" in given:
        rule.commands = [_command(rule, command) for command in nodes.several(given["comm"], str)]
    if "exe" in given:
        rule.lines.append(_executable(nodes.several(given["exe"], str)))
    if "cmdline" in given:
        _command_lines(rule, nodes.several(given["cmdline"], str))
    _name(rule, nodes.each(given["name"], str) if "name" in given else "")
    captures = [name for pattern in rule.lines for name in _CAPTURE.findall(pattern)]
    if len(captures) != len(set(captures)):
        rule.lost = "two expressions capture under one name"
    for pattern in rule.lines:
        try:
            Expression(pattern)
        except ValueError as error:
            rule.lost = str(error)
    return rule


def _command(rule: _Rule, command: str) -> str:
    data = command.encode()
    if len(data) > COMMAND_BYTES:
        kept = data[:COMMAND_BYTES].decode("utf-8", "ignore")
        rule.notes.append(
            f"the kernel keeps {COMMAND_BYTES} bytes of a command: {command!r} matched none, now {kept!r}"
        )
        return kept
    return command


def _executable(executables: Sequence[str]) -> str:
    """Return an expression for argv[0]: with a slash all of it counts, else its base name."""
    choices = [
        re.escape(name) if "/" in name else rf"(?:[^ ]*/)?{re.escape(name)}" for name in dict.fromkeys(executables)
    ]
    return rf"^(?:{'|'.join(choices)})(?: |$)"


def _command_lines(rule: _Rule, patterns: Sequence[str]) -> None:
    for pattern in patterns:
        if pattern in _ANYTHING:
            rule.not_kernel = True
        else:
            # Ours would hide a value that every name can use.
            rule.lines.append(_CAPTURE.sub(lambda match: f"(?P<{_capture(match[1])}>", pattern))


def _capture(name: str) -> str:
    return f"matches_{name}" if name in VALUES else name


def _name(rule: _Rule, template: str) -> None:
    captured = {name for pattern in rule.lines for name in _CAPTURE.findall(pattern)}
    pieces: list[str] = []
    position = 0
    for match in _ACTION.finditer(template or "{{.ExeBase}}"):
        pieces.append(_literal(template[position : match.start()]))
        position = match.end()
        value = _value(rule, match["content"], captured)
        if value is None:
            rule.lost = f"Latido has nothing for {match[0]}"
            return
        pieces.append(value)
    pieces.append(_literal(template[position:]))
    rule.name = "".join(pieces)
    if not rule.name:
        rule.lost = "nothing is left of its name"


def _value(rule: _Rule, content: str, captured: set[str]) -> str | None:
    """Return what stands for an action of a template; None if nothing does."""
    match = _MATCH.fullmatch(content)
    if match is not None:
        name = _capture(match[1])
        return f"{{{name}}}" if name in captured else None
    if content in {".ExeBase", ".ExeFull"}:
        return _executable_name(rule, content, captured)
    if content == ".Cgroups":
        rule.notes.append("{{.Cgroups}} is a list of all hierarchies; {cgroup} is the path of one")
    elif content in {".PID", ".StartTime"}:
        rule.notes.append(f"{{{{{content}}}}} is left out of the name: it would be a group for each process")
    return {".Comm": "{command}", ".Username": "{user}", ".Cgroups": "{cgroup}", ".PID": "", ".StartTime": ""}.get(
        content
    )


def _executable_name(rule: _Rule, content: str, captured: set[str]) -> str:
    if not rule.lines and content == ".ExeBase":
        rule.notes.append("{command}, cut at 15 bytes, stands for {{.ExeBase}}: no command line has to be read for it")
        return "{command}"
    name, pattern = ("exe_base", _BASE) if content == ".ExeBase" else ("exe_full", _FULL)
    if name not in captured:
        captured.add(name)
        rule.lines.append(pattern)
    return f"{{{name}}}"


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _written(rule: _Rule) -> str:
    comments = [f"  # line {rule.line}: {note}\n" for note in rule.notes]
    lines = [f"  - name: {_quoted(rule.name)}\n"]
    if rule.commands:
        lines.append(f"    command: {_list(rule.commands)}\n")
    if rule.not_kernel:
        lines.append("    kernel_thread: false\n")
    if rule.lines:
        lines.append(f"    command_line_regex: {_list(rule.lines)}\n")
    if rule.lost is not None:
        comments.append(f"  # line {rule.line}: not converted: {' '.join(rule.lost.split())}\n")
        lines = [f"  # {line.removeprefix('  ')}" for line in lines]
    return "".join(comments + lines)


def _list(values: Sequence[str]) -> str:
    return _quoted(values[0]) if len(values) == 1 else f"[{', '.join(map(_quoted, values))}]"


def _quoted(text: str) -> str:
    """Return a YAML scalar: in single quotes, that keep backslashes readable, unless characters must be escaped."""
    if text.isprintable():
        return f"'{text.replace(chr(39), chr(39) * 2)}'"
    plain = (c if c.isprintable() and c not in {'"', "\\"} else f"\\U{ord(c):08x}" for c in text)
    return f'"{"".join(plain)}"'
