"""Work that shows on a dashboard: `python -m grafana.checks.load KIND` becomes a busy, leaking, … process by that name.

Each ends with whoever started it, and after an hour by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

SECONDS: Final = 3600
LEAK_PAUSE: Final = 0.2
LEAK_SECONDS: Final = 5400
"""In which a leak would have all available memory: well within the four hours that its alert compares with."""
LEAK_SHARE: Final = 1 / 4
"""Of the available memory, where the leak ends: after more than twenty minutes."""
PAGE: Final = 4096
ZOMBIES: Final = 30
_PR_SET_PDEATHSIG: Final = 1


def busy(until: float) -> None:
    """Use one CPU, behind everyone else."""
    os.nice(15)
    while time.monotonic() < until:
        sum(range(100_000))


def leaky(until: float) -> None:
    """Keep ever more memory, as much as the time that has passed says: a machine that is slow leaks no slower."""
    kept: list[bytes] = []
    pages = 0
    available = _available_bytes() // PAGE
    began = time.monotonic()
    while time.monotonic() < until:
        wanted = int(available * min((time.monotonic() - began) / LEAK_SECONDS, LEAK_SHARE))
        kept.append(os.urandom(PAGE) * (wanted - pages))
        pages = wanted
        time.sleep(LEAK_PAUSE)


def _available_bytes() -> int:
    """Return MemAvailable, as proc(5) tells it in KiB."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def undead(until: float) -> None:
    """Have children that ended, and not ask for their status."""
    for _ in range(ZOMBIES):
        if os.fork() == 0:
            os._exit(0)
    while time.monotonic() < until:
        time.sleep(1)


def writer(until: float) -> None:
    """Write to a disk and wait for it."""
    with tempfile.NamedTemporaryFile() as file:
        while time.monotonic() < until:
            file.seek(0)
            file.write(os.urandom(1 << 20))
            file.flush()
            os.fsync(file.fileno())
            time.sleep(0.2)


def mayfly(until: float) -> None:
    """Start processes that live for a moment."""
    while time.monotonic() < until:
        child = os.fork()
        if child == 0:
            time.sleep(1.5)
            os._exit(0)
        time.sleep(0.3)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


KINDS: Final[Mapping[str, Callable[[float], None]]] = {
    work.__name__: work for work in (busy, leaky, undead, writer, mayfly)
}


def main() -> int:
    """Become a load."""
    parser = argparse.ArgumentParser(prog="python -m grafana.checks.load", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    kind = parser.parse_args().kind
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    Path("/proc/self/comm").write_text(kind, encoding="ascii")
    KINDS[kind](time.monotonic() + SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
