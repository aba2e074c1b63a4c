"""Clients that are slow, wrong or hostile: each gets what is documented, and none is felt by another."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bridge_ws.tests.rig import SECONDS, Client, Writer, client, now_ms
from bridge_ws.tests.samples import procesos, process, ram
from dev.program import Program
from dev.waiting import wait_for, wait_until
from ingest.contract.wire import Process
from latido.settings import Dsn

Writers = Callable[[], Writer]
Start = Callable[..., Program]

TOKEN = "a-token-that-is-long-enough"  # noqa: S105 - made for these tests
BOUND = "another-token-for-one-host"


async def closed_with(reader: Client) -> tuple[int | None, str | None]:
    """Read until the bridge closes the connection; return code and reason."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await reader.next()
    return reader.connection.close_code, reader.connection.close_reason


def crowd(seq: int) -> list[Process]:
    """About 300 KiB of processes in a frame."""
    return [process(pid, seq, command=f"worker-{pid}") for pid in range(1, 701)]


async def test_a_slow_client_gets_a_gap_and_the_newest_and_no_one_else_does(
    database: Dsn, writers: Writers, start_bridge: Start
) -> None:
    """The slow one reads nothing while more is sent than the sockets and its buffer hold; then it is whole again."""
    writer, at, count = writers(), now_ms(), 40
    writer.commit(procesos(1, at, crowd(1), keyframe=True))
    bridge = start_bridge(database, "--bridge.client-buffer=1MiB", "--bridge.send-timeout=5m")
    async with client(bridge.url, narrow=True) as slow, client(bridge.url) as quick:
        await quick.sample(1, "procesos", "snapshot")
        await slow.sample(1, "procesos", "snapshot")
        for seq in range(2, count + 2):
            writer.commit(procesos(seq, at + seq, crowd(seq), keyframe=seq == 2))
            await quick.sample(seq, "procesos")
        assert quick.seqs("procesos") == list(range(2, count + 2))
        assert not [frame for frame in quick.frames if frame["type"] == "gap"]

        await slow.sample(count + 1, "procesos", "snapshot")
        kinds = [frame["type"] for frame in slow.frames[2:]]
        gap = next(frame for frame in slow.frames if frame["type"] == "gap")
        received = slow.seqs("procesos")
        assert kinds == ["sample"] * len(received) + ["gap", "snapshot"]
        assert received == list(range(2, 2 + len(received)))
        # The snapshot is the last sample; those between it and the last that was received are the gap.
        assert gap["missed"] == count - len(received) - 1
        assert (gap["first_seq"], gap["last_seq"]) == (2 + len(received), count + 1)
        table = slow.frames[-1]["sample"]
        assert isinstance(table, dict)
        assert len(table["processes"]) == 700
        writer.commit(ram(100, at + 100))
        await slow.sample(100)
    assert bridge.metric("latido_bridge_gaps_total") == 1


