"""`latido loadtest stress`: load this machine for a while, and see it arrive in the exporter's metrics.

The exit status is 0 if every kind of load has arrived, 1 if one has not. Whatever happens, its children end with it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from latido import settings
from latido.settings import SettingsError, setting
from loadtest.stress import arrival, engines
from loadtest.stress.engines import Amount

PROG: Final = "latido loadtest stress"
LONGEST: Final = 3600
START_SECONDS: Final = 60.0
END_SECONDS: Final = 15.0
"""Beyond its time: then a load is killed."""
SCRAPE_SECONDS: Final = 1.0
_ROOT: Final = Path(__file__).parents[2]


def _seconds(value: str) -> int:
    seconds = settings.duration(value)
    if not 1 <= seconds <= LONGEST:
        raise ValueError(f"expected a duration from 1s to {LONGEST // 3600}h, got {value!r}")
    return round(seconds)


@dataclass(frozen=True)
class StressSettings:
    """How much of what, and whose metrics are looked at."""

    kinds: tuple[str, ...] = setting(
        "kind",
        settings.choice(*engines.KINDS),
        ",".join(engines.KINDS),
        "cpu, memory, fork or io, one after the other",
        metavar="KIND",
        repeated=True,
    )
    seconds: int = setting("duration", _seconds, "10s", "of each kind", metavar="TIME")
    workers: int = setting(
        "workers", settings.integer(1, 1024), str(os.cpu_count() or 1), "processes that make the load", metavar="N"
    )
    memory: int = setting("memory", settings.size, "128MiB", "that each worker of `memory` holds", metavar="SIZE")
    engine: str = setting(
        "engine",
        settings.choice(*engines.ENGINES),
        "auto",
        "`stress-ng`, `python`, or `auto`: the first that is installed",
        metavar="ENGINE",
    )
    exporter: str | None = setting(
        "exporter.url", settings.http_url, None, "an exporter that runs; default: one of its own", metavar="URL"
    )
    folder: Path | None = setting(
        "io.folder", settings.path, None, "where I/O goes, on a disk; default: the temporary folder", metavar="FOLDER"
    )


def main(argv: Sequence[str]) -> int:
    """Load and look; return the exit status."""

    def body() -> int:
        given = settings.load(StressSettings, PROG, "Load this machine and see it in its metrics.", argv, os.environ)
        signal.signal(signal.SIGTERM, _leave)
        with ExitStack() as stack:
            url = given.exporter or stack.enter_context(_exporter())
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=given.folder, prefix="latido-stress-")))
            missing = [kind for kind in given.kinds if not _show(kind, given, url, folder)]
        if missing:
            sys.stdout.write(f"RED: did not arrive in the metrics: {', '.join(missing)}\n")
            return 1
        sys.stdout.write(f"GREEN: arrived in the metrics: {', '.join(given.kinds)}\n")
        return 0

    try:
        return settings.run(PROG, body)
    except KeyboardInterrupt:
        return 130


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show(kind: str, given: StressSettings, url: str, folder: Path) -> bool:
    """Make one kind of load, print what rose, and return whether it arrived."""
    engine = engines.choose(given.engine)
    amount = Amount(given.seconds, given.workers, given.memory)
    sys.stdout.write(f"{kind}: {given.workers} workers for {given.seconds} s by {engine}\n")
    sys.stdout.flush()
    before = arrival.sums(_scrape(url))
    seen = []
    with _load(engines.command(engine, kind, amount, folder), given.seconds) as process:
        while process.poll() is None:
            seen.append(arrival.sums(_scrape(url)))
            try:
                process.wait(SCRAPE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        if process.returncode:
            raise SettingsError(f"--engine: {engine} ended with status {process.returncode}; its lines above say why")
    seen.append(arrival.sums(_scrape(url)))
    found = arrival.rises(kind, before, arrival.highest(seen))
    for rise in found:
        sys.stdout.write(f"  {rise}\n")
    why = arrival.arrived(kind, found, amount)
    if why is not None:
        sys.stdout.write(f"  did not arrive: {why}\n")
    sys.stdout.flush()
    return why is None


@contextmanager
def _load(command: Sequence[str], seconds: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a load in a session of its own, and end all of that session with the block, or when its time is long over."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])}
    # timeout(1) ends it should this process be killed.
    bounded = ["timeout", "--kill-after=5", str(seconds + END_SECONDS), *command]
    try:
        process = subprocess.Popen(bounded, stdin=subprocess.DEVNULL, env=environ, start_new_session=True)  # noqa: S603
    except FileNotFoundError as error:
        raise SettingsError(f"{error.filename} is missing: it is of coreutils") from None
    try:
        yield process
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                continue
    # timeout(1) makes itself the leader of a group, and what is left in it is the load's.
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _scrape(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as response:  # noqa: S310 - settings took http(s) alone
            text: str = response.read(64 << 20).decode()
    except (OSError, urllib.error.URLError, UnicodeDecodeError) as error:
        raise SettingsError(f"--exporter.url: {url} cannot be scraped: {error}") from None
    return text


@contextmanager
def _exporter() -> Iterator[str]:
    """Run an exporter of our own until the block ends; yield its URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    flags = [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warning"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LATIDO_")}
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "latido", "exporter", *flags], stdin=subprocess.DEVNULL, env=environ
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _ready(f"http://127.0.0.1:{port}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SettingsError("the exporter did not start; its lines above say why")
            time.sleep(0.1)  # between two tries: it announces readiness in no other way
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):  # noqa: S310 - loopback
            return True
    except (OSError, urllib.error.URLError):
        return False
