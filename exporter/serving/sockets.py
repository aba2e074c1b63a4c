"""Listening sockets: those of `--web.listen-address`, or those that systemd hands over (sd_listen_fds(3))."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Final

from latido.settings import Address, SettingsError

BACKLOG: Final = 128
FIRST_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START."""
MAX_DESCRIPTORS: Final = 64
_ABSENT: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""This machine has no IPv6, or no such address of it."""


def listen(addresses: Sequence[Address]) -> list[socket.socket]:
    """Return a socket for every address that each name stands for. Raises SettingsError naming address and flag."""
    if not addresses:
        raise SettingsError("--web.listen-address: expected at least one address, such as 127.0.0.1:10110")
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets += _listen(address)
    except SettingsError:
        close(sockets)
        raise
    return sockets


def inherited(environ: Mapping[str, str], pid: int) -> list[socket.socket]:
    """Return the sockets that systemd opened for the process `pid`. Raises SettingsError if it opened none."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal() or not 1 <= int(count) <= MAX_DESCRIPTORS:
        raise SettingsError(
            "--web.systemd-socket: systemd handed over no socket (LISTEN_PID, LISTEN_FDS); "
            "start the exporter by a .socket unit, or leave the flag out"
        )
    return [_adopt(descriptor) for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))]


def bound(listener: socket.socket) -> Address:
    """Return where a socket listens: the port that port 0 became."""
    host, port = listener.getsockname()[:2]
    return Address(str(host), int(port))


def close(sockets: Sequence[socket.socket]) -> None:
    """Close all."""
    for item in sockets:
        item.close()


def _listen(address: Address) -> list[socket.socket]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise _refusal(address, error) from None
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    # A name may stand for several addresses (localhost for ::1 too), and be listed with one of them twice.
    for family, where in dict.fromkeys((family, where) for family, _, _, _, where in found):
        try:
            # IPv6 alone on an IPv6 socket: [::] beside 0.0.0.0 is said by a second flag, whatever the system's default.
            sockets.append(socket.create_server(where, family=family, backlog=BACKLOG, dualstack_ipv6=False))
        except OSError as error:
            if error.errno not in _ABSENT:
                close(sockets)
                raise _refusal(address, error) from None
            absent = error
    if not sockets and absent is not None:
        raise _refusal(address, absent)
    return sockets


def _refusal(address: Address, error: OSError) -> SettingsError:
    why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"cannot be used: {_reason(error)}"
    return SettingsError(f"{address} {why}; choose another with --web.listen-address")


def _reason(error: OSError) -> str:
    # create_server adds the address to the text, which is said already.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


def _adopt(descriptor: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=descriptor)
    except OSError as error:
        raise SettingsError(f"--web.systemd-socket: descriptor {descriptor}: {error.strerror}") from None
    listens = adopted.type == socket.SOCK_STREAM and adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or adopted.family not in {socket.AF_INET, socket.AF_INET6}:
        adopted.detach()
        raise SettingsError(
            f"--web.systemd-socket: descriptor {descriptor} is not a listening TCP socket; "
            "the .socket unit says ListenStream=ADDRESS:PORT and Accept=no"
        )
    adopted.set_inheritable(False)
    return adopted
