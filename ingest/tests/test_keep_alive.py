"""An idle connection stays open for longer than exporters pause: no push meets one that is being closed."""

from __future__ import annotations

import http.client
import json
import select

import aiohttp
import pytest

from dev.program import Start
from ingest import serving
from ingest.contract import vectors
from ingest.contract.wire import Feed
from ingest.tests.clients import JSON, now_ms
from ingest.tests.conftest import APIS

PAUSE_SECONDS = 6.0
"""More than the exporter's default interval, and than uvicorn keeps a connection by itself."""


@pytest.mark.parametrize("api", APIS)
def test_a_connection_outlives_the_pause_between_two_pushes(start: Start, tables: str, api: str) -> None:
    program = start("ingest", api, dsn=tables)
    connection = http.client.HTTPConnection("127.0.0.1", program.port, timeout=60)
    for seq in (1, 2):
        body = vectors.base(Feed.RAM, now_ms())
        vectors.as_object(vectors.as_array(body["samples"])[0])["seq"] = seq
        connection.request("POST", "/api/ram", json.dumps(body), JSON)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (201, {"accepted": 1, "duplicates": 0})
        assert select.select([connection.sock], [], [], PAUSE_SECONDS)[0] == []  # nothing comes, not even an end
    connection.close()


async def test_the_sender_is_the_first_to_close() -> None:
    connector = aiohttp.TCPConnector()
    kept = connector._keepalive_timeout
    assert kept is not None
    assert kept < serving.KEEP_ALIVE_SECONDS
    await connector.close()
