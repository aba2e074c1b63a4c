"""Nothing happens, for long: `python -m tests.faults.soak --minutes 20` at ten times the normal rate.

The stack of a campaign and no fault. What must not grow is looked at once a
second: resident memory, descriptors, and the time that an API spends on a push. The first part warms up and is left
out; to the rest a line is fitted. At the end every sample is counted as after a campaign.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from latido import logs
from tests.faults.campaign import Campaign, Look
from tests.faults.stack import Plan

INTERVAL: Final = "500ms"
"""A tenth of the exporter's default."""
WARM_SHARE: Final = 0.3
"""Of 20 minutes six: the bridge keeps the last five for clients that come back."""
SLICES: Final = 8
"""Of the time after warming up: a slice's median is what the line is fitted to, so that one odd second is none."""
GROWTH_SHARE: Final = 0.1
GROWTH_BYTES: Final = 4 << 20
"""Memory may grow by the larger of the two over the whole time: an allocator's pools settle slowly."""
GROWTH_DESCRIPTORS: Final = 2.0
SLOWER: Final = 1.5
"""Median time of a push in the last third over that in the first; the machine has others on it."""


@dataclass(frozen=True)
class Trend:
    """How a program's figures went: medians after warming up, and what the fitted line gains over that time."""

    program: str
    resident_mib: float
    resident_gain_mib: float
    resident_kib_a_minute: float
    descriptors: float
    descriptors_gain: float
    push_ms: float | None
    """Of an API: the median of what a push takes it, all stages together."""
    push_slower: float | None
    """The same in the last third over the first."""

    def faults(self) -> Iterator[str]:
        """Yield what grew."""
        bound = max(GROWTH_SHARE * self.resident_mib, GROWTH_BYTES / (1 << 20))
        if self.resident_gain_mib > bound:
            yield f"{self.program} grew by {self.resident_gain_mib:.1f} MiB; expected at most {bound:.1f}"
        if self.descriptors_gain > GROWTH_DESCRIPTORS:
            gained = f"{self.descriptors_gain:.1f} descriptors"
            yield f"{self.program} gained {gained}; expected at most {GROWTH_DESCRIPTORS}"
        if self.push_slower is not None and self.push_slower > SLOWER:
            yield f"{self.program} got slower by {self.push_slower:.2f}; expected at most {SLOWER}"


def trend(program: str, looks: Sequence[Look]) -> Trend:
    """Return how a program went. Needs some looks a slice; raises ValueError with fewer."""
    if len(looks) < 4 * SLICES:
        raise ValueError(f"{program} was seen {len(looks)} times; expected at least {4 * SLICES}: run it longer")
    warm = looks[int(len(looks) * WARM_SHARE) :]
    resident = _fitted([(look.at, float(look.resident)) for look in warm])
    descriptors = _fitted([(look.at, float(look.descriptors)) for look in warm])
    spent = [
        (after.stage_seconds - before.stage_seconds) / (after.pushes - before.pushes)
        for before, after in zip(warm[::10], warm[10::10], strict=False)
        if after.pushes > before.pushes
    ]
    third = len(spent) // 3
    minutes = (warm[-1].at - warm[0].at) / 60
    return Trend(
        program=program,
        resident_mib=statistics.median(look.resident for look in warm) / (1 << 20),
        resident_gain_mib=resident / (1 << 20),
        resident_kib_a_minute=resident / 1024 / minutes,
        descriptors=statistics.median(look.descriptors for look in warm),
        descriptors_gain=descriptors,
        push_ms=1000 * statistics.median(spent) if spent else None,
        push_slower=statistics.median(spent[-third:]) / statistics.median(spent[:third]) if third else None,
    )


def _fitted(points: Sequence[tuple[float, float]]) -> float:
    """Return what the line through the medians of slices gains from the first point to the last."""
    size = len(points) // SLICES
    parts = [points[number * size : (number + 1) * size] for number in range(SLICES)]
    at = [statistics.median(x for x, _ in part) for part in parts]
    value = [statistics.median(y for _, y in part) for part in parts]
    return statistics.linear_regression(at, value).slope * (points[-1][0] - points[0][0])


def run(folder: Path, seed: int, seconds: float) -> tuple[list[Trend], list[str], dict[str, object]]:
    """Run it; return trends, what is wrong, and the campaign's outcome."""

    def say(line: str) -> None:
        sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stdout.flush()

    campaign = Campaign(folder, seed, seconds, [], say)
    outcome = campaign.run(Plan(interval=INTERVAL))
    trends = [trend(name, looks) for name, looks in sorted(campaign.looks().items())]
    wrong = [*outcome.violations, *(fault for one in trends for fault in one.faults())]
    if outcome.frames < seconds:
        wrong.append(f"the reader got {outcome.frames} frames in {seconds:g} s")
    return trends, wrong, outcome.document()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser("python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="how long (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    given = parser.parse_args(argv)
    logs.setup("warning", "console")
    with tempfile.TemporaryDirectory(prefix="latido-soak-") as folder:
        trends, wrong, outcome = run(Path(folder), secrets.randbits(32), given.minutes * 60)
    for one in trends:
        push = (
            ""
            if one.push_ms is None
            else f", {one.push_ms:.1f} ms a push (later over earlier {one.push_slower or 1:.2f})"
        )
        sys.stdout.write(
            f"{one.program}: {one.resident_mib:.1f} MiB ({one.resident_kib_a_minute:+.1f} KiB/min),"
            f" {one.descriptors:.0f} descriptors ({one.descriptors_gain:+.2f}){push}\n"
        )
    sys.stdout.write("".join(f"WRONG {line}\n" for line in wrong) or "held\n")
    if given.json:
        document = {"trends": [asdict(one) for one in trends], "wrong": wrong, "outcome": outcome}
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