async def test_a_client_that_stops_reading_is_closed(database: Dsn, writers: Writers, start_bridge: Start) -> None:
    writer, at = writers(), now_ms()
    writer.commit(procesos(1, at, crowd(1), keyframe=True))
    bridge = start_bridge(database, "--bridge.send-timeout=300ms", "--bridge.client-buffer=1MiB")
    with socket.create_connection(("127.0.0.1", bridge.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await wait_until(lambda: bridge.metric("latido_bridge_clients") == 1, "the client is in")
        for seq in range(2, 40):
            writer.commit(procesos(seq, at + seq, crowd(seq), keyframe=True))
        await wait_until(lambda: bridge.metric('latido_bridge_closed_total{reason="slow"}') == 1, "it is closed")
    assert bridge.metric("latido_bridge_clients") == 0
    assert "the client does not read" in bridge.log()


async def test_wrong_messages_are_answered_and_too_many_close(database: Dsn, start_bridge: Start) -> None:
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.next()
        wrong = ["", "{", "[]", "nonsense", '{"type":"nonsense"}', '{"type":"subscribe","feeds":["disk"]}']
        wrong += ['{"type":"subscribe","hosts":"a"}', "[" * 5000, '{"type":"subscribe","hosts":["<script>"]}', "null"]
        for text in wrong:
            await reader.connection.send(text)
            frame = await reader.next()
            assert (frame["type"], frame["code"]) == ("error", "malformed")
        await reader.connection.send("the eleventh")
        assert await closed_with(reader) == (1008, "too many messages that are not of this protocol")
    await wait_until(lambda: bridge.metric('latido_bridge_closed_total{reason="protocol"}') == 1, "it is counted")


@pytest.mark.parametrize(("message", "code"), [(b"binary", 1003), ("x" * 70_000, 1009)], ids=["binary", "oversize"])
async def test_a_message_that_is_no_text_or_too_large_closes(
    database: Dsn, start_bridge: Start, message: str | bytes, code: int
) -> None:
    bridge = start_bridge(database)
    async with client(bridge.url) as reader:
        await reader.next()
        await reader.connection.send(message)
        assert (await closed_with(reader))[0] == code


async def test_too_many_hosts_are_refused(database: Dsn, start_bridge: Start) -> None:
    bridge = start_bridge(database)
    async with client(bridge.url, "?hosts=a") as reader:
        await reader.next()
        await reader.send({"type": "subscribe", "hosts": [f"h{number}" for number in range(1000)]})
        assert (await reader.next())["code"] == "too-many-hosts"


async def test_more_clients_than_allowed_are_told_to_come_back(database: Dsn, start_bridge: Start) -> None:
    bridge = start_bridge(database, "--bridge.max-clients=1")
    async with client(bridge.url) as reader:
        await reader.next()
        with pytest.raises(InvalidStatus) as caught:
            async with client(bridge.url):
                pass
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"] == "5"


async def test_only_pages_of_allowed_origins_may_connect(database: Dsn, start_bridge: Start) -> None:
    bridge = start_bridge(database, "--web.origins=https://fleet.example.org")
    for origin in (None, f"http://127.0.0.1:{bridge.port}", "https://fleet.example.org"):
        async with client(bridge.url, origin=origin) as reader:
            assert (await reader.next())["type"] == "hello"
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://fleet.example.org.evil.example"):
        with pytest.raises(InvalidStatus) as caught:
            async with client(bridge.url, origin=origin):
                pass
        assert caught.value.response.status_code == 403
    assert bridge.metric('latido_bridge_refused_total{status="403"}') == 4


async def test_a_foreign_name_for_loopback_is_refused(database: Dsn, start_bridge: Start) -> None:
    """DNS rebinding: the page's own name means 127.0.0.1, so its origin equals the Host header."""
    bridge = start_bridge(database)
    connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=SECONDS)
    name = f"rebound.example:{bridge.port}"
    connection.request("GET", "/ws", headers={"Host": name, "Origin": f"http://{name}"})
    assert connection.getresponse().status == 403
    connection.close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n{BOUND} web-2\n")
    path.chmod(0o600)
    return path


async def test_a_token_is_asked_for_and_narrows_what_is_seen(
    database: Dsn, writers: Writers, start_bridge: Start, token_file: Path
) -> None:
    writer, at = writers(), now_ms()
    for host in ("web-1", "web-2"):
        writer.commit(ram(1, at), host=host)
    bridge = start_bridge(database, f"--auth.token-file={token_file}")

    async with client(bridge.url, subprotocols=["latido.v1", f"latido.bearer.{TOKEN}"]) as reader:
        assert (await reader.next())["hosts"] == ["web-1", "web-2"]
        assert reader.connection.subprotocol == "latido.v1"
    async with client(bridge.url) as reader:
        assert (await reader.next())["code"] == "token-required"
        await reader.send({"type": "authenticate", "token": BOUND})
        assert (await reader.next())["hosts"] == ["web-2"]
        assert (await reader.next())["host"] == "web-2"
        await reader.send({"type": "subscribe"})
        assert (await reader.next())["host"] == "web-2"
        writer.commit(ram(2, at + 1000), host="web-1")
        writer.commit(ram(2, at + 1000), host="web-2")
        assert (await reader.next())["host"] == "web-2"

    with pytest.raises(InvalidStatus) as caught:
        async with client(bridge.url, subprotocols=["latido.v1", "latido.bearer.wrong-but-long-enough"]):
            pass
    assert caught.value.response.status_code == 401
    for message in ({"type": "authenticate", "token": "wrong-but-long-enough"}, {"type": "subscribe"}):
        async with client(bridge.url) as reader:
            await reader.next()
            await reader.send(message)
            assert await closed_with(reader) == (1008, "a valid token is required")
    log = bridge.log()
    assert TOKEN not in log
    assert "wrong-but-long-enough" not in log


async def test_the_page_and_its_parts_are_served_and_nothing_else(database: Dsn, start_bridge: Start) -> None:
    bridge = start_bridge(database)

    def ask(method: str, path: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", bridge.port, timeout=SECONDS)
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        connection.close()
        return response, body

    page = ask("GET", "/")[1].decode()
    script, style = re.search(r'src="(/assets/[^"]+)"', page), re.search(r'href="(/assets/[^"]+)"', page)
    assert script is not None
    assert style is not None
    for path, kind in {
        "/": "text/html; charset=utf-8",
        script[1]: "text/javascript; charset=utf-8",
        style[1]: "text/css; charset=utf-8",
        "/icon.svg": "image/svg+xml",
        "/metrics": "text/plain; version=0.0.4; charset=utf-8",
        "/-/healthy": "text/plain; charset=utf-8",
        "/-/ready": "text/plain; charset=utf-8",
    }.items():
        response, body = ask("GET", path)
        policy = response.headers["Content-Security-Policy"]
        assert (response.status, response.headers["Content-Type"], len(body) > 0) == (200, kind, True)
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        head, nothing = ask("HEAD", path)
        assert (head.status, nothing) == (200, b"")
    assert ask("GET", "/../server.py")[0].status == 404
    assert ask("DELETE", "/")[0].status == 405
    assert ask("GET", "/ws")[0].status == 426
    assert "immutable" in ask("GET", script[1])[0].headers["Cache-Control"]
    assert ask("GET", "/")[0].headers["Cache-Control"] == "no-cache"
    assert "://" not in page.replace("http://www.w3.org/", "")


async def test_sigterm_closes_clients_with_1001(database: Dsn, start_bridge: Start) -> None:
    bridge = start_bridge(database)
    with socket.create_connection(("127.0.0.1", bridge.port)):  # one that says nothing must not hold the end
        async with client(bridge.url) as reader:
            await reader.next()
            begin = asyncio.get_running_loop().time()
            end = asyncio.create_task(asyncio.to_thread(bridge.stop))
            assert await closed_with(reader) == (1001, "the bridge stops")
            assert await end == 0
            assert asyncio.get_running_loop().time() - begin < 4.0


def test_a_taken_port_and_an_open_door_are_named(database: Dsn, start_bridge: Start, tmp_path: Path) -> None:
    bridge = start_bridge(database)
    second = Program(["bridge"], [f"--db.dsn={database}"], port=bridge.port)
    second.start(ready="")
    wait_for(lambda: not second.runs(), "the second gives up")
    assert f"--web.listen-address: cannot listen on 127.0.0.1:{bridge.port}: address already in use" in second.log()
    assert second.stop() == 2
    assert "Traceback" not in second.log()
    second.close()
    secret = tmp_path / "tokens"
    secret.write_text(TOKEN)
    secret.chmod(0o644)
    third = Program(["bridge"], [f"--auth.token-file={secret}"])
    with pytest.raises(ProcessLookupError):
        third.start()
    assert "is readable by every user" in third.log()
    third.close()
