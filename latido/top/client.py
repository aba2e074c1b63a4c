"""The WebSocket to the bridge: connects, asks, reads, and after a break goes on where it was.

Delays between tries grow by full jitter (Brooker, "Exponential Backoff And Jitter", 2015).
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from ingest.contract.wire import Feed
from latido.top.frames import BEARER, SUBPROTOCOL, AnyFrame, FrameError, Hello, Resume, Trouble, parse, subscription

OPEN_SECONDS: Final = 10.0
MAX_FRAME_BYTES: Final = 64 << 20
"""A table of the most processes that the contract allows, 20,000, is about 9 MB."""
FIRST_DELAY: Final = 0.25
LONGEST_DELAY: Final = 10.0
_POLICY_VIOLATION: Final = 1008
_REFUSED: Final = {
    401: "the bridge does not take this token; see --token-file",
    403: "the bridge does not let this client in (403)",
    404: "there is no bridge at this URL (404)",
}


class RefusedError(Exception):
    """The bridge does not serve this client, and would not at the next try."""


@dataclass(frozen=True)
class Up:
    """The connection stands."""


@dataclass(frozen=True)
class Down:
    """It does not, and why; the next try is after `seconds`."""

    reason: str
    seconds: float


class Client:
    """One subscription: the newest of each host, and the processes of the host that is looked at."""

    def __init__(self, url: str, token: str | None, host: str | None) -> None:
        self._url, self._token, self._host = url, token, host
        self._looked_at: str | None = host
        self._connection: ClientConnection | None = None
        self._resume: str | None = None
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, take: Callable[[AnyFrame | Up | Down], None]) -> None:
        """Give every frame, and how it stands with the connection, to `take`, until cancelled.

        Raises RefusedError.
        """
        delays = _delays()
        while True:
            try:
                async with connect(
                    self._url + "?" + urlencode(self._query()),
                    subprotocols=self._subprotocols(),
                    max_size=MAX_FRAME_BYTES,
                    open_timeout=OPEN_SECONDS,
                    close_timeout=1,
                    proxy=None,
                    user_agent_header="latido-top",
                ) as connection:
                    await self._converse(connection, take)
                    delays = _delays()
                    reason = "the bridge closed the connection"
            except InvalidStatus as error:
                reason = self._refusal(error.response.status_code)
            except (OSError, InvalidHandshake, TimeoutError) as error:
                reason = _words(error)
            seconds = next(delays)
            take(Down(reason, seconds))
            await asyncio.sleep(seconds)

    def look_at(self, host: str | None) -> None:
        """Ask for the processes of another host, or (None) of no host any more."""
        before, self._looked_at = self._looked_at, host
        if self._connection is None or before == host:
            return
        if before is not None:
            self._send("unsubscribe", before)
        if host is not None:
            self._send("subscribe", host)

    async def _converse(self, connection: ClientConnection, take: Callable[[AnyFrame | Up | Down], None]) -> None:
        try:
            async for message in connection:
                frame = parse(message)
                if isinstance(frame, Hello):
                    self._greeted(connection, frame)
                    take(Up())
                elif isinstance(frame, Resume):
                    self._resume = frame.token
                elif isinstance(frame, Trouble) and frame.code == "token-required":
                    raise RefusedError("the bridge wants a token; give it with --token-file")
                if frame is not None:
                    take(frame)
        except FrameError as error:
            raise RefusedError(str(error)) from None
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == _POLICY_VIOLATION:
                raise RefusedError(f"the bridge closed the connection: {closed.rcvd.reason!r}") from None
        finally:
            self._connection = None

    def _greeted(self, connection: ClientConnection, hello: Hello) -> None:
        self._connection = connection
        self._resume = hello.resume or self._resume
        if self._host is None and self._looked_at is not None:
            self._send("subscribe", self._looked_at)

    def _send(self, kind: str, host: str) -> None:
        connection = self._connection
        if connection is None:
            return

        async def send() -> None:
            try:
                await connection.send(subscription(kind, Feed.PROCESOS, host))
            except ConnectionClosed:
                return  # the reader has seen it too, and asks again with the next connection

        task = asyncio.get_running_loop().create_task(send())
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def _query(self) -> dict[str, str]:
        # A whole fleet's tables would be megabytes: they are asked for host by host.
        query = {"hosts": self._host} if self._host is not None else {"feeds": f"{Feed.RAM},{Feed.CPU}"}
        return query | ({"resume": self._resume} if self._resume is not None else {})

    def _subprotocols(self) -> list[Subprotocol]:
        names = [SUBPROTOCOL, *([BEARER + self._token] if self._token is not None else [])]
        return [Subprotocol(name) for name in names]

    def _refusal(self, status: int) -> str:
        """Return why a handshake was refused where another try may do. Raises RefusedError."""
        if status == 400 and self._resume is not None:  # noqa: PLR2004 - Bad Request
            self._resume = None  # of a bridge that is no more, or one that does not know it
            return "the bridge does not know where we were"
        if status < 500 and status != 429:  # noqa: PLR2004 - a fault of ours, but for Too Many Requests
            raise RefusedError(_REFUSED.get(status, f"the bridge refuses this connection ({status})"))
        return f"the bridge answers {status}"


def _delays() -> Iterator[float]:
    longest = FIRST_DELAY
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 - no secret
        longest = min(2 * longest, LONGEST_DELAY)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "the bridge does not answer"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno).lower()
    return str(error) or type(error).__name__
