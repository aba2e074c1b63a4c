"""Waiting for a condition of the outside world that announces itself in no other way, with a bound."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    """Return once `condition()` is true. Raises TimeoutError naming `what` was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still not: {what}")
        time.sleep(0.02)


async def wait_until(condition: Callable[[], object | Awaitable[object]], what: str, seconds: float = 30.0) -> None:
    """Do the same on an event loop, where `condition` may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if inspect.isawaitable(result):
            result = await result
        if result:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still not: {what}")
        await asyncio.sleep(0.02)
