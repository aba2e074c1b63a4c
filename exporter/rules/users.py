"""Names of users, out of the host's own /etc/passwd (passwd(5)).

Never by the C library's name service: it may ask a directory over the network in the midst of a scrape, and in a
container it knows the container's users, not the host's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PASSWD: Final = Path("etc/passwd")
"""Below the root of the host's file system."""

_LARGEST: Final = 16 << 20
_FIELDS: Final = 7


@dataclass(frozen=True, slots=True)
class Users:
    """Names by uid, in the file's order: several may share one."""

    names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def name(self, uid: int) -> str:
        """Return the first name of a uid; one that is not in the file is shown as its number."""
        return self.names[uid][0] if uid in self.names else str(uid)

    def has(self, name: str) -> bool:
        """Whether anyone is called so."""
        return any(name in names for names in self.names.values())


def parse_passwd(text: str) -> Users:
    """Parse /etc/passwd. Lines that name no user (comments, NIS's `+`, a uid that is no number) are left out."""
    names: dict[int, tuple[str, ...]] = {}
    for line in text.split("\n"):
        fields = line.split(":")
        if len(fields) >= _FIELDS and fields[0] and fields[0][0] not in "#+-" and fields[2].isdecimal():
            uid = int(fields[2])
            names[uid] = (*names.get(uid, ()), fields[0])
    return Users(names)


@dataclass(frozen=True, slots=True)
class PasswdFile:
    """The users of the host whose file system is at `root`."""

    root: Path

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.root / PASSWD

    def version(self) -> tuple[int, int, int] | None:
        """Return what changes when the file does; None where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None  # who reads it hears why
        return status.st_ino, status.st_size, status.st_mtime_ns

    def read(self) -> Users:
        """Read the file. Raises OSError, also for one that is larger than any of a real host."""
        with self.path.open("rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise OSError(0, f"larger than {_LARGEST >> 20} MiB")
        return parse_passwd(data.decode("utf-8", "replace"))
