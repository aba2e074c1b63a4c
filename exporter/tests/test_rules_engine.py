"""Rules over whole tables: who matches what, once for all that are alike, and command lines only where they decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.grouping import by_command
from exporter.rules.command_lines import ProcfsCommandLines
from exporter.rules.conditions import Matches, Subject
from exporter.rules.document import GroupRule, parse_rules
from exporter.rules.engine import RuleSet
from exporter.rules.errors import Place
from exporter.rules.expressions import Expression
from exporter.rules.names import parse_template
from exporter.rules.users import PasswdFile, Users, parse_passwd
from exporter.sources.procfs import ProcfsSource
from exporter.tests.processes import child
from exporter.tests.tables import Row, kernel_thread, labels, table
from latido import logs

ID = "4f" * 32
USERS = Users({0: ("root", "toor"), 33: ("www-data",)})


def grouped(rules: str, *rows: Row) -> list[str]:
    return labels(RuleSet(parse_rules(f"groups: {rules}"), USERS)(table(*rows)))


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("[{name: x, command: [nginx, php]}]", ["x", "cat", "cat", "kworker"]),
        ("[{name: '{n}', command_regex: '^(?P<n>..)'}]", ["ng", "ca", "ca", "kw"]),
        ("[{name: '{user}', user: [www-data, 7]}]", ["www-data", "cat", "7", "kworker"]),
        ("[{name: x, user: toor}]", ["nginx", "x", "cat", "x"]),
        ("[{name: 'u{uid}', kernel_thread: false}]", ["u33", "u0", "u7", "kworker"]),
        ("[{name: kernel, kernel_thread: true}]", ["nginx", "cat", "cat", "kernel"]),
        ("[{name: x, cgroup: /a.slice}]", ["x", "cat", "cat", "kworker"]),
        ("[{name: x, cgroup: /a.slice/}]", ["x", "cat", "cat", "kworker"]),
        ("[{name: x, cgroup: /}]", ["x", "x", "cat", "x"]),
        ("[{name: '{s}', cgroup_regex: '^/(?P<s>[^.]+)'}]", ["a", f"docker/{ID}", "cat", "kworker"]),
        ("[{name: x, cgroup_regex: ''}]", ["x", "x", "cat", "x"]),
        ("[{name: 'c-{container}', container: any}]", ["nginx", f"c-{ID[:12]}", "cat", "kworker"]),
        (f"[{{name: x, container: {ID[:20]}}}]", ["nginx", "x", "cat", "kworker"]),
        (f"[{{name: x, container: {'5' * 12}}}]", ["nginx", "cat", "cat", "kworker"]),
        ("[{name: '{container}', command: nginx}]", ["(empty name)", "cat", "cat", "kworker"]),
        ("[{name: x, command: cat, user: 0}, {name: y, command: cat}]", ["nginx", "x", "y", "kworker"]),
        ("[{name: nginx, command: cat}]", ["nginx", "nginx", "nginx", "kworker"]),
        ("[{name: other, command: cat}]", ["nginx", "other (by rule)", "other (by rule)", "kworker"]),
    ],
)
def test_first_rule_that_matches_names_the_group(rules: str, expected: Sequence[str]) -> None:
    rows = (
        Row(10, b"nginx", "/a.slice/web", 33),
        Row(11, b"cat", f"/docker/{ID}", 0),
        Row(12, b"cat", "", 7),
        kernel_thread(13, b"kworker/0:1"),
    )
    assert grouped(rules, *rows) == expected


def test_cgroup_beside_one_that_is_named_is_not_in_it() -> None:
    rows = (Row(1, b"s", "/ab"), Row(2, b"s", "/a"), Row(3, b"s", "/a/b"))
    assert grouped("[{name: x, cgroup: /a}]", *rows) == ["s", "x", "x"]


def test_no_process_has_no_group() -> None:
    assert grouped("[{name: x, user: 0, cgroup: /}]") == []


_ROWS = st.lists(
    st.builds(
        Row,
        pid=st.integers(3, 10_000),
        command=st.sampled_from([b"a", b"b", b"\xff", b"other", b"k/1"]),
        cgroup=st.sampled_from(["", "/", "/a", "/b/c"]),
        uid=st.integers(0, 2),
        ppid=st.sampled_from([1, 2]),
        virtual_bytes=st.sampled_from([0, 1]),
    ),
    unique_by=lambda row: row.pid,
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_ROWS, min_size=1, max_size=4))
def test_table_at_once_equals_each_process_alone(tables: list[list[Row]]) -> None:
    """Whatever is remembered of the tables before."""
    text = (
        "groups: [{name: '{user}', user: 1}, {name: '{cgroup}', cgroup: /b, command: [a, k/1]}, {name: z, command: b}]"
    )
    rules = parse_rules(text)
    followed = RuleSet(rules)
    for rows in tables:
        at_once = labels(followed(table(*rows)))
        ordered = sorted(rows, key=lambda row: row.pid)
        assert at_once == [labels(RuleSet(rules)(table(row)))[0] for row in ordered]


def test_no_rules_are_the_default_rule() -> None:
    rows = table(Row(1, b"other"), Row(3, b""), kernel_thread(8, b"kworker/1"), Row(9, b"\xfe"))
    assert labels(RuleSet(())(rows)) == labels(by_command(rows))


# --- command lines ---


@dataclass
class Lines:
    """Command lines that a test sets, and who asked for them."""

    lines: dict[int, str]
    asked: list[int] = field(default_factory=list)

    def read(self, pid: int, start_ticks: int) -> str | None:  # noqa: ARG002 - the protocol's
        self.asked.append(pid)
        return self.lines.get(pid)


JAVA = """
groups:
  - {name: 'java-{jar}', command: java, command_line_regex: '-jar (?P<jar>[a-z]+)'}
  - {name: j, command: java}
