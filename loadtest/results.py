"""A run's results as one JSON file: all that the report shows, and no secret."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from loadtest.monitor import Usage
from loadtest.shapes import Knee, Stage
from loadtest.tally import Line, Summary
from loadtest.verdict import Broken, Comparison, Objectives, Turn
from loadtest.verify import Counts

FORMAT: Final = 1
FILE: Final = "results.json"
_VERSIONS: Final = ("locust", "aiohttp", "aiomysql", "fastapi", "sqlmodel", "msgspec")


class ResultsError(ValueError):
    """A file that holds no results; the message says why."""


class Results(Struct, frozen=True, kw_only=True):
    """Times are seconds since the epoch. `lines` are added up over feeds and processes."""

    format: int
    verdict: str
    green: bool
    broken: list[Broken]
    faults: list[str]
    began: float
    ended: float
    settings: dict[str, str]
    objectives: Objectives
    place: dict[str, str]
    versions: dict[str, str]
    apis: dict[str, Summary]
    names: dict[str, Summary]
    """By kind, API and name, such as `push raw cpu`."""
    lines: list[Line]
    turns: list[Turn]
    stages: list[Stage]
    knees: list[Knee]
    comparisons: list[Comparison]
    usage: list[Usage]
    counts: Counts | None


def encode(results: Results) -> bytes:
    """Return the file's bytes."""
    return msgspec.json.encode(results)


def decode(text: bytes) -> Results:
    """Return the results of a file. Raises ResultsError."""
    try:
        found = msgspec.json.decode(text, type=Results)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ResultsError(f"not results of a load test: {error}") from None
    if found.format != FORMAT:
        raise ResultsError(f"format {found.format}, and this version reads {FORMAT}")
    return found


def merged(lines: Iterable[Line]) -> list[Line]:
    """Return lines added up over processes and names, in the order of time."""
    found: dict[tuple[int, str, str, int], Line] = {}
    for line in lines:
        key = (line.second, line.kind, line.api, line.phase)
        whole = found.get(key)
        if whole is None:
            whole = found[key] = Line(second=line.second, kind=line.kind, api=line.api, name="", phase=line.phase)
        for name in ("requests", "errors", "bytes", "samples", "rows"):
            setattr(whole, name, getattr(whole, name) + getattr(line, name))
        for mine, theirs in (
            (whole.times, line.times),
            (whole.ages, line.ages),
        ):
            for bucket, count in theirs.items():
                mine[bucket] = mine.get(bucket, 0) + count
        for failure, count in line.failures.items():
            whole.failures[failure] = whole.failures.get(failure, 0) + count
    return [found[key] for key in sorted(found)]


def place() -> dict[str, str]:
    """Return what kind of machine this is: no name of it."""
    model = next((value for name, value in _fields("/proc/cpuinfo") if name == "model name"), "unknown")
    memory = next((value.split()[0] for name, value in _fields("/proc/meminfo") if name == "MemTotal"), "0")
    return {
        "cpu": model,
        "cores": str(os.cpu_count() or 1),
        "memory": f"{int(memory) >> 20} GiB",
        "kernel": platform.release(),
        "load average before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    """Return the versions of what took part, as far as it is installed here."""
    found = {"python": platform.python_version()}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _fields(path: str) -> Iterable[tuple[str, str]]:
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        yield name.strip(), value.strip()
