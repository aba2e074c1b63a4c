"""Which fault strikes what, when and for how long: drawn from a seed, and nothing else. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

APIS: Final = ("raw", "orm")
HOSTS: Final = ("a", "b", "c")
BRIDGE: Final = "bridge"
DATABASE: Final = "database"
ALL: Final = "all"


@dataclass(frozen=True)
class Fault:
    """One fault. `at` and `seconds` are of the schedule; `target` is what it strikes."""

    at: float
    kind: str
    target: str
    seconds: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        """Return a line for people."""
        amount = f" amount {self.amount:g}" if self.amount else ""
        return f"{self.at:7.1f} s  {self.kind:20} {self.target:12} for {self.seconds:4.1f} s{amount}"


@dataclass(frozen=True)
class Kind:
    """What a kind of fault can strike, how long it lasts, how often it is drawn against the others."""

    targets: tuple[str, ...]
    seconds: tuple[float, float]
    weight: int
    amounts: tuple[float, ...] = ()


_PUSHES: Final = tuple(f"{host}>{api}" for host in HOSTS for api in APIS)
_QUERIES: Final = tuple(f"{program}>{DATABASE}" for program in (*APIS, BRIDGE))

KINDS: Final[Mapping[str, Kind]] = {
    # kill -9, and the start that a supervisor makes after so long
    "kill_api": Kind(APIS, (0.1, 6.0), 4),
    "kill_exporter": Kind(HOSTS, (0.1, 6.0), 4),
    "kill_bridge": Kind((BRIDGE,), (0.1, 6.0), 2),
    "kill_database": Kind((DATABASE,), (0.1, 6.0), 3),
    "stop_database": Kind((DATABASE,), (0.1, 3.0), 1),
    # SIGSTOP: connections stand, nothing answers
    "freeze_database": Kind((DATABASE,), (0.5, 9.0), 3),
    "freeze_api": Kind(APIS, (0.5, 9.0), 2),
    "freeze_bridge": Kind((BRIDGE,), (0.5, 9.0), 1),
    "cut_link": Kind(_PUSHES + _QUERIES, (0.5, 8.0), 4),
    "delay_link": Kind(_PUSHES + _QUERIES, (2.0, 8.0), 3, (0.05, 0.3, 1.0, 2.5)),
    "reset_link": Kind(_PUSHES + _QUERIES, (0.5, 5.0), 4),
    # a tmpfs filled to the last page; and a limit on the file's size, which nobody needs to be root for
    "disk_full": Kind(("b",), (1.0, 8.0), 3),
    "file_limit": Kind(("a", "c"), (1.0, 8.0), 2),
    # CLOCK_REALTIME as the exporter of this host reads it
    "step_clock": Kind(("a",), (0.0, 0.0), 3, (-3600.0, 3600.0)),
    "wrong_token": Kind(HOSTS, (1.0, 5.0), 1),
    "exhaust_descriptors": Kind((*APIS, *HOSTS, BRIDGE), (1.0, 6.0), 3),
    "exhaust_memory": Kind((*APIS, *HOSTS, BRIDGE), (1.0, 6.0), 3, (0.0, 4.0)),  # MiB that are left
    "reboot_host": Kind(("b", "c"), (0.1, 3.0), 1),
    "restart_all": Kind((ALL,), (0.1, 3.0), 1),
}

FREE: Final = frozenset(KINDS) - {"disk_full"}
"""What needs no root."""


def draw(seed: int, seconds: float, kinds: Collection[str], *, gap: float = 6.0, every: bool = False) -> list[Fault]:
    """Return the faults of a campaign of so many seconds, by time, about one each `gap` seconds.

    Two faults never strike one target at once; those of different targets overlap as they fall. With `every`, each
    kind is there once before any comes again, as often as the time allows.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown or not kinds:
        raise ValueError(f"expected kinds of fault ({', '.join(KINDS)}), got {', '.join(sorted(unknown)) or 'none'}")
    draws = random.Random(seed)  # noqa: S311 - a schedule that can be repeated
    names = sorted(kinds)
    weights = [KINDS[name].weight for name in names]
    first = draws.sample(names, len(names)) if every else []
    free: dict[str, float] = {}
    faults: list[Fault] = []
    now = draws.uniform(0, gap)
    while now < seconds:
        name = first.pop() if first else draws.choices(names, weights)[0]
        kind = KINDS[name]
        target = draws.choice(kind.targets)
        length = round(draws.uniform(*kind.seconds), 1)
        amount = draws.choice(kind.amounts) if kind.amounts else 0.0
        struck = _struck(target)
        at = round(max([now, *(free.get(part, 0.0) for part in struck)]), 1)
        if at + length <= seconds:
            faults.append(Fault(at, name, target, length, amount))
            for part in struck:
                free[part] = at + length
        now += draws.uniform(0, 2 * gap)
    return sorted(faults, key=lambda fault: fault.at)


def _struck(target: str) -> tuple[str, ...]:
    return (*APIS, *HOSTS, BRIDGE, *_PUSHES, *_QUERIES, DATABASE) if target == ALL else (target,)
