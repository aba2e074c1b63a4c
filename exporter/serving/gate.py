"""What every request passes first: the rate limit, the password, and the headers that the file asks for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from exporter.serving.config import RateLimit
from exporter.serving.live import Current
from exporter.serving.passwords import Passwords, TooManyChecksError, credentials
from latido import logs

log = logs.get(__name__)

_CHALLENGE: Final = 'Basic realm="latido", charset="UTF-8"'
_QUIET_SECONDS: Final = 60.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Clock = Callable[[], float]


class TokenBucket:
    """At most `burst` at once and one more every `interval` seconds, by a clock that only goes forward."""

    def __init__(self, limit: RateLimit, clock: Clock) -> None:
        self.limit = limit
        self._clock = clock
        self._tokens = float(limit.burst)
        self._at = clock()

    def take(self) -> bool:
        """Take one if there is one."""
        now = self._clock()
        self._tokens = min(float(self.limit.burst), self._tokens + (now - self._at) / self.limit.interval)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Refusals:
    """Logs that callers were refused, once a minute whatever they do: the log is not theirs to fill."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._next = clock()
        self._silent = 0

    def log(self, reason: str, address: str) -> None:
        """Log a refusal, or count it."""
        now = self._clock()
        if now < self._next:
            self._silent += 1
            return
        log.warning("request refused", reason=reason, address=address, not_logged_before=self._silent)
        self._next = now + _QUIET_SECONDS
        self._silent = 0


class Gate:
    """Guards an application: `install` it before the application starts."""

    def __init__(self, current: Current, clock: Clock = time.monotonic) -> None:
        self._current = current
        self._clock = clock
        self._bucket: TokenBucket | None = None
        self._passwords = Passwords()
        self._refusals = Refusals(clock)

    def install(self, app: web.Application) -> None:
        """Put the gate before every handler of the application, errors and 404 included."""

        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._refusal(request) or await handler(request)

        app.middlewares.insert(0, gate)
        app.on_response_prepare.append(self._headers)
        # Before the answers in progress are waited for: those that wait for a check are among them.
        app.on_shutdown.append(self._stop)

    async def _refusal(self, request: web.Request) -> web.Response | None:
        config = self._current().config
        address = request.remote or "unknown"
        if config.rate_limit is not None and not self._bucket_for(config.rate_limit).take():
            self._refusals.log("rate limit", address)
            return web.Response(status=429, headers={"Retry-After": "1"}, text="too many requests\n")
        if not config.users:
            return None
        headers = request.headers.getall("Authorization", [])
        given = credentials(headers[0]) if len(headers) == 1 else None
        try:
            if given is not None and await self._passwords.right(given, config.users, address):
                return None
        except TooManyChecksError:
            self._refusals.log("too many passwords to check", address)
            return web.Response(status=429, headers={"Retry-After": "5"}, text="too many passwords to check\n")
        if given is not None:
            self._refusals.log("wrong user or password", address)
        return web.Response(status=401, headers={"WWW-Authenticate": _CHALLENGE}, text="user and password, please\n")

    def _bucket_for(self, limit: RateLimit) -> TokenBucket:
        if self._bucket is None or self._bucket.limit != limit:
            self._bucket = TokenBucket(limit, self._clock)
        return self._bucket

    async def _headers(self, _: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(self._current().config.headers)

    async def _stop(self, _: web.Application) -> None:
        await self._passwords.stop()
