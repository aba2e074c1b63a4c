"""Pseudonyms for what would name a machine: users, commands, cgroups. Pure; nothing leads back to the originals.

A pseudonym numbers the values of its kind in the order in which they were met, and is as long as the original, so that
what is sent and stored stays as large. What every Linux calls the same (root, `/system.slice`) stays.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from msgspec import structs

from ingest.contract.wire import Process

ROOT_UID: Final = 0
FIRST_UID: Final = 1000
"""As login.defs(5) begins with people's."""
KTHREADD: Final = 2
"""The pid of the kernel's own parent of threads (init/main.c, rest_init)."""
_PLAIN_SEGMENTS: Final = frozenset({"", "system.slice", "user.slice", "init.scope", "machine.slice", "kubepods.slice"})
_SUFFIXES: Final = (".service", ".scope", ".slice", ".socket", ".mount")


class Pseudonyms:
    """Gives each value of a recording its pseudonym: the same one whenever it returns."""

    def __init__(self) -> None:
        self._uids: dict[int, int] = {ROOT_UID: ROOT_UID}
        self._commands: dict[str, str] = {}
        self._segments: dict[str, str] = {}

    def process(self, process: Process) -> Process:
        """Return a process with its command, user and cgroup replaced; numbers stay."""
        kernel = KTHREADD in (process.pid, process.ppid)
        return structs.replace(
            process,
            command=self.command(process.command, "kthread" if kernel else "command"),
            uid=self.uid(process.uid),
            cgroup=None if process.cgroup is None else self.cgroup(process.cgroup),
        )

    def uid(self, uid: int) -> int:
        """Return root for root, and for others a number by the order in which they were met."""
        return self._uids.setdefault(uid, FIRST_UID + len(self._uids) - 1)

    def command(self, command: str, kind: str) -> str:
        """Return a name of the same length, or of the least that tells commands apart."""
        if command not in self._commands:
            self._commands[command] = _sized(f"{kind[0]}{len(self._commands)}", kind, len(command))
        return self._commands[command]

    def cgroup(self, path: str) -> str:
        """Return a path with as many segments; slices that every system has keep their names."""
        return "/".join(self._segment(segment) for segment in path.split("/"))

    def _segment(self, segment: str) -> str:
        if segment in _PLAIN_SEGMENTS:
            return segment
        if segment not in self._segments:
            suffix = next((suffix for suffix in _SUFFIXES if segment.endswith(suffix)), "")
            number = len(self._segments)
            # Ids of containers do not compress: neither does this.
            filler = blake2b(str(number).encode(), digest_size=32).hexdigest()
            self._segments[segment] = _sized(f"g{number}-", filler, len(segment) - len(suffix)) + suffix
        return self._segments[segment]


def _sized(name: str, filler: str, length: int) -> str:
    missing = max(0, length - len(name))
    return name + (filler * (missing // len(filler) + 1))[:missing]
