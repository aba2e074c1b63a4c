"""The short form of the campaign, and the proof that it can fail: defects planted into the real programs are found."""

from __future__ import annotations

from pathlib import Path

from tests.faults import schedule
from tests.faults.campaign import Campaign
from tests.faults.schedule import Fault
from tests.faults.stack import Plan, can_mount

SEED = 3
SECONDS = 24.0


def test_every_kind_of_fault_once_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """`make faults` is the long form. A wrong token is left to it: who refuses us is asked again after 30 s."""
    kinds = (set(schedule.KINDS) if can_mount(tmp_path) else set(schedule.FREE)) - {"wrong_token"}
    faults = schedule.draw(SEED, SECONDS, kinds, gap=1.5, every=True)
    lines: list[str] = []
    # At this interval an outage of 20 s leaves no backlog, whose pace on a busy machine would be the test's.
    outcome = Campaign(tmp_path / "stack", SEED, SECONDS, faults, lines.append).run(Plan(interval="1s"))
    assert [] == outcome.violations, "\n".join(lines)
    assert len({fault.kind for fault in faults}) >= len(kinds) - 3  # what was drawn too long for what was left
    assert min(outcome.acknowledged.values()) > 40
    assert outcome.frames > 40


def test_planted_defects_are_found(tmp_path: Path) -> None:
    """Find an API that acknowledges what it does not store, a spool that forgets, samples that change on the way."""
    plan = Plan(
        apis=("raw",),
        hosts=("a", "b"),
        bridge=False,
        plants={"raw": "acknowledge-without-commit", "a": "forget-a-sample", "b": "send-another-time"},
    )
    # An answer that comes after the exporter's patience: what is stored is sent again.
    faults = [Fault(0.5, "delay_link", "b>raw", 8.0, 3.0)]
    lines: list[str] = []
    found = "\n".join(Campaign(tmp_path / "stack", SEED, 9.0, faults, lines.append).run(plan).violations)
    for expected in (
        "was acknowledged by raw and is not in the database",
        "samples are nowhere",
        "and the exporter counts 0 lost",
        "a number was used twice",
        "is in the database 2 times",
    ):
        assert expected in found, "\n".join(lines)
