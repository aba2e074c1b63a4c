"""The YAML of group rules: what is understood, and faults named by line and column."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.rules.document import parse_rules
from exporter.rules.errors import Place, RulesError
from exporter.rules.names import parse_template


def shown(text: str) -> list[tuple[str, list[str]]]:
    return [(rule.name.text, [str(condition) for condition in rule.conditions]) for rule in parse_rules(text)]


def test_every_condition_is_understood() -> None:
    text = """
groups:
  - name: "{unit}-{x}"
    cgroup_regex: '/(?P<unit>[^/]+)\\.service$'
    command_line_regex: ['-x (?P<x>\\S+)', '-y']
    command_regex: ^py
    command: [python3, 'no', 007]
    user: [root, 1000]
    cgroup: /system.slice
    container: any
    kernel_thread: false
"""
    expected = [
        "command: 007, no, python3",
        "command_regex: ^py",
        "kernel_thread: false",
        "user: 1000, root",
        "cgroup: /system.slice",
        "container: any",
        "cgroup_regex: /(?P<unit>[^/]+)\\.service$",
        "command_line_regex: -x (?P<x>\\S+), -y",
    ]
    assert shown(text) == [("{unit}-{x}", expected)]


def test_order_is_kept_and_a_number_is_a_name() -> None:
    assert shown("groups: [{name: 7, command: a}, {name: a, container: 123456789012}]") == [
        ("7", ["command: a"]),
        ("a", ["container: 123456789012"]),
    ]


def rule(line: str) -> str:
    return f"groups:\n  - name: x\n    {line}\n"


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", 1, 1, "expected `groups:` and a list of rules, found an empty file"),
        ("groups: [", 1, 10, "not YAML: "),
        ("a: 1\n", 1, 1, "expected one of groups, got 'a'"),
        ("[]", 1, 1, "expected `groups:` and a list of rules"),
        ("{}", 1, 1, "expected `groups:` and a list of rules"),
        ("groups: {}\n", 1, 9, "expected a list of rules"),
        ("groups: []\n", 1, 9, "expected a list of rules"),
        ("groups:\n  - x\n", 2, 5, "expected a rule"),
        ("groups:\n  - command: x\n", 2, 5, "expected `name:` in every rule"),
        ("groups:\n  - name: x\n", 2, 5, "expected at least one of command, command_regex, "),
        (rule("comand: x"), 3, 5, "got 'comand'"),
        (rule("[a]: x"), 3, 5, "got something else"),
        (rule("command: a\n    command: b"), 4, 5, "'command' is there twice"),
        (rule("command:"), 3, 13, "expected a value"),
        (rule("command: []"), 3, 14, "expected 1 to 10000 values, found 0"),
        (rule("command: [a, {b: c}]"), 3, 18, "expected a value"),
        (rule("command: prometheus-node-exporter"), 3, 14, "15 bytes of a command; expected 'prometheus-node'"),
        (rule("cgroup: system.slice"), 3, 13, "expected a path such as"),
        (rule("container: abc"), 3, 16, "expected `any`, or 12 to 64 hexadecimal digits"),
        (rule("user: [root, 4294967295]"), 3, 18, "expected a uid from 0 to 4294967294"),
        (rule("user: 'a:b'"), 3, 11, "expected a user's name or number"),
        (rule(r'command: "\ud800"'), 3, 14, "expected characters of Unicode"),
        (rule("kernel_thread: yes"), 3, 20, "expected true or false, got 'yes'"),
        (rule("command_regex: '('"), 3, 20, "expected a regular expression, got '(': missing )"),
        (rule("command_regex: '[[:alpha:]]'"), 3, 20, "expected a regular expression"),
        (rule("command_regex: '(a+)+$'"), 3, 20, "repeats a group that itself can match in more than one way"),
        (rule("command_regex: ['(?P<a>x)', '(?P<a>y)']"), 3, 20, "two expressions capture under one name"),
        (rule("command_regex: '(?P<uid>x)'"), 2, 5, "'uid' is captured, or there already"),
        (rule("command_regex: '(?P<a>x)'\n    cgroup_regex: '(?P<a>x)'"), 2, 5, "'a' is captured, or there already"),
        ("groups:\n  - name: '{x}'\n    command: a\n", 2, 11, "container, uid, user in braces, got {x}"),
        ("groups:\n  - name: '{pid}'\n    command: a\n", 2, 11, "got {pid}"),
        ("groups:\n  - name: '{user.x}'\n    command: a\n", 2, 11, "got {user.x}"),
        ("groups:\n  - name: '{user!r:>9}'\n    command: a\n", 2, 11, "got {user!r:>9}"),
        ("groups:\n  - name: '{'\n    command: a\n", 2, 11, "expected a name such as"),
        ("groups:\n  - name: ''\n    command: a\n", 2, 11, "expected a name for the group"),
        ("groups: &a [*a]\n", 1, 9, "expected a rule"),
        ("? groups\n: - &r {name: a, command: b}\n  - *r\n  - *q\n", 4, 5, "not YAML"),
    ],
)  # fmt: skip
def test_fault_is_named_with_its_place(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(RulesError) as caught:
        parse_rules(text)
    assert message in str(caught.value)
    assert caught.value.place == Place(line, column)
    assert caught.value.in_file("/etc/r.yml").startswith(f"/etc/r.yml:{line}:{column}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "lists within lists"),
        ("#" * (1 << 20 | 1), "expected at most 1048576 characters"),
        ("groups: [{name: a, command: b}" + ", {name: a, command: b}" * 1000 + "]", "expected at most 1000 rules"),
        ("a\0b", "not YAML"),
    ],
)
def test_file_beyond_bounds_is_refused(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=message):
        parse_rules(text)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet="groups:\n -{}[]'\"&*!|>#name,command:regex?()+*\\x41\t", max_size=60)
    | st.text(max_size=40).map(rule)
    | st.text(max_size=20).map(lambda text: rule(f"command_regex: {text!r}"))
)
def test_nothing_but_a_fault_of_the_file_escapes(text: str) -> None:
    with contextlib.suppress(RulesError):
        parse_rules(text)


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{user}@{container}", "root@0123456789ab"),
        ("{{{uid}}}", "{0}"),
        ("{empty}", "(empty name)"),
        ("oth{er}", "other (by rule)"),
        ("x" * 500, "x" * 200),
    ],
)
def test_names_are_rendered(template: str, rendered: str) -> None:
    values = {"user": "root", "uid": "0", "container": "0123456789ab", "empty": "", "er": "er"}
    assert parse_template(template, {"empty", "er"}).render(values) == rendered
