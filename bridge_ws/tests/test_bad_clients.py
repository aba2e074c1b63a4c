"""Clients that break the rules, on raw sockets: each gets its documented end, one line of the log, and no memory."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import psutil
import pytest

from bridge_ws import describe
from bridge_ws.tests.rig import Writer, client, now_ms
from bridge_ws.tests.samples import ram
from dev.program import Program
from dev.waiting import wait_for
from latido.settings import Dsn

Start = Callable[..., Program]
SECONDS = 60.0
REQUEST = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
CONTINUATION, TEXT, BINARY, PING = 0, 1, 2, 9
FIN, RSV1, RSV2 = 0x80, 0x40, 0x20
MAX = 64 << 10
GROWTH_BYTES = 8 << 20


def frame(payload: bytes, opcode: int = TEXT, first: int = FIN, *, masked: bool = True) -> bytes:
    """Return a frame of a client (RFC 6455, section 5.2); its mask is of zeros."""
    length, mask = len(payload), 0x80 if masked else 0
    head = bytes((first | opcode,))
    if length < 126:
        head += bytes((mask | length,))
    elif length < 1 << 16:
        head += bytes((mask | 126,)) + struct.pack("!H", length)
    else:
        head += bytes((mask | 127,)) + struct.pack("!Q", length)
    return head + (b"\0" * 4 if masked else b"") + payload


def bomb(size: int) -> bytes:
    """Return a compressed message (RFC 7692) of so many bytes when it is inflated."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (compressor.compress(b" " * size) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


SUBSCRIBE_MANY = msgspec.json.encode({"type": "subscribe", "hosts": [f"host-{number}" for number in range(1001)]})
PIECE = frame(b"x", TEXT, 0) + frame(b"x", CONTINUATION, 0) * 64
BAD: dict[str, tuple[bytes, int, str]] = {
    "binary": (frame(b"{}", BINARY), 1003, "messages are JSON text"),
    "not-utf-8": (frame(b"\xff\xfe"), 1007, "text is UTF-8"),
    "too-large": (frame(b" " * (MAX + 1)), 1009, ""),
    "a-length-of-2-to-the-62": (b"\x81\xff" + struct.pack("!Q", 1 << 62) + b"\0" * 4, 1009, ""),
    "fragments": (PIECE, 1009, "a message in too many fragments"),
    "fragments-too-large": ((frame(b" " * MAX, TEXT, 0) + frame(b" ", CONTINUATION)), 1009, ""),
    "unmasked": (frame(b"{}", masked=False), 1002, ""),
    "reserved-bit": (frame(b"{}", first=FIN | RSV2), 1002, ""),
    "compressed-unasked": (frame(bomb(9), first=FIN | RSV1), 1002, ""),
    "unknown-opcode": (frame(b"{}", 5), 1002, ""),
    "large-ping": (frame(b"x" * 126, PING), 1002, ""),
    "fragmented-ping": (frame(b"x", PING, 0), 1002, ""),
    "continuation-of-nothing": (frame(b"x", CONTINUATION), 1002, ""),
    "nonsense": (frame(b"nonsense") * 11, 1008, "too many messages that are not of this protocol"),
    "too-many-hosts": (frame(SUBSCRIBE_MANY) * 11, 1008, "too many messages that are not of this protocol"),
}


@dataclass
class Raw:
    """A client's end of a connection, after the handshake."""

    socket: socket.socket
    data: bytearray = field(default_factory=bytearray)

    @property
    def address(self) -> str:
        host, port = self.socket.getsockname()
        return f"{host}:{port}"

    def say(self, data: bytes) -> None:
        # It may be closed while much is still on its way.
        with contextlib.suppress(ConnectionError):
            self.socket.sendall(data)

    def closed(self) -> tuple[int, str] | None:
        """Read to the close frame and return its code and reason; None where the end comes without one."""
        with contextlib.suppress(ConnectionError):
            while (found := self._close_frame()) is None and (data := self.socket.recv(1 << 16)):
                self.data += data
        return found

    def _close_frame(self) -> tuple[int, str] | None:
        while len(self.data) >= 2:
            short = self.data[1] & 0x7F
            header = {126: 4, 127: 10}.get(short, 2)
            length = short if header == 2 else int.from_bytes(self.data[2:header], "big")
            if len(self.data) < header + length:
                return None
            payload = bytes(self.data[header : header + length])
            if self.data[0] & 0x0F == 8:
                return int.from_bytes(payload[:2], "big"), payload[2:].decode()
            del self.data[: header + length]
        return None


