"""What `locust -f` loads: the users, how many of them, and what is written of them. `latido loadtest run` starts it."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Final

import gevent
import msgspec
from locust import LoadTestShape, events, runners
from locust.env import Environment

from loadtest import shapes, tally, users
from loadtest.users import RUN

TURN: Final = "latido-turn"
"""The message by which the one who counts the hosts tells everybody whose turn it is."""
FLUSH_SECONDS: Final = 1.0
_MASTER: list[bool] = []
"""Holds something in the process that has no users."""
# Workers tell the master of their users; the default of three seconds is longer than a slice can be.
runners.WORKER_REPORT_INTERVAL = 1.0

# Locust takes the users that it finds here.
ExporterUser = users.ExporterUser
if RUN.plan.readers:
    ReaderUser = users.ReaderUser


class Load(LoadTestShape):
    """The run's shape: says how many users there are, whose turn it is, and when it is over."""

    def __init__(self) -> None:
        super().__init__()
        self._began: float | None = None
        self._last: tuple[int, str, int] | None = None
        self._search: shapes.Search | None = None
        self._stage_began = 0.0
        if RUN.plan.shape == "search":
            objective = shapes.Objective(RUN.plan.latency_p95_ms, RUN.plan.error_ratio)
            names = [api.name for api in RUN.plan.apis]
            self._search = shapes.Search(
                names, RUN.plan.search_first, RUN.plan.hosts, RUN.plan.search_growth, objective
            )

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are from now on, and how many may come or go a second."""
        now = time.time()
        if self._began is None:
            self._began = self._stage_began = now
        found = self._look(now) if self._search else self._follow(now - self._began)
        if found is None or now - self._began >= RUN.plan.duration:
            return None
        number, api, hosts = found
        if (number, api) != (self._last or (None, None))[:2]:
            self._note({"number": number, "api": api, "hosts": hosts, "at": now})
            if self.runner is not None:
                self.runner.send_message(TURN, {"number": number, "api": api})
        self._last = found
        return hosts + RUN.plan.readers, RUN.plan.spawn_rate

    def _follow(self, at: float) -> tuple[int, str, int] | None:
        hosts = shapes.hosts_at(RUN.plan.shape, RUN.plan.hosts, RUN.plan.duration, at)
        if hosts is None:
            return None
        return *shapes.slice_at([api.name for api in RUN.plan.apis], RUN.plan.slice, at), hosts

    def _look(self, now: float) -> tuple[int, str, int] | None:
        search = self._search
        if search is None:
            return None
        # What the last second of the slice brought is written by then.
        if now - self._stage_began >= RUN.plan.slice + 2 * FLUSH_SECONDS:
            first = self._stage_began + RUN.plan.settle
            lines = [
                line
                for file in RUN.folder.glob("requests-*.jsonl")
                for line in tally.parse(file.read_bytes())
                if line.phase == search.number and line.kind == "push" and line.second >= first
            ]
            seen = tally.summarise(lines, now - first)
            stage = search.judge(seen.requests, seen.p95_ms, seen.error_ratio)
            self._note({"stage": msgspec.to_builtins(stage)})
            self._stage_began = now
        return None if search.over else (search.number, search.api, search.hosts)

    @staticmethod
    def _note(document: dict[str, Any]) -> None:
        with (RUN.folder / "turns.jsonl").open("ab") as file:
            file.write(msgspec.json.encode(document) + b"\n")


@events.init.add_listener
def _start(environment: Environment, **_: Any) -> None:  # noqa: ANN401 - what Locust gives beside it
    runner = environment.runner
    if runner is None:
        return

    def turn(msg: Any, **_: Any) -> None:  # noqa: ANN401 - Locust's own message
        RUN.turn(msg.data["number"], msg.data["api"])

    runner.register_message(TURN, turn)
    if isinstance(runner, runners.MasterRunner):
        _MASTER.append(True)
        return
    gevent.spawn(_write)


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:  # noqa: ANN401, ARG001 - what Locust gives
    RUN.began = time.time()
    # Locust's own handler (by gevent) does not get it here, and SIGTERM would end it without a word of its samples.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@events.quit.add_listener
def _finish(**_: Any) -> None:  # noqa: ANN401 - what Locust gives
    # Users have stopped by now, and with them the last request.
    if not _MASTER:
        _flush()
        name = f"ledger-{_me()}.json"
        (RUN.folder / f"{name}.part").write_bytes(RUN.ledger())
        (RUN.folder / f"{name}.part").rename(RUN.folder / name)


def _write() -> None:
    while True:
        gevent.sleep(FLUSH_SECONDS)
        _flush()


def _flush() -> None:
    lines = RUN.tally.take()
    if lines:
        with (RUN.folder / f"requests-{_me()}.jsonl").open("ab") as file:
            file.write(lines)


def _me() -> int:

    return os.getpid()
