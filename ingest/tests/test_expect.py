"""A sender of a large body asks first whether to go on (curl does from 1 MiB on): it is told so before it sends."""

from __future__ import annotations

import json
import socket

import pytest

from dev.program import Start
from ingest.contract import vectors
from ingest.contract.wire import Feed
from ingest.tests.clients import now_ms
from ingest.tests.conftest import APIS

SECONDS = 60.0


@pytest.mark.parametrize("api", APIS)
def test_whoever_asks_whether_to_go_on_is_told_so_and_then_answered(start: Start, tables: str, api: str) -> None:
    program = start("ingest", api, dsn=tables)
    body = json.dumps(vectors.base(Feed.RAM, now_ms())).encode()
    head = (
        "POST /api/ram HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", program.port), timeout=SECONDS) as connection:
        answer = connection.makefile("rb")
        connection.sendall(head.encode())
        assert answer.readline().startswith(b"HTTP/1.1 100 ")
        assert answer.readline() == b"\r\n"
        connection.sendall(body)
        assert answer.readline().startswith(b"HTTP/1.1 201 ")
        assert json.loads(answer.read().partition(b"\r\n\r\n")[2]) == {"accepted": 1, "duplicates": 0}
        answer.close()
