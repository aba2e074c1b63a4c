"""The profile `loadtest` of compose.yaml: a load test in its own image, against the composed stack."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev import compose
from dev.compose import Stack
from dev.waiting import wait_for
from loadtest.results import FILE, Results, decode
from tests import history
from tests.containers.asking import FEEDS, dsn

SERVICE = "loadtest"
HOSTS = 6
DURATION = 24
RUN_SECONDS = 300
"""For a run to start, to load, to count and to draw its report, on a machine that others use."""


@pytest.fixture
def profile(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Return the stack with the load test made short by compose.yaml's variables, and held to counts alone.

    What this machine does besides decides how quick answers are, and whether a push is told to come again (503): all
    that is asked for is that some are taken.
    """
    monkeypatch.setenv("LATIDO_LOADTEST_HOSTS", str(HOSTS))
    monkeypatch.setenv("LATIDO_LOADTEST_DURATION", f"{DURATION}s")
    service = compose.read(stack.podman, stack.prefix).services[SERVICE]
    objectives = tmp_path / "objectives.yaml"
    objectives.write_text("error_ratio: 0.9\n")
    changed = with_settings(
        service,
        {"LATIDO_OBJECTIVES": "/etc/latido/objectives.yaml", "LATIDO_PUSH_INTERVAL": "1s", "LATIDO_SLICE": "6s"},
    )
    changed["volumes"] = [*service["volumes"], f"{objectives}:/etc/latido/objectives.yaml:ro"]
    short = dataclasses.replace(stack, services={**stack.services, SERVICE: changed})
    yield short
    short.podman.run("rm", "--force", "--time=5", short.container(SERVICE), check=False)


def with_settings(service: dict[str, Any], more: dict[str, str]) -> dict[str, Any]:
    """Return a service with some of its variables set otherwise."""
    return {**service, "environment": {**service["environment"], **more}}


def wait_over(stack: Stack) -> tuple[int, str, Results]:
    """Wait until the load test has ended; return its status, what it printed and the results in its volume."""

    def over() -> bool:
        return bool(stack.state(SERVICE)["Status"] == "exited")

    try:
        wait_for(over, "the load test is over", RUN_SECONDS)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{stack.logs(SERVICE)[-4000:]}") from None
    report = stack.folder("reports") / "loadtest-report"
    assert (report / FILE).exists(), stack.logs(SERVICE)
    return stack.state(SERVICE)["ExitCode"], stack.logs(SERVICE), decode((report / FILE).read_bytes())


def failures(results: Results) -> Counter[tuple[str, str]]:
    """Return what went wrong, by API and in words, and how often."""
    found: Counter[tuple[str, str]] = Counter()
    for line in results.lines:
        found.update({(line.api, words): count for words, count in line.failures.items()})
    return found


def rights(pid: int) -> dict[str, str]:
    """Return what the kernel says that a process may: /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {"user": fields["Uid"].split()[0], "capabilities": fields["CapBnd"], "locked": fields["NoNewPrivs"]}


def test_it_is_green_and_the_database_holds_what_was_acknowledged(profile: Stack) -> None:
    """Master and workers in one container that may nothing, both APIs in turn, every sample counted."""
    profile.start(SERVICE)
    assert {"user": "10001", "capabilities": "0" * 16, "locked": "1"} == rights(profile.pid(SERVICE))
    assert profile.podman.status("exec", profile.container(SERVICE), "touch", "/written").returncode != 0
    status, printed, results = wait_over(profile)
    said = "\n".join(profile.logs(name)[-2000:] for name in ("ingest-raw", "ingest-orm"))
    assert (0, True) == (status, results.green), f"{printed}{failures(results)}\n{said}"
    assert results.verdict in printed
    assert (str(HOSTS), str(float(DURATION)), "2") == tuple(
        results.settings[name] for name in ("hosts", "duration", "workers")
    )
    assert {"raw", "orm", "master", "worker 1", "worker 2"} <= {look.program for look in results.usage}
    assert all(results.apis[api].requests for api in ("raw", "orm"))
    counts = results.counts
    assert counts is not None
    assert (HOSTS, counts.acknowledged) == (counts.hosts, counts.stored)
    # Not by its word alone: the rows of its hosts, as the database has them by feed and API.
    rows = {
        (feed, api): number
        for feed in FEEDS
        for api, number in history.query(
            dsn(profile),
            f"SELECT api, COUNT(*) FROM {feed} JOIN hosts ON id = host_id WHERE name LIKE 'load-%%' GROUP BY api",  # noqa: S608 - a feed's name
        )
    }
    assert {(feed, api) for feed in FEEDS for api in ("raw", "orm")} == rows.keys()
    assert sum(counts.stored[feed] for feed in FEEDS) + counts.doubtful_stored == sum(rows.values())
    assert (profile.folder("reports") / "loadtest-report" / "report.html").stat().st_size > 0


def test_it_is_red_where_the_apis_refuse_it(profile: Stack) -> None:
    """The status is the verdict's: with another's token nothing is taken, and nothing stored."""
    service = profile.services[SERVICE]
    profile.services[SERVICE] = with_settings(
        service, {"LATIDO_PUSH_TOKEN_FILE": "/etc/latido/secrets/bridge-tokens", "LATIDO_DURATION": "6s"}
    )
    profile.start(SERVICE)
    status, printed, results = wait_over(profile)
    assert (1, False) == (status, results.green), printed
    assert "RED" in results.verdict
    assert {"error_ratio"} == {broken.objective for broken in results.broken}
