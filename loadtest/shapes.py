"""How many hosts push at a moment of a run, and to which API. Pure: seconds in, numbers out.

With two APIs a run is cut into slices, of which each API has every other in the order A B B A, so that a load that
grows and a machine that tires fall on both alike. The capacity search raises the number of hosts until the objective of
an API breaks, and gives both each number in turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

SHAPES: Final = ("soak", "ramp", "spike", "search")
_ORDER: Final = (0, 1, 1, 0)
_SPIKE: Final = (0.4, 0.6)
"""The part of the run that a spike takes."""
_CALM: Final = 4
"""A spike is so many times what is there before and after it."""


class Objective(Struct, frozen=True):
    """What breaks an API in the capacity search."""

    latency_p95_ms: float
    error_ratio: float


class Stage(Struct, frozen=True):
    """What a slice of the capacity search found of one API. A slice without requests found it broken."""

    number: int
    api: str
    hosts: int
    requests: int
    p95_ms: float | None
    error_ratio: float
    held: bool


class Knee(Struct, frozen=True):
    """Between which numbers of hosts an API's objective breaks. `broke` is None if it held as far as was asked."""

    api: str
    held: int
    broke: int | None
    hosts: float
    """Where its p95 crosses the objective, between the two on a logarithmic scale; `held` where that is not known."""


def hosts_at(shape: str, most: int, seconds: float, at: float) -> int | None:
    """Return how many hosts push `at` seconds into a run of `seconds`; None once it is over."""
    if at >= seconds:
        return None
    if shape == "ramp":
        return max(1, math.ceil(most * at / seconds))
    if shape == "spike":
        return most if _SPIKE[0] <= at / seconds < _SPIKE[1] else max(1, most // _CALM)
    return most


def slice_at(apis: Sequence[str], width: float, at: float) -> tuple[int, str]:
    """Return the number of the slice `at` seconds into a run, and the API that has it."""
    number = int(at // width)
    if len(apis) == 1:
        return number, apis[0]
    return number, apis[_ORDER[number % len(_ORDER)]]


def slices_of(width: float, seconds: float) -> float:
    """Return the width that cuts a run into whole groups of slices (A B B A), near to `width` and not above it."""
    groups = max(1, math.ceil(seconds / (len(_ORDER) * width)))
    return seconds / (len(_ORDER) * groups)


class Search:
    """The capacity search: which API has how many hosts now, and what was found. `growth` is from level to level."""

    def __init__(self, apis: Sequence[str], first: int, most: int, growth: float, objective: Objective) -> None:
        self._left = list(apis)
        self._most = most
        self._growth = growth
        self._objective = objective
        self._turn = 0
        self._doubted = False
        self.hosts = first
        self.stages: list[Stage] = []

    @property
    def over(self) -> bool:
        """Whether every API has broken, or the most hosts were tried."""
        return not self._left

    @property
    def number(self) -> int:
        """The slice that is now."""
        return len(self.stages)

    @property
    def api(self) -> str:
        """Who has it; it is not over."""
        return self._left[self._turn]

    def judge(self, requests: int, p95_ms: float | None, error_ratio: float) -> Stage:
        """Say what the slice found, and go on to the next.

        A level that broke is tried again at once, and has broken for good if it does so twice: a machine has hiccups.
        """
        within = p95_ms is not None and p95_ms <= self._objective.latency_p95_ms
        held = within and error_ratio <= self._objective.error_ratio
        stage = Stage(self.number, self.api, self.hosts, requests, p95_ms, error_ratio, held)
        self.stages.append(stage)
        if not held and not self._doubted:
            self._doubted = True
            return stage
        self._doubted = False
        if held:
            self._turn += 1
        else:
            del self._left[self._turn]
        if self._turn >= len(self._left):
            self._turn = 0
            if self.hosts >= self._most:
                self._left.clear()
            self.hosts = min(self._most, max(self.hosts + 1, round(self.hosts * self._growth)))
        return stage


def knees(stages: Sequence[Stage], objective_ms: float) -> list[Knee]:
    """Return each API's knee, in the order in which they first had a slice."""
    found = []
    for api in dict.fromkeys(stage.api for stage in stages):
        # Of a level that was tried twice the second time counts.
        own = list({stage.hosts: stage for stage in stages if stage.api == api}.values())
        good = [stage for stage in own if stage.held]
        bad = next((stage for stage in own if not stage.held), None)
        last = good[-1] if good else None
        held = last.hosts if last else 0
        hosts = float(held)
        if last and last.p95_ms and bad and bad.p95_ms and bad.p95_ms > objective_ms > last.p95_ms:
            share = math.log(objective_ms / last.p95_ms) / math.log(bad.p95_ms / last.p95_ms)
            hosts = last.hosts + share * (bad.hosts - last.hosts)
        found.append(Knee(api, held, bad.hosts if bad else None, hosts))
    return found


def cut_off(number: int, at: float, share: float, seconds: float) -> bool:
    """Whether a host has no network `at` seconds into a run, if at each moment `share` of them have none for `seconds`.

    Hosts take turns by their number, in an order in which neighbours do not follow each other.
    """
    if share <= 0:
        return False
    period = seconds / share
    # The golden ratio's multiples spread evenly over the period, however many hosts there are.
    phase = (number * 0.6180339887498949) % 1.0
    return (at / period + phase) % 1.0 < share
