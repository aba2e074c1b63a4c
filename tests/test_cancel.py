"""Whoever is told to end while it connects to a database ends, at whatever moment it is told."""

from __future__ import annotations

import asyncio

import pytest

from bridge_ws.database import connect
from dev.ports import free_port
from ingest.raw.mysql import Connection
from latido.settings import Dsn

STEPS = 40
"""Turns of the event loop after which it is told: more than a refused connection takes."""


async def through_the_bridge(dsn: Dsn) -> None:
    async with connect(dsn, None):
        raise AssertionError("nothing listens there")


async def through_raw(dsn: Dsn) -> None:
    await Connection.open(dsn)


@pytest.mark.parametrize("way", [through_the_bridge, through_raw])
async def test_a_cancellation_is_never_swallowed(way: object) -> None:
    """Python 3.11's wait_for drops one that comes together with the end of what it waits for."""
    assert callable(way)
    dsn = Dsn("nobody", "", "127.0.0.1", free_port(), "none", None)
    cancelled = 0
    for steps in range(STEPS):
        task = asyncio.create_task(way(dsn))
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.cancel():
            cancelled += 1
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert task.exception() is not None
    assert cancelled > 2
