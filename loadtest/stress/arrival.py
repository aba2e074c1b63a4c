"""Whether a load has arrived in the exporter's metrics: two scrapes, and what rose between them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from loadtest.stress.engines import PREFIX, Amount

_SERIES: Final = re.compile(r"^(latido_\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_GROUP: Final = re.compile(r'group="([^"]*)"')
_MODE: Final = re.compile(r'mode="([^"]*)"')
_IDLE: Final = frozenset({"idle", "iowait"})

Sums = Mapping[tuple[str, str], float]
"""By metric and group ("" for what has none), over all other labels."""


class Rise(Struct, frozen=True):
    """What a series was before and at most during the load."""

    metric: str
    group: str
    before: float
    after: float

    @property
    def by(self) -> float:
        """How much it rose."""
        return self.after - self.before

    def __str__(self) -> str:
        """Return it as a person reads it."""
        name = f'{self.metric}{{group="{self.group}"}}' if self.group else self.metric
        return f"{name}  {self.before:,.6g} -> {self.after:,.6g}"


def sums(text: str) -> dict[tuple[str, str], float]:
    """Return what a scrape says, added up by metric and group; CPU time of the machine without idle time."""
    found: dict[tuple[str, str], float] = {}
    for name, labels, value in _SERIES.findall(text):
        mode = _MODE.search(labels)
        if name == "latido_cpu_seconds_total" and mode is not None and mode[1] in _IDLE:
            continue
        group = _GROUP.search(labels)
        key = (name, group[1] if group else "")
        found[key] = found.get(key, 0.0) + float(value)
    return found


def highest(scrapes: Sequence[Sums]) -> dict[tuple[str, str], float]:
    """Return the most that each series was: a gauge falls when the load ends, a counter never does."""
    found: dict[tuple[str, str], float] = {}
    for scrape in scrapes:
        for key, value in scrape.items():
            found[key] = max(value, found.get(key, value))
    return found


def rises(kind: str, before: Sums, during: Sums) -> list[Rise]:
    """Return what a kind of load should show in, of its own groups and of the machine."""
    own, machine = {
        "cpu": (("latido_group_cpu_seconds_total",), ("latido_cpu_seconds_total", "latido_load1")),
        "memory": (("latido_group_resident_memory_bytes",), ()),
        "fork": (
            ("latido_group_cpu_seconds_total", "latido_group_exits_total"),
            ("latido_forks_total", "latido_context_switches_total"),
        ),
        "io": (("latido_group_written_bytes_total", "latido_group_cpu_seconds_total"), ()),
    }[kind]
    groups = sorted({group for _, group in during if group.startswith(PREFIX)})
    keys = [*((metric, group) for group in groups for metric in own), *((metric, "") for metric in machine)]
    found = [Rise(*key, before.get(key, 0.0), during[key]) for key in keys if key in during]
    return [rise for rise in found if rise.by > 0]


def arrived(kind: str, found: Sequence[Rise], amount: Amount) -> str | None:
    """Return why the load did not arrive, in words; None if it did. Bounds are far below what any machine does."""
    metric, group, least = {
        "cpu": ("latido_group_cpu_seconds_total", True, 0.02 * amount.seconds),
        "memory": ("latido_group_resident_memory_bytes", True, 0.5 * amount.memory_bytes),
        "fork": ("latido_forks_total", False, 5.0 * amount.seconds),
        "io": ("latido_group_written_bytes_total", True, float(1 << 20)),
    }[kind]
    own = [rise.by for rise in found if rise.metric == metric and bool(rise.group) == group]
    if not own:
        return f"{metric} did not rise"
    if max(own) < least:
        return f"{metric} rose by {max(own):,.6g}, and at least {least:,.6g} were expected"
    return None
