"""Telling systemd how the service is (sd_notify(3)): a datagram to the socket that it names, when it names one."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

from latido import logs

log = logs.get(__name__)

READY: Final = "READY=1"
STOPPING: Final = "STOPPING=1"


def notify(state: str, environ: Mapping[str, str]) -> bool:
    """Send a state; return whether someone was told. That it cannot be sent is logged, and is no reason to end."""
    name = environ.get("NOTIFY_SOCKET", "")
    if not name:
        return False
    if name[0] not in "/@":
        log.warning("systemd cannot be told: NOTIFY_SOCKET is neither a path nor abstract", state=state)
        return False
    address = f"\0{name[1:]}" if name[0] == "@" else name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), address)
    except OSError as error:
        log.warning("systemd cannot be told", state=state, reason=error.strerror)
        return False
    return True
