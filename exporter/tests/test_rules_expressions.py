"""Regular expressions that cannot hang a scrape, and ids of containers out of cgroup paths."""

from __future__ import annotations

import itertools
import re
import time

import pytest

from exporter.rules.containers import container_id
from exporter.rules.errors import SlowExpressionError
from exporter.rules.expressions import SUBJECT_CHARACTERS, Expression

ID = "4f" * 32
INNER = "0a" * 32


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$", "(a*)*$", "(a|aa)+$", "(?:a|a)*$", "(.*a){11}$", "((a?)b?)*$", "(?P<x>(?:ab*)+)$", "(x+x+)+y",
        "([a-z]+)*[0-9]", "(a+){2,}", "(?:(?:a{1,3})+b?)+", "((a+)++)*(a+)+", r"(\)a+)+", "([)]a+)+", "(a{2,}?)+",
    ],
)  # fmt: skip
def test_expression_that_could_take_for_ever_is_refused(pattern: str) -> None:
    re.compile(pattern)
    with pytest.raises(ValueError, match="can match in more than one way"):
        Expression(pattern)


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("(a+)++$", "aaa"), ("((a+)++)*$", "aaa"), ("(?>a+)+$", "aaa"), ("(abc)+", "abcabc"), ("(?:/[^/]+)?$", "/x"),
        (r"\(a+\)+", "(aa))"), ("[(a+)]+", "a+("), (r"(?#(a+)x", "x"), ("(?:a|b)?c", "bc"), ("(?i:x)y*", "Xyy"),
        ("(?<!a)b+", "cb"), (r"(?P<q>['x])a(?P=q)", "xax"), ("(?i)X", "x"), ("a{2}", "aa"), ("(a{2}){2}", "aaaa"),
        ("(x+){1}", "xx"), ("[]a]+", "]"), ("", ""),
    ],
)  # fmt: skip
def test_expression_that_cannot_is_taken(pattern: str, value: str) -> None:
    assert Expression(pattern).search(value) is not None


def test_what_is_refused_does_take_for_ever() -> None:
    """The bound is not idle: time doubles with each letter, and what is recommended instead takes none."""
    start = time.thread_time()
    assert re.search("^(a+)+$", "a" * 20 + "b") is None
    slow = time.thread_time() - start
    start = time.thread_time()
    assert Expression("^(a+)++$").search("a" * 20 + "b") is None
    assert time.thread_time() - start < slow / 20


def test_captures_are_there_and_parts_that_did_not_match_are_empty() -> None:
    expression = Expression("(?P<a>x)|(?P<b>y)")
    assert expression.captures == {"a", "b"}
    assert (expression.search("y"), expression.search("z")) == ({"a": "", "b": "y"}, None)


def test_no_more_than_a_bound_of_a_value_is_looked_at() -> None:
    expression = Expression("z")
    assert expression.search("a" * (SUBJECT_CHARACTERS - 1) + "z") is not None
    assert expression.search("a" * SUBJECT_CHARACTERS + "z") is None


def test_each_distinct_value_is_looked_at_once() -> None:
    readings = itertools.count()
    expression = Expression("a", cpu_clock=lambda: next(readings) * 0.0)
    answers = [expression.search(value) for value in ("a", "b", "a", "b", "a")]
    assert answers == [{}, None, {}, None, {}]
    assert next(readings) == 4


def test_values_without_end_do_not_grow_memory() -> None:
    expression = Expression("x")
    for number in range(10_000):
        expression.search(str(number))
    assert len(expression._answers) <= 4096


def test_expression_that_took_too_long_raises() -> None:
    seconds = iter((0.0, 0.2, 1.0, 1.3))
    expression = Expression("a", cpu_clock=lambda: next(seconds))
    assert expression.search("b") is None
    with pytest.raises(SlowExpressionError, match=r"took longer than 0\.25 s"):
        expression.search("c")


@pytest.mark.parametrize(
    ("pattern", "characters"),
    [
        (r"-jar (?P<jar>\S+)", 4096), ("^.*a.*b", 4096), ("a*b*", 843), ("^a*b*c*", 843), (r"\Aa*b*c*", 843),
        (r"(?P<a>\S++).*-jar (?P<j>\S++)", 4096), ("a{3}b{1,9}c{2}d?", 4096), ("a{1,99}b{4,}", 843), ("a*b*c*", 221),
    ],
)  # fmt: skip
def test_more_repeats_see_fewer_characters(pattern: str, characters: int) -> None:
    assert Expression(pattern).characters == characters


def test_polynomial_expression_takes_bounded_time_on_the_worst_text() -> None:
    """At 600 characters, all of them, it would take thirty times as long."""
    expression = Expression("a*a*a*b$", cpu_clock=lambda: 0.0)
    start = time.thread_time()
    assert expression.search("a" * 4096) is None
    assert time.thread_time() - start < 5


@pytest.mark.parametrize("pattern", ["(?x)(a+ # )\n)+$", "b(?x:(a+ # )\n)+$)", "(?ix-s:(a+ # )\n)+$)"])
def test_a_comment_cannot_hide_a_repeat(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected no flag x"):
        Expression(pattern)
    assert Expression("(?P<x>a)(?i:x)(?-x:b)").search("axb") == {"x": "a"}


@pytest.mark.parametrize("repeats", [7, 160, 5000])
def test_too_many_repeats_are_refused_with_the_remedy(repeats: int) -> None:
    with pytest.raises(ValueError, match="too many repeats without an end"):
        Expression(".*a" * repeats)


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        ("/", ""),
        ("/system.slice/cron.service", ""),
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/kubepods/burstable/pod2b3c0d5e-6f70-4a1b-9c8d-0e1f2a3b4c5d/{ID}", ID),
        (f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods-besteffort-pod1.slice:cri-containerd:{ID}", ID),
        (f"/kubepods.slice/crio-{ID}.scope", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/machine.slice/libpod-conmon-{ID}.scope", ""),
        (f"/machine.slice/crio-conmon-{ID}.scope", ""),
        (f"/docker/{ID}/kubelet.slice/cri-containerd-{INNER}.scope", INNER),
        ("/docker/0123456789ab", "0123456789ab"),
        ("/docker-0123456789ab.scope", "0123456789ab"),
        ("/user.slice/0123456789ab", ""),
        (f"/docker/{ID}0", ""),
        ("/docker/" + "x" * 64, ""),
    ],
)
def test_id_of_a_container(cgroup: str, expected: str) -> None:
    assert container_id(cgroup) == expected
