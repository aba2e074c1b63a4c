"""The short form of a fleet's return from an outage; `python -m tests.faults.comeback` is the long one."""

from __future__ import annotations

from pathlib import Path

from tests.faults.comeback import Fleet, run


def test_a_fleet_returns_and_its_live_samples_do_not_wait_for_its_backlog(tmp_path: Path) -> None:
    """Its bars of time are for a quiet machine, and the long form's; that all is counted once holds on any."""
    lines: list[str] = []
    fleet = Fleet(hosts=5, outage=75.0, interval=1.5, processes=40)
    outcome = run(tmp_path, fleet, lines.append)
    assert [] == outcome.violations, "\n".join(lines)
    # a sample of each feed every 1.5 s, and beyond what a request holds at 20 a second at most
    assert outcome.drained_seconds > 3 * (50 - 20) / 20
    assert outcome.samples >= 5 * 3 * 50
    assert outcome.live_samples >= 5 * 3
    # the first of them were taken when all of the backlog waited
    assert outcome.live_age_p50 < outcome.drained_seconds / 2
