"""`python -m tests.faults`: run a fault campaign here, and exit by its verdict."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from latido import logs
from tests.faults import schedule
from tests.faults.campaign import Campaign, Outcome
from tests.faults.stack import can_mount

_DESCRIPTION = """Run the real programs under a schedule of faults and count every sample at the end.

Three simulated hosts with a real exporter each, both ingest APIs, a private MariaDB, and a bridge with a client, all
on loopback and in a folder of their own. The schedule is drawn from the seed that is printed first: --seed repeats it.
Exit status 0: every invariant held. 1: one did not; seed, schedule and what differs are printed."""


_SHOWN = (
    "faults_by_kind",
    "samples",
    "acknowledged",
    "process_rows",
    "frames",
    "connections",
    "lost",
    "missing",
    "failed",
    "answers",
    "resident_mib",
    "descriptors",
    "settled_seconds",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600, help="how long faults strike (default 600)")
    parser.add_argument("--seed", type=int, help="draw the schedule of an earlier run again")
    parser.add_argument("--gap", type=float, default=6, help="mean seconds between two faults (default 6)")
    parser.add_argument("--only", help=f"kinds of fault, with commas between: {', '.join(schedule.KINDS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcome there")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there, and leave logs, spools and tables")
    parser.add_argument("--list", action="store_true", help="print the schedule and do nothing")
    given = parser.parse_args(argv)
    seed = secrets.randbits(32) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory(prefix="latido-faults-") as temporary:
        folder: Path = given.keep or Path(temporary)
        kinds = given.only.split(",") if given.only else sorted(schedule.KINDS)
        if not can_mount(folder) and "disk_full" in kinds:
            _say("no disk_full: mounting a disk of our own needs root (file_limit does the same without)")
            kinds = [kind for kind in kinds if kind in schedule.FREE]
        try:
            faults = schedule.draw(seed, given.seconds, kinds, gap=given.gap)
        except ValueError as error:
            parser.error(f"--only: {error}")
        _say(f"seed {seed}: {len(faults)} faults in {given.seconds:g} s, about one each {given.gap:g} s")
        if given.list:
            for fault in faults:
                _say(str(fault))
            return 0
        logs.setup("warning", "console")
        outcome = Campaign(folder, seed, given.seconds, faults, _say).run()
    if given.json:
        given.json.write_text(json.dumps(outcome.document(), indent=1) + "\n", encoding="utf-8")
    return _report(outcome)


def _report(outcome: Outcome) -> int:
    document = outcome.document()
    for name in _SHOWN:
        _say(f"{name.replace('_', ' ')}: {json.dumps(document[name])}")
    if not outcome.violations:
        _say(f"seed {outcome.seed}: {len(outcome.faults)} faults, every invariant held")
        return 0
    _say(f"seed {outcome.seed}: {len(outcome.violations)} violations. The schedule was:")
    for fault in outcome.faults:
        _say(f"  {fault}")
    _say("and what differs:")
    for line in outcome.violations:
        _say(f"  {line}")
    return 1


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
