"""The short form of the fuzzer; `python -m tests.fuzz` is the long one."""

from __future__ import annotations

import pytest

from tests.fuzz.__main__ import Report, fuzz
from tests.fuzz.parsers import Parser, parsers

SEED = 20261124
SECONDS = 0.5
PARSERS = {parser.name: parser for parser in parsers()}


@pytest.mark.parametrize("name", PARSERS)
def test_only_documented_errors_escape(name: str) -> None:
    parser, report = PARSERS[name], Report()
    assert [] == list(fuzz(parser, SEED, SECONDS, report))
    assert report.inputs > 10


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_what_the_parser_takes(name: str) -> None:
    """Mutations of what is refused anyway would fuzz the first check alone."""
    parser = PARSERS[name]
    for data in parser.corpus:
        try:
            parser.parse(data)
        except parser.allowed:
            continue
        return
    raise AssertionError("all of it is refused")


def test_a_planted_fault_is_found_and_named() -> None:
    def parse(data: bytes) -> None:
        if data.count(b"\0") > 2:
            raise KeyError(data)

    failures = list(fuzz(Parser("planted", parse, (ValueError,), [b"abc" * 10]), SEED, SECONDS, Report()))
    assert failures
    assert "KeyError" in failures[0].what
    assert "in parse" in failures[0].place
