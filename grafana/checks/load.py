"""Work that shows on a dashboard: `python -m grafana.checks.load KIND` becomes a busy, leaking, … process by that name.

Each ends by itself after five minutes, and with whoever started it.
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

SECONDS: Final = 300
LEAK_BYTES: Final = 1 << 20
LEAK_PAUSE: Final = 0.2
"""5 MiB a second: in five minutes 1.5 GiB."""
ZOMBIES: Final = 30
_PR_SET_PDEATHSIG: Final = 1


def busy(until: float) -> None:
    """Use one CPU, behind everyone else."""
    os.nice(15)
    while time.monotonic() < until:
        sum(range(100_000))


def leaky(until: float) -> None:
    """Keep ever more memory."""
    kept: list[bytes] = []
    while time.monotonic() < until:
        kept.append(os.urandom(4096) * (LEAK_BYTES // 4096))
        time.sleep(LEAK_PAUSE)


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
