"""Whose a process is: the container or the systemd unit that its cgroup path names. Pure.

Container runtimes put the id, 64 hexadecimal digits, into the path: `docker-ID.scope`, `cri-containerd-ID.scope`,
`crio-ID.scope`, `libpod-ID.scope` (systemd's driver), `/docker/ID`, `/kubepods/burstable/podUID/ID` (cgroupfs) and
`kubepods-podUID.slice:cri-containerd:ID` (systemd's notation, seen where a runtime is misconfigured).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SHORT: Final = 12
"""Digits of a container id that `docker ps`, `crictl ps` and `podman ps` show."""

# conmon watches a container from outside of it.
_CONTAINER: Final = re.compile(r"(?:^|[-:])(?<!conmon-)([0-9a-f]{64})(?:\.scope)?$")
_UNIT: Final = re.compile(r"\.(?:service|scope|socket|mount|swap)$")


class Kind(StrEnum):
    """What a cgroup path was recognized as."""

    CONTAINER = "container"
    UNIT = "unit"
    CGROUP = "cgroup"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Owner:
    """A container by its full id, a unit or slice by its name, else the path as it is."""

    kind: Kind
    name: str

    @property
    def label(self) -> str:
        """What a person is shown."""
        return self.name[:SHORT] if self.kind is Kind.CONTAINER else self.name


def owner(cgroup: str | None) -> Owner:
    """Return the innermost container of a cgroup path, else its innermost service or scope, else its slice."""
    if cgroup is None:
        return Owner(Kind.NONE, "-")
    parts = [part for part in cgroup.split("/") if part]
    for part in reversed(parts):
        match = _CONTAINER.search(part)
        if match:
            return Owner(Kind.CONTAINER, match[1])
    for part in reversed(parts):
        if _UNIT.search(part):
            return Owner(Kind.UNIT, part)
    for part in reversed(parts):
        if part.endswith(".slice"):
            return Owner(Kind.UNIT, part)
    return Owner(Kind.CGROUP, cgroup)
