"""Basic authentication against bcrypt hashes, at a bounded price: the caller decides how often, not how much at once.

A check costs a tenth of a second of CPU by design, before the caller is known. So checks run one after another in a
thread of lowest priority, a wrong password is followed by a rest, few may wait, and what was right is remembered as a
keyed digest: a Prometheus that comes every 15 seconds is checked once.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import os
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import bcrypt

from latido import logs

log = logs.get(__name__)

WAITING: Final = 16
"""Checks that run or wait. At bcrypt's usual cost of 10 the last of them waits 2 s."""
WAITING_PER_ADDRESS: Final = 4
"""Of one address, so that none keeps the others from being checked."""
REMEMBERED: Final = 256
_REST: Final = 3.0
"""Times the length of a check: wrong passwords take a quarter of one CPU at most."""
_NICE: Final = 19
_SIGNIFICANT: Final = 72
"""Bytes of a password that bcrypt looks at; Go's, which the toolkit uses, leaves out the rest when comparing."""
_NOBODY: Final = b"." * 53
"""Salt and digest of all zero bits: no password is known to give them."""


class TooManyChecksError(Exception):
    """Checks wait already, of this address or of all; or the program ends."""


Credentials = tuple[bytes, bytes]
"""User name and password."""


def credentials(header: str | None) -> Credentials | None:
    """Return what an `Authorization` header says (RFC 7617), None if it is not of the Basic scheme."""
    scheme, _, value = (header or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        decoded = base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError):
        return None
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon else None


class Passwords:
    """Checks passwords. One for the program; `stop` it."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._running: dict[bytes, asyncio.Future[bool]] = {}
        self._waiting: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._not_before = 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bcrypt", initializer=_yield_to_others)

    async def right(self, given: Credentials, users: Mapping[bytes, bytes], address: str) -> bool:
        """Whether the password is the user's. An unknown user costs as much as a known one.

        Raises TooManyChecksError.
        """
        user, password = given
        hashed = users.get(user)
        digest = self._digest(user, password, hashed or b"")
        if digest in self._right:
            self._right.move_to_end(digest)
            return True
        running = self._running.get(digest)
        if running is None:
            full = self._waiting.total() >= WAITING or self._waiting[address] >= WAITING_PER_ADDRESS
            if full or self._stopped.is_set():
                raise TooManyChecksError
            self._waiting[address] += 1
            loop = asyncio.get_running_loop()
            highest = max(map(_cost, users.values()))
            running = loop.run_in_executor(self._thread, self._compare, password, hashed, highest)
            self._running[digest] = running
            running.add_done_callback(lambda _: self._ended(digest, address))
        # Shielded: others may wait for the same check, and who leaves does not make it free.
        right = await asyncio.shield(running)
        if right:
            self._right[digest] = None
            while len(self._right) > REMEMBERED:
                self._right.popitem(last=False)
        return right

    async def stop(self) -> None:
        """End: the check that runs is waited for, those that wait find the password wrong, at once."""
        self._stopped.set()
        await asyncio.to_thread(self._thread.shutdown, wait=True)

    def _ended(self, digest: bytes, address: str) -> None:
        del self._running[digest]
        self._waiting[address] -= 1
        if not self._waiting[address]:
            del self._waiting[address]

    def _compare(self, password: bytes, hashed: bytes | None, highest: int) -> bool:
        """Compare, in the thread. Takes 2^highest rounds when wrong, whoever's hash it is."""
        if self._stopped.wait(max(0.0, self._not_before - time.monotonic())):
            return False
        start = time.monotonic()
        known = hashed or _hash_of(highest)
        right = bcrypt.checkpw(password[:_SIGNIFICANT], known) and hashed is not None
        if not right:
            # 2^c + 2^c + 2^(c+1) + ... + 2^(highest-1) = 2^highest
            for cost in range(_cost(known), highest):
                bcrypt.checkpw(password[:_SIGNIFICANT], _hash_of(cost))
            now = time.monotonic()
            self._not_before = now + _REST * (now - start)
        return right

    def _digest(self, *parts: bytes) -> bytes:
        lengths = b"".join(len(part).to_bytes(4, "big") for part in parts)
        return hmac.digest(self._key, lengths + b"".join(parts), hashlib.sha256)


def _cost(hashed: bytes) -> int:
    return int(hashed.split(b"$")[2])


def _hash_of(cost: int) -> bytes:
    return b"$2b$%02d$%s" % (cost, _NOBODY)


def _yield_to_others() -> None:
    # On Linux the priority is the thread's own.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
