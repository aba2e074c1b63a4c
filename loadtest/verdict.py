"""What a run is held to, what came of it, and how the two APIs compare. Pure."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from loadtest.monitor import Usage
from loadtest.shapes import Knee
from loadtest.tally import Line, Summary, summarise
from loadtest.verify import Counts

RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.95
LEAST_PAIRS: Final = 4
"""Of fewer slices no interval is given."""
_SEED: Final = 1


class ObjectivesError(ValueError):
    """The objectives cannot be used; the message says what was expected."""


class Objectives(Struct, frozen=True, forbid_unknown_fields=True):
    """What each API is held to; None asks for nothing."""

    latency_p95_ms: float | None = None
    error_ratio: float | None = None
    sample_age_p99_seconds: float | None = None


class Broken(Struct, frozen=True):
    """An objective that did not hold. `value` is None where nothing was measured at all."""

    objective: str
    api: str
    value: float | None
    bound: float

    def __str__(self) -> str:
        """Return it in words."""
        if self.value is None:
            return f"{self.api}: nothing was measured of {self.objective}"
        return f"{self.api}: {self.objective} is {self.value:.4g}, above {self.bound:g}"


class Turn(Struct, frozen=True):
    """A slice of the run as it was: which API had the load, since when (seconds since the epoch), of how many hosts."""

    number: int
    api: str
    hosts: int
    at: float


class Comparison(Struct, frozen=True):
    """A figure of orm over the same of raw, slice against slice: the median and where it lies by 95 %."""

    figure: str
    raw: float
    orm: float
    ratio: float
    low: float | None
    high: float | None
    pairs: int


def parse(document: object) -> Objectives:
    """Return the objectives of a YAML document. Raises ObjectivesError."""
    try:
        return msgspec.convert(document or {}, Objectives)
    except msgspec.ValidationError as error:
        known = ", ".join(Objectives.__struct_fields__)
        raise ObjectivesError(f"{error}; known are {known}, each a number") from None


def judge(objectives: Objectives, found: Mapping[str, Summary]) -> list[Broken]:
    """Return what broke, by API."""
    broken = []
    for api, summary in found.items():
        age = None if summary.age_p99_ms is None else summary.age_p99_ms / 1000
        for name, value in (
            ("latency_p95_ms", summary.p95_ms),
            ("error_ratio", summary.error_ratio if summary.requests else None),
            ("sample_age_p99_seconds", age),
        ):
            bound: float | None = getattr(objectives, name)
            if bound is not None and (value is None or value > bound):
                broken.append(Broken(name, api, value, bound))
    return broken


def first_line(broken: Sequence[Broken], counts: Counts | None, faults: Sequence[str], knees: Sequence[Knee]) -> str:
    """Return the verdict: one line that says green or red, and why."""
    reasons = [*faults]
    if counts is None:
        reasons.append("what MySQL holds was not counted")
    elif not counts.equal:
        more = f", and {counts.different - 1} more" if counts.different > 1 else ""
        reasons.append(f"counts differ: {counts.differences[0]}{more}")
    elif not any(counts.acknowledged.values()):
        reasons.append("no sample was acknowledged")
    reasons += map(str, broken)
    if reasons:
        return f"RED: {'; '.join(reasons)}"
    held = "every objective held" if not knees else describe(knees)
    samples = sum(counts.stored[table] for table in ("ram", "cpu", "procesos")) if counts else 0
    return f"GREEN: {held}, and all {samples:,} acknowledged samples are stored once"


def describe(knees: Sequence[Knee]) -> str:
    """Return where the knees are, and their ratio."""
    parts = [
        f"{knee.api} holds {knee.hosts:.0f} hosts" + ("" if knee.broke is not None else " and did not break")
        for knee in knees
    ]
    by_api = {knee.api: knee for knee in knees}
    raw, orm = by_api.get("raw"), by_api.get("orm")
    if raw and orm and orm.hosts:
        sign = "" if raw.broke is not None else "at least "
        parts.append(f"raw over orm {sign}{raw.hosts / orm.hosts:.2g}")
    return ", ".join(parts)


def compare(
    turns: Sequence[Turn], end: float, lines: Sequence[Line], usage: Sequence[Usage], settle: float
) -> list[Comparison]:
    """Compare orm with raw over neighbouring slices, of which each had one.

    Of each slice the first `settle` seconds are left out. A figure's ratio is taken of each pair of slices; shown is
    the median over the pairs, and the interval by the percentile bootstrap: pairs are drawn anew `RESAMPLES` times.
    """
    ends = [*(turn.at for turn in turns[1:]), end]
    slices = [_slice(turn, until, lines, usage, settle) for turn, until in zip(turns, ends, strict=True)]
    pairs = []
    for first, second in zip(slices[::2], slices[1::2], strict=False):
        pair = {first.pop("api"): first, second.pop("api"): second}
        if pair.keys() == {"raw", "orm"}:
            pairs.append((pair["raw"], pair["orm"]))
    found = []
    for figure in ("p50_ms", "p95_ms", "mean_ms", "api_cpu_ms_per_1000_rows"):
        both = [(raw.get(figure), orm.get(figure)) for raw, orm in pairs]
        whole = [(float(raw), float(orm)) for raw, orm in both if raw and orm]
        if whole:
            found.append(_comparison(figure, whole))
    return found


def _slice(turn: Turn, until: float, lines: Sequence[Line], usage: Sequence[Usage], settle: float) -> dict[str, Any]:
    first = turn.at + settle
    own = [line for line in lines if line.phase == turn.number and line.kind == "push" and line.api == turn.api]
    seen = summarise([line for line in own if first <= line.second < until], max(0.0, until - first))
    looks = [look for look in usage if look.program == turn.api and first <= look.at <= until]
    rows = cpu = 0.0
    if len(looks) > 1:
        cpu = looks[-1].cpu_seconds - looks[0].cpu_seconds
        rows = (looks[-1].rows or 0.0) - (looks[0].rows or 0.0)
    return {
        "api": turn.api,
        "p50_ms": seen.p50_ms,
        "p95_ms": seen.p95_ms,
        "mean_ms": seen.mean_ms,
        "api_cpu_ms_per_1000_rows": 1e6 * cpu / rows if rows else None,
    }


def _comparison(figure: str, pairs: Sequence[tuple[float, float]]) -> Comparison:
    ratios = [orm / raw for raw, orm in pairs]
    low, high = interval(ratios, statistics.median) if len(pairs) >= LEAST_PAIRS else (None, None)
    return Comparison(
        figure=figure,
        raw=statistics.median(raw for raw, _ in pairs),
        orm=statistics.median(orm for _, orm in pairs),
        ratio=statistics.median(ratios),
        low=low,
        high=high,
        pairs=len(pairs),
    )


def interval(values: Sequence[float], of: Callable[[Sequence[float]], float]) -> tuple[float, float]:
    """Return the percentile bootstrap's interval of a statistic; the same values give the same interval."""
    draw = random.Random(_SEED)  # noqa: S311 - no secret
    found = sorted(of(draw.choices(values, k=len(values))) for _ in range(RESAMPLES))
    tail = (1 - CONFIDENCE) / 2
    return found[int(tail * RESAMPLES)], found[min(RESAMPLES - 1, int((1 - tail) * RESAMPLES))]
