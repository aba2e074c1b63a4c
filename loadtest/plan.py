"""What a run is to do, as its Locust processes read it: one file in the run's folder, for its owner alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

FOLDER_VARIABLE: Final = "LATIDO_LOADTEST_FOLDER"
FILE: Final = "plan.json"


class Api(Struct, frozen=True):
    """An ingest API under load."""

    name: str
    url: str


class Plan(Struct, frozen=True, kw_only=True):
    """Times are seconds unless a name says otherwise; `origin_ms` is since the epoch."""

    run: str
    apis: list[Api]
    token: str | None
    recording: str
    origin_ms: int
    copies: int
    shape: str
    hosts: int
    duration: float
    slice: float
    spawn_rate: float
    interval: float
    cut_share: float
    cut_seconds: float
    search_first: int
    search_growth: float
    latency_p95_ms: float
    error_ratio: float
    readers: int
    read_interval: float
    questions: str | None
    dsn: str | None
    settle: float

    @property
    def host_prefix(self) -> str:
        """How the names of the run's hosts begin."""
        return f"load-{self.run}-"


def write(plan: Plan, folder: Path) -> None:
    """Write it; it may hold a token and a password."""
    path = folder / FILE
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(msgspec.json.encode(plan))


def read() -> tuple[Plan, Path]:
    """Return the plan of this process's run, and the run's folder."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    return msgspec.json.decode((folder / FILE).read_bytes(), type=Plan), folder
