"""Names of cgroups: an id is the inode number of its folder below the cgroup v2 mount (cgroups(7), kernfs).

The tree is walked only when an id is new. On a host that still has hierarchies of version 1 (hybrid), where the v2
tree holds no controllers and every process is at its root, /proc/PID/cgroup says more: it is read for processes
that are new, until they are some seconds old, since whoever starts a process moves it first thing.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.model import UNKNOWN, SourceError
from exporter.sources import procfs_parse
from exporter.sources.bpf.previous import Match, keep_departed, match

MAX_NAMES: Final = 16384
"""Kept of cgroups that are gone, so that the end of a process in one still says where it ran."""
SETTLED_NS: Final = 5_000_000_000
"""At this age a process is where it belongs."""

_MOUNTS_FIELDS: Final = 3
_PLACE_DTYPE: Final = np.dtype(
    [("pid", "<i4"), ("start_ns", "<i8"), ("cgroup", "<i8"), ("settled", "?"), ("left_ns", "<i8")],
    align=True,
)
"""What is known of a process: `settled` says that it was read when it was old enough."""


class Cgroups:
    """Gives paths to the ids of one machine. `procfs` is its /proc."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._mount, self._hybrid = find_mounts((procfs / "self" / "mounts").read_bytes())
        self._names: dict[int, str] = {}
        self._nameless: set[int] = set()
        self._places = _Places(procfs)

    def name(self, records: NDArray[np.void], ended: NDArray[np.void], common: Match, now_ns: int) -> dict[int, str]:
        """Return the paths of all cgroups in both arrays (of RECORD_DTYPE); an id without a path is absent.

        On a hybrid host it first replaces ids in the arrays by those of the places that /proc names. `common` is what
        `records` have in common with those of the call before, `now_ns` the time since boot.
        """
        if self._hybrid:
            return self._places.name(records, ended, common, now_ns)
        ids = set(np.unique(records["cgroup"]).tolist()) | set(np.unique(ended["cgroup"]).tolist())
        ids.discard(UNKNOWN)
        if ids - self._names.keys() - self._nameless:
            self._walk()
            self._nameless = ids - self._names.keys()
        return {number: self._names[number] for number in ids if number in self._names}

    def _walk(self) -> None:
        if self._mount is None:
            return
        for number, path in walk_tree(self._mount):
            self._names.pop(number, None)  # so that those that were there last are last
            self._names[number] = path
        for number in list(itertools.islice(self._names, max(0, len(self._names) - MAX_NAMES))):
            del self._names[number]


class _Places:
    """Where processes are on a hybrid host, by (pid, start). Ids are ours: below UNKNOWN, one a path, never reused."""

    def __init__(self, procfs: Path) -> None:
        self._procfs = procfs
        self._numbers = itertools.count(UNKNOWN - 1, -1)
        self._ids: dict[str, int] = {}
        self._known: NDArray[np.void] = np.zeros(0, dtype=_PLACE_DTYPE)
        self._departed: NDArray[np.void] = np.zeros(0, dtype=_PLACE_DTYPE)

    def name(self, records: NDArray[np.void], ended: NDArray[np.void], common: Match, now_ns: int) -> dict[int, str]:
        ended["cgroup"] = UNKNOWN
        if len(ended):
            for places in (self._departed, self._known):
                found = match(places, ended)
                ended["cgroup"][found.same] = places["cgroup"][found.place[found.same]]

        known = np.zeros(len(records), dtype=_PLACE_DTYPE)
        known["pid"], known["start_ns"] = records["pid"], records["start_ns"]
        known["cgroup"] = common.values(self._known["cgroup"], UNKNOWN)
        known["settled"] = now_ns - known["start_ns"] >= SETTLED_NS
        unread = np.flatnonzero(common.values(self._known["settled"], 0) == 0)
        for row in unread.tolist():
            known["cgroup"][row] = self._read(int(known["pid"][row]))
        records["cgroup"] = known["cgroup"]
        left = common.left()
        self._departed = keep_departed(self._departed, self._known, left, now_ns)
        self._known = known
        if len(unread) or len(left) or len(ended):
            used = {number for rows in (known, self._departed, ended) for number in np.unique(rows["cgroup"]).tolist()}
            self._ids = {path: number for path, number in self._ids.items() if number in used}
        return {number: path for path, number in self._ids.items()}

    def _read(self, pid: int) -> int:
        path = self._procfs / str(pid) / "cgroup"
        try:
            where = procfs_parse.process_cgroup(path.read_bytes(), str(path))
        except (OSError, SourceError):
            return UNKNOWN  # it ended, or is hidden from this user
        number = self._ids.get(where)
        if number is None:
            number = self._ids[where] = next(self._numbers)
        return number


def find_mounts(mounts: bytes) -> tuple[Path | None, bool]:
    """Return where cgroup v2 is mounted, and whether hierarchies of version 1 are beside it, from /proc/PID/mounts."""
    unified: Path | None = None
    hybrid = False
    for line in mounts.splitlines():
        fields = line.split(b" ", _MOUNTS_FIELDS)
        if len(fields) < _MOUNTS_FIELDS:
            continue
        if fields[2] == b"cgroup2" and unified is None:
            unified = Path(os.fsdecode(_unescaped(fields[1])))
        hybrid = hybrid or fields[2] == b"cgroup"
    return unified, hybrid


def walk_tree(mount: Path) -> Iterator[tuple[int, str]]:
    """Yield id and path of every cgroup below `mount`, "/" for itself. One that vanishes is left out."""
    root = os.fsencode(mount)
    pending = [b""]
    try:
        yield mount.stat().st_ino, "/"
    except OSError:
        return
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root + folder) as entries:
                found = [(entry.inode(), entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # removed since it was listed
        for number, name in found:
            path = folder + b"/" + name
            pending.append(path)
            yield number, path.decode("utf-8", "replace")


def _unescaped(field: bytes) -> bytes:
    """Undo the octal escapes of /proc/PID/mounts for blanks (fs/proc_namespace.c)."""
    for escaped, byte in ((rb"\040", b" "), (rb"\011", b"\t"), (rb"\012", b"\n"), (rb"\134", b"\\")):
        field = field.replace(escaped, byte)
    return field
