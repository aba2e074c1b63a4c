"""The container that a cgroup belongs to: its id, out of the path that the runtime made.

Runtimes put the id of 64 hexadecimal digits into the last part of the path: `/docker/ID`, `docker-ID.scope`,
`cri-containerd-ID.scope`, `kubepods...slice:cri-containerd:ID`, `crio-ID.scope`, `libpod-ID.scope/container`,
`/kubepods/burstable/podUID/ID`. (Docker's cgroup drivers; the systemd driver of opencontainers/runc.)
"""

from __future__ import annotations

import re
from typing import Final

SHORT_ID: Final = 12
"""Digits that `docker ps`, `podman ps` and `crictl ps` show, or more."""

_ID: Final = re.compile(
    r"(?<![0-9a-f])(?P<long>[0-9a-f]{64})(?![0-9a-f])"
    r"|(?:docker|containerd|crio|cri-o|libpod|podman)[-/:](?P<short>[0-9a-f]{12})(?![0-9a-f])"
)
_MONITOR: Final = re.compile(r"conmon-$")
"""podman's and CRI-O's monitor of a container has a scope with its id, but is not in it."""


def container_id(cgroup: str) -> str:
    """Return the id, of 64 digits or where the path has no more 12, of the innermost container; "" for none."""
    found = ""
    for match in _ID.finditer(cgroup):
        if not _MONITOR.search(cgroup, max(0, match.start() - 7), match.start()):
            found = match["long"] or match["short"]
    return found
