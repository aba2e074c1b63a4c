"""How every benchmark here measures: contenders take turns, medians decide, CPU time comes before wall time.

A result holds each ratio with its spread, its bar and whether it is met, and the raw figures behind it; machines are
noisy, so a figure without its reference from the same run says nothing.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

LEAST_RUNS: Final = 7

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Ratio:
    """A ratio over the runs: the median, the spread, and the bar of the design. `better` says which side is good."""

    value: float
    min: float
    max: float
    runs: int
    bar: float
    better: Literal["larger", "smaller"] = "larger"

    @property
    def met(self) -> bool:
        """Whether the median is on the good side of the bar."""
        return self.value >= self.bar if self.better == "larger" else self.value <= self.bar

    def document(self) -> dict[str, float | int | bool | str]:
        """Return the machine-readable form."""
        return {
            "value": self.value,
            "min": self.min,
            "max": self.max,
            "runs": self.runs,
            "bar": self.bar,
            "better": self.better,
            "met": self.met,
        }


@dataclass(frozen=True)
class Result:
    """What one benchmark found. `raw` holds every single measurement, in seconds unless its name says otherwise."""

    name: str
    ratios: Mapping[str, Ratio]
    raw: Mapping[str, object]
    versions: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return the machine-readable form."""
        return {
            "name": self.name,
            "machine": machine(),
            "versions": {"python": platform.python_version(), **installed("latido"), **self.versions},
            "ratios": {key: ratio.document() for key, ratio in self.ratios.items()},
            "raw": dict(self.raw),
        }


def recorded(run: Callable[[], Result], arguments: Mapping[str, object]) -> tuple[Result, dict[str, object]]:
    """Run a benchmark; return what it found, and its document with when, how long and beside what load it ran.

    Floats of the document have five significant digits: no machine here measures more.
    """
    before, began, start = os.getloadavg(), datetime.now(UTC), time.perf_counter()
    result = run()
    document = result.document()
    raw = document.pop("raw")
    ran: dict[str, object] = {
        "measured_at": began.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "seconds": time.perf_counter() - start,
        "load_average": {"before": before, "after": os.getloadavg()},
        "arguments": {name: str(value) if isinstance(value, Path) else value for name, value in arguments.items()},
    }
    rounded: dict[str, object] = _rounded({**document, **ran, "raw": raw})
    return result, rounded


def _rounded(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(key): _rounded(member) for key, member in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def cpu_of(work: Callable[[], object]) -> float:
    """Return the CPU seconds that this thread spends in `work`."""
    gc.collect()
    start = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - start) / 1e9


def interleave(contenders: Mapping[Name, Callable[[], float]], runs: int) -> dict[Name, list[float]]:
    """Let each contender measure itself once a round, in turn, for so many rounds; one more round warms up."""
    if runs < LEAST_RUNS:
        raise ValueError(f"at least {LEAST_RUNS} runs are needed, got {runs}")
    figures: dict[Name, list[float]] = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, measure in contenders.items():
            figure = measure()
            if number:
                figures[name].append(figure)
    return figures


def ratio(reference: Sequence[float], ours: Sequence[float], bar: float) -> Ratio:
    """Return how many times the reference spends what ours does: the median over rounds of each round's own ratio."""
    each = [theirs / mine for theirs, mine in zip(reference, ours, strict=True)]
    return Ratio(statistics.median(each), min(each), max(each), len(each), bar)


def machine() -> dict[str, str | int]:
    """Return what kind of machine this is."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "memory_mib": memory // 1024,
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def installed(*names: str) -> dict[str, str]:
    """Return the versions of libraries."""
    return {name: metadata.version(name) for name in names}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