@contextmanager
def raw(bridge: Program, extra: str = "") -> Iterator[Raw]:
    """Yield a connection whose handshake is done."""
    with socket.create_connection(("127.0.0.1", bridge.port), timeout=SECONDS) as plain:
        plain.sendall(REQUEST.format(port=bridge.port, extra=extra).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += plain.recv(4096)
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        yield Raw(plain, bytearray(rest))


def lines(bridge: Program, address: str) -> list[str]:
    """Return what the bridge logged of a client."""
    return [line for line in bridge.log().splitlines() if re.search(rf"\b{re.escape(address)}\b", line)]


@pytest.fixture
def bridge(database: Dsn, start_bridge: Start) -> Program:
    """Return a bridge."""
    return start_bridge(database)


def test_each_gets_its_code_and_one_line_of_the_log(bridge: Program) -> None:
    for name, (data, code, reason) in BAD.items():
        with raw(bridge) as bad:
            bad.say(data)
            closed = bad.closed()
            assert closed is not None, name
            assert (name, code) == (name, closed[0])
            assert (name, True) == (name, closed[1].startswith(reason))
            address = bad.address
        wait_for(lambda: lines(bridge, address), f"{name} is logged")  # noqa: B023
        (line,) = lines(bridge, address)
        assert f"code={code}" in line
    wait_for(lambda: bridge.metric("latido_bridge_clients") == 0, "nobody is left")
    assert "Traceback" not in bridge.log()


def test_a_small_message_that_inflates_to_more_than_is_allowed(bridge: Program) -> None:
    with raw(bridge, DEFLATE) as bad:
        payload = bomb(100 << 20)
        assert len(payload) < 2 * MAX
        bad.say(b"".join((frame(payload[:60_000], TEXT, RSV1), frame(payload[60_000:], CONTINUATION))))
        closed = bad.closed()
        assert closed is not None
        assert 1009 == closed[0]
    assert psutil.Process(bridge.pid).memory_info().rss < 100 << 20


def test_every_code_is_documented() -> None:
    text = str(describe.document())
    for code in {code for _, code, _ in BAD.values()}:
        assert f"- {code}: " in text


def test_bad_clients_cost_no_memory(bridge: Program) -> None:
    def all_of_them(rounds: int) -> int:
        for _ in range(rounds):
            for data, code, _ in BAD.values():
                with raw(bridge) as bad:
                    bad.say(data)
                    assert code == (bad.closed() or (0, ""))[0]
        wait_for(lambda: bridge.metric("latido_bridge_clients") == 0, "nobody is left")
        return int(psutil.Process(bridge.pid).memory_info().rss)

    before = all_of_them(2)
    after = all_of_them(20)
    assert after - before < GROWTH_BYTES, f"{before} then {after} bytes"


async def test_slow_handshakes_and_a_thousand_subscriptions_hold_nobody_up(database: Dsn, start_bridge: Start) -> None:
    """A hundred handshakes that never end are ended; who says much is heard, a part at a time."""
    bridge = start_bridge(database)
    writer = Writer(database)
    memory = psutil.Process(bridge.pid)
    before = memory.memory_info().rss
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", bridge.port))) for _ in range(100)]
        for number, each in enumerate(slow):
            each.settimeout(SECONDS)
            each.sendall(REQUEST.format(port=bridge.port, extra="")[: 10 + number].encode())
        talker = stack.enter_context(raw(bridge))
        talker.say(
            b"".join(
                frame(msgspec.json.encode({"type": "subscribe", "hosts": [f"host-{number}"]}))
                for number in range(1_000)
            )
        )
        async with client(bridge.url) as quick:
            await quick.next()
            for seq in range(1, 4):
                writer.commit(ram(seq, now_ms()))
                await quick.until(lambda got: got["type"] in {"sample", "snapshot"} and got["host"] == "web-1")
        for each in slow:
            with contextlib.suppress(ConnectionError):
                assert b"" == each.recv(1)
        # Heard to the end: the answer to one question more.
        talker.say(frame(b'{"type":"backfill","feed":"ram","host":"web-1"}'))
        while b'"type":"backfill"' not in talker.data:
            data = talker.socket.recv(1 << 16)
            assert data
            talker.data += data
        assert b'"type":"error"' not in talker.data
    writer.close()
    assert memory.memory_info().rss - before < GROWTH_BYTES
    assert "Traceback" not in bridge.log()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_bytes_come_the_end_is_a_documented_one(bridge: Program, seed: int) -> None:
    """Frames with bits turned, lengths changed, ends missing and more behind them, on real connections."""
    chance = random.Random(seed)  # noqa: S311 - which bytes is no secret
    good = [
        frame(b'{"type":"subscribe","feeds":["ram"],"hosts":["web-1"]}'),
        frame(b'{"type":"backfill","feed":"cpu","host":"web-1","minutes":60,"processes":true}'),
        frame(b'{"type":"unsubscribe"}'),
        frame(b"", PING),
        *(data for data, _, _ in BAD.values() if len(data) < 200),
    ]
    ends: set[int] = set()
    for _ in range(60):
        data = bytearray(b"".join(chance.choices(good, k=chance.randrange(1, 6))))
        for _ in range(chance.randrange(6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.randrange(len(data) // 2, len(data) + 1) :]
        with raw(bridge, chance.choice(["", DEFLATE])) as bad:
            bad.say(bytes(data))
            bad.socket.shutdown(socket.SHUT_WR)
            ends.add((bad.closed() or (0, ""))[0])
    # 1005 cannot be sent; the rest of what a client may provoke, an answer to its own close frame included.
    assert ends & {1002, 1003, 1007, 1008, 1009}
    assert [] == [line for line in bridge.log().splitlines() if "Traceback" in line], bridge.log()[-3000:]
    assert 200 == bridge.get("/-/healthy")[0]
