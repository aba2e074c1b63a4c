"""What programs use while a load test runs: an API by its own /metrics, any process of this machine by its pid."""

from __future__ import annotations

import os
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from msgspec import Struct

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SERIES: Final = re.compile(r"^(\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_STAGE: Final = re.compile(r'stage="(\w+)"')


class Usage(Struct, frozen=True):
    """One look at one program. `at` is seconds since the epoch; the others count from its start, but for memory.

    `rows` are what an API has sent to tables; `stages` the seconds and counts of its stages.
    """

    at: float
    program: str
    cpu_seconds: float
    memory_bytes: float
    rows: float | None = None
    stages: dict[str, tuple[float, float]] | None = None


def of_process(program: str, pid: int) -> Usage | None:
    """Return what a process uses by proc_pid_stat(5); None once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    # Fields 14, 15 and 24 of the manual; the first two, pid and comm, are cut off.
    return Usage(time.time(), program, (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE)


def of_api(program: str, url: str) -> Usage | None:
    """Return what an API says of itself; None if it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=2) as response:  # noqa: S310 - settings took http(s) alone
            text = response.read(8 << 20).decode()
    except (OSError, urllib.error.URLError, ValueError):
        return None
    cpu = memory = rows = 0.0
    stages: dict[str, list[float]] = {}
    for name, labels, value in _SERIES.findall(text):
        if name == "process_cpu_seconds_total":
            cpu += float(value)
        elif name == "process_resident_memory_bytes":
            memory += float(value)
        elif name == "latido_ingest_rows_total":
            rows += float(value)
        elif name in {"latido_ingest_stage_seconds_sum", "latido_ingest_stage_seconds_count"}:
            stage = _STAGE.search(labels)
            if stage is not None:
                stages.setdefault(stage[1], [0.0, 0.0])[name.endswith("_count")] += float(value)
    return Usage(time.time(), program, cpu, memory, rows, {name: (sums[0], sums[1]) for name, sums in stages.items()})


class Monitor:
    """Looks at programs once a second, from a thread of its own, while the block runs."""

    def __init__(self, apis: Mapping[str, str], pids: Mapping[str, int]) -> None:
        self._apis = dict(apis)
        self._pids = dict(pids)
        self._found: list[Usage] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def add(self, program: str, pid: int) -> None:
        """Look at one more process."""
        self._pids[program] = pid

    def found(self) -> list[Usage]:
        """Return what was seen, oldest first."""
        return list(self._found)

    def _run(self) -> None:
        while True:
            for name, url in self._apis.items():
                self._keep(of_api(name, url))
            for name, pid in list(self._pids.items()):
                self._keep(of_process(name, pid))
            if self._stop.wait(1.0):
                return

    def _keep(self, usage: Usage | None) -> None:
        if usage is not None:
            self._found.append(usage)
