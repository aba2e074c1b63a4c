"""What tests ask of running containers: their pages, and the database as its user for reading."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from dev.compose import Stack
from dev.waiting import wait_for
from tests import history

FEEDS = ("ram", "cpu", "procesos")
HOST = "docker-host"
"""What compose.yaml calls this machine unless LATIDO_HOST says otherwise."""


def get(url: str) -> tuple[int, str]:
    """Return status and body; status 0 if nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def series(url: str) -> dict[str, float]:
    """Return every series of a /metrics, written as there."""
    lines = (line for line in get(f"{url}/metrics")[1].splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def dsn(stack: Stack) -> str:
    """Return the DSN of the stack's database for the user that may only read."""
    password = (stack.folder("secrets") / "history").read_text()
    return f"mysql://latido_history:{password}@{stack.address('mysql')}:3306/latido"


def prometheus(stack: Stack, expression: str) -> list[dict[str, Any]]:
    """Return the result of an instant query, nothing while Prometheus does not answer."""
    query = urllib.parse.urlencode({"query": expression})
    status, body = get(f"http://{stack.address('prometheus')}:9090/api/v1/query?{query}")
    return list(json.loads(body)["data"]["result"]) if status == 200 else []


def seqs(stack: Stack, feed: str) -> list[int]:
    """Return the numbers of the exporter's samples that the tables hold, as often as they stand there."""
    sql = f"SELECT seq FROM {feed} JOIN hosts ON id = host_id WHERE name = %s ORDER BY seq"  # noqa: S608 - a feed's name
    return [row[0] for row in history.query(dsn(stack), sql, HOST)]


def wait_flow(stack: Stack) -> None:
    """Wait until each feed has newer samples than now, and each number up to the newest once."""
    before = {feed: len(seqs(stack, feed)) for feed in FEEDS}

    def whole(feed: str) -> bool:
        numbers = seqs(stack, feed)
        assert len(numbers) == len(set(numbers))
        return len(numbers) > before[feed] and list(range(1, len(numbers) + 1)) == numbers

    for feed in FEEDS:
        wait_for(lambda: whole(feed), f"{feed} goes on without a gap", 120)  # noqa: B023 - waited for at once
