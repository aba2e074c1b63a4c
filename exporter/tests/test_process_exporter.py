"""The converter: what process-exporter's file says, ours says, and what it cannot say is named."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.rules.document import parse_rules
from exporter.rules.engine import RuleSet
from exporter.rules.errors import RulesError
from exporter.rules.process_exporter import convert
from exporter.rules.users import Users
from exporter.tests.tables import Row, kernel_thread, labels, table

PROCESSES = (
    (Row(10, b"bash"), "-bash"),
    (Row(11, b"postgres"), "/usr/lib/postgresql/15/bin/postgres -D /data -c x"),
    (Row(12, b"prometheus"), "/usr/local/bin/prometheus --web.port=1"),
    (Row(13, b"prometheus"), "/opt/prometheus"),
    (Row(14, b"java", uid=33), "java -Xmx1g -jar kafka.jar"),
    (kernel_thread(15, b"kworker/0:1"), ""),
)


class Lines:
    """The command lines of PROCESSES."""

    def read(self, pid: int, start_ticks: int) -> str | None:  # noqa: ARG002 - the protocol's
        return {row.pid: line for row, line in PROCESSES}[pid] or None


def groups(text: str) -> list[str]:
    rules = parse_rules(convert("process_names:\n" + text).text)
    return labels(RuleSet(rules, Users({33: ("www-data",)}), Lines())(table(*(row for row, _ in PROCESSES))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- {name: x, comm: [bash, java]}", ["x", "postgres", "prometheus", "prometheus", "x", "kworker"]),
        ("- {comm: [bash]}\n- {name: j, comm: [java, bash]}",
         ["bash", "postgres", "prometheus", "prometheus", "j", "kworker"]),
        ("- {name: x, exe: [postgres]}", ["bash", "x", "prometheus", "prometheus", "java", "kworker"]),
        ("- {name: x, exe: [/usr/local/bin/prometheus]}", ["bash", "postgres", "x", "prometheus", "java", "kworker"]),
        ("- {exe: [prometheus], name: '{{.ExeFull}}'}",
         ["bash", "postgres", "/usr/local/bin/prometheus", "/opt/prometheus", "java", "kworker"]),
        ("- {cmdline: ['o']}", ["bash", "postgres", "prometheus", "prometheus", "java", "kworker"]),
        ("- {name: 'j-{{.Matches.jar}}-{{ .Username }}', cmdline: ['-jar (?P<jar>\\w+)', '-Xmx']}",
         ["bash", "postgres", "prometheus", "prometheus", "j-kafka-www-data", "kworker"]),
        ("- {name: '{{.Matches.user}}', cmdline: ['-D (?P<user>\\S+)']}",
         ["bash", "/data", "prometheus", "prometheus", "java", "kworker"]),
        ("- {name: 'p{{.PID}}{x}', comm: [bash]}", ["p{x}", "postgres", "prometheus", "prometheus", "java", "kworker"]),
        ("- {name: all, cmdline: ['.+']}", ["all", "all", "all", "all", "all", "kworker"]),
        ('- {name: "{{.Comm}}", cmdline: [".+"]}', ["bash", "postgres", "prometheus", "prometheus", "java", "kworker"]),
    ],
)  # fmt: skip
def test_converted_rules_group_as_theirs(text: str, expected: list[str]) -> None:
    assert groups(text) == expected


@pytest.mark.parametrize(
    ("item", "warning"),
    [
        ("{name: '{{.PID}}', comm: [a]}", "not converted: nothing is left of its name"),
        ("{name: 'a{{.StartTime}}', comm: [a]}", "{{.StartTime}} is left out of the name"),
        ("{name: '{{if .Comm}}a{{end}}', comm: [a]}", "not converted: Latido has nothing for {{if .Comm}}"),
        ("{name: '{{.Matches.x}}', comm: [a]}", "not converted: Latido has nothing for {{.Matches.x}}"),
        ("{name: '{{.Cgroups}}', comm: [a]}", "{{.Cgroups}} is a list of all hierarchies"),
        ("{comm: [chromium-browser]}", "'chromium-browser' matched none, now 'chromium-browse'"),
        ("{name: a, cmdline: ['[[:alpha:]]']}", "not converted: expected a regular expression"),
        ("{name: a, cmdline: ['(a+)+']}", "not converted: '(a+)+' repeats a group"),
        ("{name: a, cmdline: ['(?P<x>a)', '(?P<x>b)']}", "not converted: two expressions capture under one name"),
        ("{name: a, comm: [b], smaps: true, [c]: d}", "'smaps' is no key of process-exporter"),
    ],
)
def test_what_cannot_be_converted_is_said(item: str, warning: str) -> None:
    conversion = convert(f"process_names:\n- {item}\n- {{name: kept, comm: [c]}}\n")
    (said,) = [line for line in conversion.warnings if warning in line]
    assert said.startswith("line 2: ")
    assert f"  # {said}\n" in conversion.text
    assert parse_rules(conversion.text)[-1].name.text == "kept"


def test_flag_for_command_lines_is_asked_for_only_where_one_is_read() -> None:
    assert not convert('process_names: [{name: "{{.Comm}}", cmdline: [".+"]}]').needs_command_lines
    conversion = convert("process_names: [{exe: [x]}]")
    assert conversion.needs_command_lines
    assert "--collector.processes.command-line" in conversion.text


def test_file_of_which_nothing_is_left_says_so() -> None:
    text = convert("process_names: [{name: '{{.PID}}', comm: [a]}]").text
    assert "nothing is left: without rules, processes go by their command" in text
    assert yaml.safe_load(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found an empty file"),
        ("a: b", "expected `process_names:` and a list"),
        ("[]", "expected `process_names:` and a list"),
        ("process_names: 1", "expected `process_names:` and a list"),
        ("process_names: [a]", "expected an item with"),
        ("process_names: [{name: a}]", "expected at least one of comm, exe, cmdline"),
        ("process_names: [{comm: {}}]", "expected a value"),
    ],
)
def test_file_that_is_none_of_theirs_is_refused(text: str, message: str) -> None:
    with pytest.raises(RulesError, match=message):
        convert(text)


_TEXT = st.text(min_size=1, max_size=12) | st.sampled_from(["{{.Comm}}", "{{.ExeBase}}x", "(?P<a>b)", "'\"\n", "a*"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"comm": st.lists(_TEXT, min_size=1, max_size=2)},
            optional={"name": _TEXT, "exe": st.lists(_TEXT, min_size=1), "cmdline": st.lists(_TEXT, min_size=1)},
        ),
        min_size=1,
        max_size=3,
    )
)
def test_whatever_is_converted_is_understood(items: list[dict[str, object]]) -> None:
    """Whatever characters names and expressions hold: the result is YAML and its rules are sound, or there are none."""
    text = convert(yaml.safe_dump({"process_names": items})).text
    if yaml.safe_load(text) is not None:
        assert parse_rules(text)