"""


def test_command_lines_are_read_once_and_only_where_all_else_holds() -> None:
    lines = Lines({1: "java -jar kafka", 2: "java -jar solr", 3: "java -version"})
    rules = RuleSet(parse_rules(JAVA), command_lines=lines)
    rows = table(Row(1, b"java"), Row(2, b"java"), Row(3, b"java"), Row(4, b"cat"))
    expected = ["java-kafka", "java-solr", "j", "cat"]
    assert labels(rules(rows)) == expected
    assert labels(rules(rows)) == expected
    assert lines.asked == [1, 2, 3]


def test_pid_that_is_used_again_is_read_again_and_so_is_a_process_that_becomes_another_program() -> None:
    lines = Lines({1: "java -jar kafka"})
    rules = RuleSet(parse_rules(JAVA), command_lines=lines)
    assert labels(rules(table(Row(1, b"java", start_ticks=5)))) == ["java-kafka"]
    lines.lines[1] = "java -jar solr"
    assert labels(rules(table(Row(1, b"java", start_ticks=6)))) == ["java-solr"]
    assert labels(rules(table(Row(1, b"bash", start_ticks=6)))) == ["bash"]


def test_command_line_that_cannot_be_read_is_asked_for_again() -> None:
    """In the midst of exec there is none; who is refused asks in vain, and goes on by the other rules."""
    lines = Lines({})
    rules = RuleSet(parse_rules(JAVA), command_lines=lines)
    assert labels(rules(table(Row(1, b"java")))) == ["j"]
    lines.lines[1] = "java -jar kafka"
    assert labels(rules(table(Row(1, b"java")))) == ["java-kafka"]


def test_process_that_ended_keeps_its_group_until_it_is_reaped() -> None:
    lines = Lines({1: "java -jar kafka"})
    rules = RuleSet(parse_rules(JAVA), command_lines=lines)
    rules(table(Row(1, b"java")))
    zombie = table(Row(1, b"java", virtual_bytes=0, state=b"Z"))
    assert labels(rules(zombie)) == ["java-kafka"]
    assert lines.asked == [1]


def test_what_is_remembered_of_processes_is_bounded() -> None:
    """A fork bomb's worth of processes, each seen once."""
    lines = Lines(dict.fromkeys(range(40000), "java -jar kafka"))
    rules = RuleSet(parse_rules(JAVA), command_lines=lines)
    for first in range(0, 40_000, 10_000):
        processes = table(*(Row(pid, b"java") for pid in range(first, first + 10_000)))
        assert rules(processes).labels == ["java-kafka"]
    assert len(rules._decided) <= 32_768


def test_command_line_of_a_real_process(tmp_path: Path) -> None:
    """And of one that is gone, one whose pid is another's by now, and one that has none."""
    lines = ProcfsCommandLines(Path("/proc"))
    with child(b"renamed") as process:
        source = ProcfsSource()
        records = source.processes().records
        source.close()
        start = int(records["start_ticks"][np.flatnonzero(records["pid"] == process.pid)[0]])
        line = lines.read(process.pid, start)
        assert line is not None
        assert b"renamed".hex() in line.split(" ")
        assert lines.read(process.pid, start + 1) is None
        process.become_zombie()
        assert lines.read(process.pid, start) is None
    assert lines.read(process.pid, start) is None
    assert ProcfsCommandLines(tmp_path).read(1, 1) is None


# --- slow rules, and users ---


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, object]]]]:
    stream = StringIO()
    logs.setup("info", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.setup("info", "console")


def test_rule_that_takes_too_long_is_off_and_the_others_go_on(log: Callable[[], list[dict[str, object]]]) -> None:
    (x,) = parse_rules("groups: [{name: x, cgroup: /a}]")
    seconds = iter([0.0, 0.1, 1.0, 2.0])  # the second value takes a second
    slow = Matches(Subject.CGROUP, (Expression("b$", cpu_clock=lambda: next(seconds)),))
    rules = RuleSet([GroupRule(Place(2, 5), parse_template("slow", ()), (slow,)), x])
    assert labels(rules(table(Row(1, b"cat", "/b")))) == ["slow"]
    assert labels(rules(table(Row(1, b"cat", "/b"), Row(2, b"cat", "/a/b")))) == ["cat", "x"]
    (line,) = log()
    assert (line["event"], line["rule"], line["line"]) == ("group rule is off until rules are read again", "slow", 2)
    # Nothing of it stays, not even where it had matched.
    assert labels(rules(table(Row(1, b"cat", "/b"), Row(2, b"cat", "/a/b")))) == ["cat", "x"]
    assert len(log()) == 1


def test_users_of_a_passwd_file() -> None:
    known = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nw:x:33:33:W:/:/f\n"
    text = known + "#c:x:1:1:::\n+::::::\n-n::9::::\nbad:x:y:1:::\n\nshort:x:5\n"
    users = parse_passwd(text)
    assert users.names == {0: ("root", "toor"), 33: ("w",)}
    assert (users.name(0), users.name(33), users.name(5)) == ("root", "w", "5")


def test_passwd_file_is_that_of_the_host_s_file_system(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    file = PasswdFile(tmp_path)
    assert file.version() is None
    with pytest.raises(FileNotFoundError):
        file.read()
    (tmp_path / "etc" / "passwd").write_bytes(b"h\xff:x:7:7::/:/bin/sh\n")
    assert file.read().names == {7: ("h\ufffd",)}
    version = file.version()
    (tmp_path / "etc" / "passwd").write_bytes(b"longer:x:7:7::/:/bin/sh\n")
    assert file.version() != version
