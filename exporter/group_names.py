"""Who keeps a name when there are more groups than names: the most active, and of two alike the one that had it.

Without that lean towards the incumbent a series would come and go with every tick, and a graph of it be a comb.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

CHALLENGE_FACTOR: Final = 2.0
CHALLENGE_MARGIN_NS: Final = 100_000_000
"""A challenger takes a name if it is so many times as active as the incumbent and so much CPU beyond. One tick is
0.01 s and comes by chance: two daemons that idle alike do not take turns."""


class Candidate(NamedTuple):
    """A group that may have a name. `activity` is in nanoseconds of CPU; `present`: it has a member now."""

    label: str
    activity: float
    present: bool


def choose(candidates: Sequence[Candidate], incumbents: Collection[str], names: int) -> set[str]:
    """Return the labels, at most `names`, that have a name from now on.

    Every label of `incumbents` is among `candidates`, which are distinct. Who has no member and hardly any activity
    left makes room for anyone who is there.
    """
    had = [candidate for candidate in candidates if candidate.label in incumbents]
    named = {candidate.label for candidate in had}
    if len(named) == len(candidates):
        return named
    # Labels break ties, so that equal tables give equal names.
    challengers = heapq.nsmallest(
        names,
        (candidate for candidate in candidates if candidate.label not in incumbents),
        key=lambda candidate: (-candidate.activity, candidate.label),
    )
    free = names - len(named)
    named.update(candidate.label for candidate in challengers[:free])
    weakest = sorted(had, key=lambda candidate: (not _makes_room(candidate), candidate.activity, candidate.label))
    for challenger, incumbent in zip(challengers[free:], weakest, strict=False):
        bar = CHALLENGE_FACTOR * incumbent.activity + CHALLENGE_MARGIN_NS
        if not _makes_room(incumbent) and challenger.activity <= bar:
            break
        named.remove(incumbent.label)
        named.add(challenger.label)
    return named


def _makes_room(incumbent: Candidate) -> bool:
    return not incumbent.present and incumbent.activity < CHALLENGE_MARGIN_NS
