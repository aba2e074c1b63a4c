"""The short form of the soak, whose bars are the long one's: it sees growth, and a run counts every sample."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import Look
from tests.faults.soak import run, trend


def looks(*, bytes_a_second: int = 0, descriptors_a_minute: int = 0, slower: float = 0.0) -> list[Look]:
    """Return ten minutes of a program."""
    found, seconds = [], 0.0
    for at in range(600):
        seconds += 0.01 * (1 + slower * at / 600)
        found.append(Look(at, (50 << 20) + bytes_a_second * at, 12 + descriptors_a_minute * at // 60, seconds, at))
    return found


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (looks(), []),
        (looks(bytes_a_second=1 << 10), []),
        (looks(bytes_a_second=20 << 10), ["raw grew by 8.2 MiB; expected at most 5."]),
        (looks(descriptors_a_minute=1), ["raw gained 6."]),
        (looks(slower=2.0), ["raw got slower by 1."]),
    ],
)
def test_what_grows_is_named(seen: list[Look], expected: list[str]) -> None:
    found = list(trend("raw", seen).faults())
    assert len(expected) == len(found), found
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True)), found


def test_too_few_looks_are_no_trend() -> None:
    with pytest.raises(ValueError, match="run it longer"):
        trend("raw", looks()[:20])


def test_a_short_run_counts_every_sample_and_follows_every_program(tmp_path: Path) -> None:
    trends, wrong, outcome = run(tmp_path, 7, 40)
    assert {"a", "b", "c", "raw", "orm", "bridge"} == {one.program for one in trends}
    assert "held" == outcome["verdict"], wrong
    assert not [line for line in wrong if "the reader" in line]
