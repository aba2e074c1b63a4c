"""What the load test's dashboards ask is what the history's own questions are."""

from __future__ import annotations

from dev import loadtest


def test_the_file_of_questions_is_written_from_the_schema() -> None:
    assert loadtest.document() == loadtest.QUESTIONS.read_bytes(), "`python -m dev.loadtest --write-questions`"
