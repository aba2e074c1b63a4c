"""Which names of processes are in the database already, so that a sample sends those alone that are new.

A row of `processes` holds for a day, and most processes live through many samples. Only what a commit confirmed is
remembered, and all of it is forgotten when a connection is lost: behind that may be a server whose data was restored.
Rows of a host that was deleted are not missed, since the host comes back under another id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

MAX_NAMES: Final = 250_000
"""Some 40 MiB: an int as key, an int as value, and their places in a dict."""

Table = tuple[int, str]
"""(`host_id`, the day as a literal)."""


def key(pid: int, start_ticks: int) -> int:
    """Return (`pid`, `start_ticks`) as one number; both have fewer than 64 bits."""
    return pid << 64 | start_ticks


@dataclass
class News:
    """What a transaction adds once it has committed: the `identity` of processes by table, and those that ended."""

    stored: dict[Table, dict[int, int]] = field(default_factory=dict)
    ended: dict[Table, list[int]] = field(default_factory=dict)


class Names:
    """The last `identity` of each process that is known to be stored, by host and day; the longest unused go first."""

    def __init__(self, most: int = MAX_NAMES) -> None:
        self._most = most
        self._tables: OrderedDict[Table, dict[int, int]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return how many names are remembered."""
        return self._count

    def of(self, table: Table) -> Mapping[int, int]:
        """Return what is known of a host and day, by `key`."""
        return self._tables.get(table, {})

    def learn(self, news: News) -> None:
        """Remember what a transaction has committed."""
        for table, stored in news.stored.items():
            known = self._tables.setdefault(table, {})
            self._tables.move_to_end(table)
            before = len(known)
            known.update(stored)
            self._count += len(known) - before
        for table, ended in news.ended.items():
            self._drop(table, ended)
        while self._count > self._most:
            _, oldest = self._tables.popitem(last=False)
            self._count -= len(oldest)

    def forget(self) -> None:
        """Forget everything."""
        self._tables.clear()
        self._count = 0

    def _drop(self, table: Table, ended: Iterable[int]) -> None:
        known = self._tables.get(table)
        if known is None:
            return
        for process in ended:
            if known.pop(process, None) is not None:
                self._count -= 1
