"""What a load test counts: requests by second and kind, with their times as histograms that can be added up.

Each Locust process writes a line a second and kind into a file of its own; whoever reads adds them. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from msgspec import Struct, field

GROWTH: Final = 1.02
"""Of a bucket's bounds: a percentile is known to 2 %."""
LEAST_MS: Final = 0.1


class Histogram:
    """Times in milliseconds, in buckets that grow by `GROWTH`."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts: Counter[int] = Counter(counts)

    def add(self, milliseconds: float) -> None:
        """Count one."""
        self._counts[_bucket(milliseconds)] += 1

    def update(self, other: Mapping[int, int]) -> None:
        """Add another's buckets."""
        self._counts.update(other)

    @property
    def count(self) -> int:
        """How many were counted."""
        return self._counts.total()

    def buckets(self) -> dict[int, int]:
        """Return the counts by bucket, as a file holds them."""
        return dict(self._counts)

    def percentile(self, share: float) -> float | None:
        """Return the milliseconds that `share` (0 to 1) of all did not exceed, to `GROWTH`; None of nothing."""
        rank, seen = math.ceil(share * self.count), 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= max(1, rank):
                return LEAST_MS * GROWTH**bucket
        return None

    def mean(self) -> float | None:
        """Return the mean in milliseconds, to `GROWTH`; None of nothing."""
        if not self.count:
            return None
        return math.fsum(LEAST_MS * GROWTH**bucket * count for bucket, count in self._counts.items()) / self.count


def _bucket(milliseconds: float) -> int:
    return max(0, math.ceil(math.log(max(milliseconds, LEAST_MS) / LEAST_MS, GROWTH)))


class Line(Struct, kw_only=True):
    """The requests of one second (since the epoch) and kind, as far as one process made them.

    `kind` is `push`, `backlog` or `read`; `name` the feed or the question; `api` is empty where none was asked. Only
    what was acknowledged counts in `samples`, `rows` and `ages` (of live samples at their acknowledgement).
    """

    second: int
    kind: str
    api: str
    name: str
    phase: int = 0
    requests: int = 0
    errors: int = 0
    bytes: int = 0
    samples: int = 0
    rows: int = 0
    times: dict[int, int] = field(default_factory=dict)
    ages: dict[int, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)


class Tally:
    """What one process has counted since it last wrote."""

    def __init__(self) -> None:
        self._lines: dict[tuple[int, str, str, str, int], Line] = {}

    def request(
        self,
        second: int,
        kind: str,
        api: str,
        name: str,
        phase: int,
        *,
        milliseconds: float,
        failure: str | None = None,
        size: int = 0,
        samples: int = 0,
        rows: int = 0,
        ages_ms: Iterable[float] = (),
    ) -> None:
        """Count a request that ended in `second`. `failure` is a short reason out of few, None where there is none."""
        key = (second, kind, api, name, phase)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(second=second, kind=kind, api=api, name=name, phase=phase)
        line.requests += 1
        line.bytes += size
        _count(line.times, milliseconds)
        if failure is not None:
            line.errors += 1
            line.failures[failure] = line.failures.get(failure, 0) + 1
            return
        line.samples += samples
        line.rows += rows
        for age in ages_ms:
            _count(line.ages, age)

    def take(self) -> bytes:
        """Return all lines as JSON, one a line, and begin anew."""
        lines, self._lines = self._lines, {}
        return b"".join(msgspec.json.encode(line) + b"\n" for line in lines.values())


def _count(buckets: dict[int, int], milliseconds: float) -> None:
    bucket = _bucket(milliseconds)
    buckets[bucket] = buckets.get(bucket, 0) + 1


def parse(text: bytes) -> list[Line]:
    """Return the lines of a file; a last line that is not finished is left out."""
    whole, _, _ = text.rpartition(b"\n")
    return [msgspec.json.decode(line, type=Line) for line in whole.splitlines() if line]


class Summary(Struct, kw_only=True, frozen=True):
    """Lines added up. Rates are a second; times are milliseconds; None where nothing was counted."""

    seconds: float
    requests: int
    errors: int
    bytes: int
    samples: int
    rows: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    mean_ms: float | None
    age_p99_ms: float | None
    failures: dict[str, int]

    @property
    def error_ratio(self) -> float:
        """The share of requests that failed; 0 of none."""
        return self.errors / self.requests if self.requests else 0.0

    def rate(self, count: int) -> float:
        """Return a count by second."""
        return count / self.seconds if self.seconds else 0.0


def summarise(lines: Iterable[Line], seconds: float) -> Summary:
    """Return lines added up over so many seconds."""
    times, ages, failures = Histogram(), Histogram(), Counter[str]()
    requests = errors = size = samples = rows = 0
    for line in lines:
        requests += line.requests
        errors += line.errors
        size += line.bytes
        samples += line.samples
        rows += line.rows
        times.update(line.times)
        ages.update(line.ages)
        failures.update(line.failures)
    return Summary(
        seconds=seconds,
        requests=requests,
        errors=errors,
        bytes=size,
        samples=samples,
        rows=rows,
        p50_ms=times.percentile(0.5),
        p95_ms=times.percentile(0.95),
        p99_ms=times.percentile(0.99),
        mean_ms=times.mean(),
        age_p99_ms=ages.percentile(0.99),
        failures=dict(failures),
    )
