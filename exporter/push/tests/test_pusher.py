"""How long a push waits for what."""

from __future__ import annotations

import socket
import time

import aiohttp
import pytest
from aiohttp import web

from exporter.push.delivery import HttpPoster
from exporter.push.pusher import CONNECT_SECONDS, timeouts
from exporter.settings import PushSettings
from latido import settings


async def test_a_name_server_that_is_silent_costs_time_and_no_push(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is found as late as by the second of two servers (resolv.conf(5): 5 s), which only root can set up."""
    default = next(one for one in settings.described(PushSettings) if one.flag == "push.timeout").default
    real = socket.getaddrinfo

    def slow(host: str, *rest: object, **more: object) -> object:
        if host != "gateway.test":
            return real(host, *rest, **more)  # type: ignore[arg-type]  # as it came
        time.sleep(CONNECT_SECONDS + 0.5)
        return real("127.0.0.1", *rest, **more)  # type: ignore[arg-type]  # as above

    async def take(_request: web.Request) -> web.Response:
        return web.json_response({"accepted": 1, "duplicates": 0}, status=201)

    app = web.Application()
    app.router.add_post("/api/ram", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    async with aiohttp.ClientSession(timeout=timeouts(settings.duration(default))) as session:
        answer = await HttpPoster(session, lambda: None).post(f"http://gateway.test:{port}/api/ram", b"{}")
    assert answer.status == 201, answer
    await runner.cleanup()
