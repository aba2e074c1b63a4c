"""`latido record`: what this machine pushes for some minutes, anonymised, as a file that load tests replay.

It stands where an ingest API would and lets an exporter push to it: one that it starts itself, or, with
`--web.listen-address`, one of yours. So what is recorded is what exporters really send.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingest.contract.wire import Feed
from latido import settings
from latido.settings import Address, SettingsError, setting
from loadtest import recording
from loadtest.sink import Kept, listening

PROG: Final = "latido record"
GRACE_SECONDS: Final = 30.0
"""Beyond the time that the samples take: for an exporter to start, or to be pointed here."""
STOP_SECONDS: Final = 15.0


@dataclass(frozen=True)
class RecordSettings:
    """What is recorded, and into which file."""

    output: Path = setting("output", settings.path, "recording.json", "file to write", metavar="FILE")
    samples: int = setting("samples", settings.integer(1, 10_000), "20", "moments to record", metavar="N")
    interval: float = setting(
        "push.interval",
        settings.positive_duration,
        "5s",
        "time between two moments; of an exporter of yours, what it was started with",
        metavar="TIME",
    )
    source: str = setting(
        "source", settings.text, "auto", "where the exporter reads, as its own --source", metavar="SOURCE"
    )
    listen: Address | None = setting(
        "web.listen-address",
        settings.address,
        None,
        "start no exporter; wait here for one that is told --push.url=http://HOST:PORT",
        metavar="HOST:PORT",
    )


def main(argv: Sequence[str]) -> int:
    """Record; return the exit status."""

    def body() -> int:
        given = settings.load(
            RecordSettings, PROG, "Record what this machine pushes, anonymised, for load tests.", argv, os.environ
        )
        if given.listen is not None:
            settings.guard(given.listen, has_token=False, insecure=False, flag="web.listen-address")
        _check_writable(given.output)  # before the minutes of waiting, not after them
        pushes = record(given)
        try:
            made = recording.record(pushes.pushes(), round(given.interval * 1000))
        except recording.RecordingError as error:
            sys.stderr.write(f"{PROG}: {error}\n")
            return 1
        text = recording.encode(made)
        given.output.write_bytes(text)
        processes = len({(name.pid, name.start_ticks) for name in made.names})
        sys.stdout.write(
            f"{given.output}: {len(made.procesos)} moments of {processes} processes, {len(text):,} bytes\n"
        )
        return 0

    return settings.run(PROG, body)


def _check_writable(file: Path) -> None:
    there = file.exists()
    try:
        file.open("ab").close()
    except OSError as error:
        raise SettingsError(f"--output: {file} cannot be written: {error.strerror}") from None
    if not there:
        file.unlink()


def record(given: RecordSettings) -> Kept:
    """Return what was pushed once every feed has its samples. Raises SettingsError if they do not come."""
    with ExitStack() as stack:
        kept, port = stack.enter_context(listening(given.listen or Address("127.0.0.1", 0)))
        exporter = None
        if given.listen is None:
            exporter = stack.enter_context(_exporter(port, given))
            said = f"recording {given.samples} moments, {given.samples * given.interval:g} s"
        else:
            said = f"waiting for an exporter with --push.url=http://{given.listen.host}:{port}"
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()
        deadline = time.monotonic() + given.samples * given.interval + GRACE_SECONDS
        while min(kept.samples(feed) for feed in Feed) < given.samples:
            if exporter is not None and exporter.poll() is not None:
                raise SettingsError(f"the exporter ended with status {exporter.returncode}; its lines above say why")
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"only {min(kept.samples(feed) for feed in Feed)} of {given.samples} samples came; an exporter "
                    f"pushes every --push.interval, and {given.interval:g} s were expected"
                )
            kept.wait(1.0)
        if len(kept.streams()) > 1:
            raise SettingsError("more than one exporter has pushed here; a recording is of one")
    return kept


@contextmanager
def _exporter(port: int, given: RecordSettings) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "web.listen-address": "127.0.0.1:0",
            "push.url": f"http://127.0.0.1:{port}",
            "push.interval": f"{round(given.interval * 1000)}ms",
            "push.host": "recorded",
            "spool.path": f"{folder}/spool.sqlite",
            "source": given.source,
            "log.level": "warning",
        }
        environ = {name: value for name, value in os.environ.items() if not name.startswith("LATIDO_")}
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "latido", "exporter", *(f"--{flag}={value}" for flag, value in flags.items())],
            stdin=subprocess.DEVNULL,
            env=environ,
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
