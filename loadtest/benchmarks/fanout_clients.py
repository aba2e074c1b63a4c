"""The receiving side of `fanout`, a process of its own: real WebSocket clients over epoll that inflate and check.

It reads commands from its standard input, one JSON object a line, and answers each with one line. Every message is
parsed, inflated where it is compressed, and compared with what the first client got.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import Final, cast

TAIL: Final = b"\x00\x00\xff\xff"
TIMEOUT_SECONDS: Final = 120.0
SLOW_BYTES: Final = 2_048
SLOW_SECONDS: Final = 0.1
HANDSHAKE: Final = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
)
DEFLATE: Final = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n"
PATHS: Final = {"socketio": "/socket.io/?EIO=4&transport=websocket"}
"""Where it is not `/ws`."""
MASK: Final = b"\0\0\0\0"
SOCKETIO_CONNECT: Final = b"\x81\x82" + MASK + b"40"
SOCKETIO_PONG: Final = b"\x81\x81" + MASK + b"3"
"""Packets of Engine.IO 4 and Socket.IO 5, as text."""
SOCKETIO_EVENT: Final = b'42["sample",'
Command = dict[str, object]


@dataclass(slots=True)
class Receiver:
    """One client. `kind` is `quick`, `slow` or `deaf`."""

    socket: socket.socket
    kind: str = "quick"
    data: bytearray = field(default_factory=bytearray)
    types: set[str] = field(default_factory=set)
    close_code: int = 0
    joined: bool = False
    samples: int = 0
    due: float = 0.0


class Clients:
    """Every client of one server."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._all: dict[int, Receiver] = {}
        self._first: dict[int, bytes] = {}  # what the first client got, by number of message
        self._control: socket.socket | None = None
        self._arrived: list[list[float]] = []
        self._resting: deque[Receiver] = deque()  # slow ones that have read, by when they read again

    def connect(self, command: Command) -> dict[str, object]:
        """Connect clients, and where to acknowledge messages."""
        if self._control is None:
            self._control = socket.create_connection(("127.0.0.1", int(str(command["control"]))))
        extra = DEFLATE if command.get("compressed") else ""
        contender = str(command.get("contender", ""))
        request = HANDSHAKE.format(path=PATHS.get(contender, "/ws"), extra=extra).encode()
        deaf, slow = int(str(command.get("deaf", 0))), int(str(command.get("slow", 0)))
        for number in range(int(str(command["count"]))):
            kind = "deaf" if number < deaf else "slow" if number < deaf + slow else "quick"
            self._connect_one(int(str(command["port"])), request, contender, kind)
        if contender == "socketio":
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while not all(one.joined for one in self._all.values()):
                if time.monotonic() > deadline:
                    raise TimeoutError("not every client joined its namespace")
                self._turn(1.0)
        return {"clients": len(self._all)}

    def _connect_one(self, port: int, request: bytes, contender: str, kind: str) -> None:
        plain = socket.socket()
        if kind != "quick":
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 10)
        plain.connect(("127.0.0.1", port))
        plain.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += plain.recv(4096)
        head, _, rest = answer.partition(b"\r\n\r\n")
        if b" 101 " not in head or (b"permessage" in request and b"permessage-deflate" not in head):
            raise ConnectionError(head.decode())
        if contender == "socketio":
            plain.sendall(SOCKETIO_CONNECT)
        plain.setblocking(False)
        receiver = Receiver(plain, kind, bytearray(rest))
        self._all[plain.fileno()] = receiver
        if kind != "deaf":
            self._poll.register(plain, select.EPOLLIN)

    def wait(self) -> None:
        """Answer pings until there is a command."""
        self._poll.register(sys.stdin, select.EPOLLIN)
        while not self._turn(60.0):
            pass
        self._poll.unregister(sys.stdin)

    def expect(self, command: Command) -> dict[str, object]:
        """Begin to count messages."""
        for one in self._all.values():
            one.samples = 0
        self._first.clear()
        self._arrived = [[] for _ in range(int(str(command["count"])))]
        return {}

    def receive(self, command: Command) -> dict[str, object]:
        """Wait until every quick client has so many messages; return the time at which each client had each."""
        count = int(str(command["count"]))
        quick = sum(one.kind == "quick" for one in self._all.values())
        done, deadline = 0, time.monotonic() + TIMEOUT_SECONDS
        while done < count:
            while done < count and len(self._arrived[done]) == quick:
                done += 1
                if self._control is not None:
                    self._control.send(b".")
            if done < count:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"message {done + 1} of {count} reached {len(self._arrived[done])} of {quick}")
                self._turn(1.0)
        return {"arrived": self._arrived}

    def finish(self, command: Command) -> dict[str, object]:
        """Let those that did not read do so until each was told of a gap or closed; return how many were."""
        late = [one for one in self._all.values() if one.kind != "quick"]
        for one in late:
            if one.kind == "deaf":
                self._poll.register(one.socket, select.EPOLLIN)
            elif not one.close_code:
                self._poll.modify(one.socket, select.EPOLLIN)
            one.kind = "late"
        self._resting.clear()
        deadline = time.monotonic() + float(str(command.get("seconds", TIMEOUT_SECONDS)))
        while time.monotonic() < deadline and not all("gap" in one.types or one.close_code for one in late):
            self._turn(0.2)
        return {
            "gap": sum("gap" in one.types for one in late),
            "closed": sorted(one.close_code for one in late if one.close_code),
            "told": sum("gap" in one.types or one.close_code != 0 for one in late),
            "late": len(late),
        }

    def _turn(self, seconds: float) -> bool:
        """Read what is there; return whether there is a command."""
        now = time.monotonic()
        commanded = False
        while self._resting and self._resting[0].due <= now:
            one = self._resting.popleft()
            if not one.close_code:
                self._poll.modify(one.socket, select.EPOLLIN)
        if self._resting:
            seconds = min(seconds, self._resting[0].due - now)
        for descriptor, _ in self._poll.poll(seconds, 256):
            if descriptor == sys.stdin.fileno():
                commanded = True
                continue
            one = self._all[descriptor]
            if one.kind == "slow":
                one.due = now + SLOW_SECONDS
                self._poll.modify(descriptor, 0)
                self._resting.append(one)
            try:
                data = one.socket.recv(SLOW_BYTES if one.kind == "slow" else 1 << 18)
            except BlockingIOError:
                continue
            except ConnectionError:
                data = b""
            if not data:
                one.close_code = one.close_code or 1006
                self._poll.unregister(descriptor)
                continue
            one.data += data
            self._parse(one)
        return commanded

    def _parse(self, one: Receiver) -> None:
        data = one.data
        while len(data) >= 2:  # noqa: PLR2004 - the shortest header
            short = data[1] & 0x7F
            header = {126: 4, 127: 10}.get(short, 2)
            if len(data) < header:
                return
            length = short if header == 2 else int.from_bytes(data[2:header], "big")  # noqa: PLR2004
            if len(data) < header + length:
                return
            payload = bytes(data[header : header + length])
            first = data[0]
            del data[: header + length]
            self._frame(one, first, payload)

    def _frame(self, one: Receiver, first: int, payload: bytes) -> None:
        if first & 0x40:
            payload = zlib.decompressobj(-15).decompress(payload + TAIL)
        opcode = first & 0x0F
        if opcode == 8:  # noqa: PLR2004 - close
            one.close_code = int.from_bytes(payload[:2], "big")
        elif opcode == 9:  # noqa: PLR2004 - ping
            one.socket.send(bytes((0x8A, 0x80 | len(payload))) + MASK + payload)
        elif opcode == 1 and not payload.startswith(b"{"):
            if payload == b"2":
                one.socket.send(SOCKETIO_PONG)
            elif payload.startswith(b"40"):
                one.joined = True
            elif payload.startswith(SOCKETIO_EVENT):
                self._message(one, payload[len(SOCKETIO_EVENT) : -1])
        elif opcode == 1:
            self._message(one, payload)

    def _message(self, one: Receiver, payload: bytes) -> None:
        kind = payload[9 : payload.index(b'"', 9)].decode()
        one.types.add(kind)
        if kind != "sample" or one.kind != "quick":
            return
        if self._first.setdefault(one.samples, payload) != payload:
            raise ValueError(f"message {one.samples + 1} differs between clients")
        self._arrived[one.samples].append(time.monotonic())
        one.samples += 1


def main() -> None:
    """Obey until standard input ends."""
    clients = Clients()
    acts = {"connect": clients.connect, "expect": clients.expect, "receive": clients.receive, "finish": clients.finish}
    while True:
        clients.wait()
        if not (line := sys.stdin.readline()):
            return
        command = cast(Command, json.loads(line))
        sys.stdout.write(json.dumps(acts[str(command["do"])](command)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
