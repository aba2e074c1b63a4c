"""Lines summed by command, container or user, in the order that a person asked for. Pure.

CPU time counts under the name that a process had when it spent it; memory, threads and I/O under its last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from latido.history.model import Names
from latido.history.owner import Owner, owner
from latido.history.rebuild import Line

By = Literal["pid", "command", "container", "user"]
Sort = Literal["cpu", "rss", "io"]
BY: Final[tuple[By, ...]] = ("pid", "command", "container", "user")
SORT: Final[tuple[Sort, ...]] = ("cpu", "rss", "io")


@dataclass(slots=True)
class Group:
    """Sums over processes: memory, threads and `processes` of the living, the rest also of those that ended.

    I/O and swap are None where no process's is known.
    """

    name: str | int | Owner | None
    processes: int = 0
    ended: int = 0
    threads: int = 0
    window_cpu_ns: int = 0
    rss_bytes: int = 0
    swap_bytes: int | None = None
    window_read_bytes: int | None = None
    window_written_bytes: int | None = None


def grouped(lines: Iterable[Line], by: By) -> list[Group]:
    """Return the groups of lines, in no order."""
    groups: dict[str | int | Owner | None, Group] = {}
    name_of = _NAME_OF[by]

    def group(names: Names) -> Group:
        name = name_of(names)
        return groups.setdefault(name, Group(name))

    for line in lines:
        for names, cpu_ns in line.cpu_ns_by_name.items():
            if cpu_ns or names == line.row.names:
                group(names).window_cpu_ns += cpu_ns
        own = group(line.row.names)
        own.window_read_bytes = _plus(own.window_read_bytes, line.window_read_bytes)
        own.window_written_bytes = _plus(own.window_written_bytes, line.window_written_bytes)
        if line.ended:
            own.ended += 1
            continue
        own.processes += 1
        own.threads += line.row.threads
        own.rss_bytes += line.row.rss_bytes
        own.swap_bytes = _plus(own.swap_bytes, line.row.swap_bytes)
    return list(groups.values())


_NAME_OF: Final[dict[By, Callable[[Names], str | int | Owner | None]]] = {
    "command": lambda names: names.command,
    "container": lambda names: owner(names.cgroup),
    "user": lambda names: names.uid,
}


def _plus(total: int | None, value: int | None) -> int | None:
    return total if value is None else (total or 0) + value


def sorted_lines(lines: Iterable[Line], sort: Sort) -> list[Line]:
    """Return processes, largest first; the living count as larger memory than those that ended."""

    def size(line: Line) -> tuple[int, int, int, int]:
        cpu, io = line.window_cpu_ns, (line.window_read_bytes or 0) + (line.window_written_bytes or 0)
        rss = 0 if line.ended else line.row.rss_bytes
        return (*_ranked(sort, cpu, rss, io), -line.row.pid)

    return sorted(lines, key=size, reverse=True)


def sorted_groups(groups: Iterable[Group], sort: Sort) -> list[Group]:
    """Return groups, largest first."""

    def size(group: Group) -> tuple[int, int, int]:
        io = (group.window_read_bytes or 0) + (group.window_written_bytes or 0)
        return _ranked(sort, group.window_cpu_ns, group.rss_bytes, io)

    return sorted(sorted(groups, key=lambda group: str(group.name)), key=size, reverse=True)


def _ranked(sort: Sort, cpu: int, rss: int, io: int) -> tuple[int, int, int]:
    return {"cpu": (cpu, rss, io), "rss": (rss, cpu, io), "io": (io, cpu, rss)}[sort]
