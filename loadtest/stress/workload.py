"""The load in plain Python, for where there is no stress-ng: `python -m loadtest.stress.workload KIND SECONDS …`.

Each worker is a process of its own with a name of its own (`stress-py-cpu` and so on), which the exporter groups by. It
ends after its time; should its parent end first, it ends with it (prctl(2), PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loadtest.stress.engines import IO_BYTES, PREFIX

NAMES: Final = {"cpu": "cpu", "memory": "vm", "fork": "fork", "io": "hdd"}
"""By kind, as stress-ng names them; a name of a process has 15 bytes (proc_pid_comm(5))."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_CHUNK: Final = os.urandom(1 << 20)


def main(arguments: list[str]) -> int:
    """Load this machine; return the exit status: 1 if a worker failed."""
    kind, seconds, workers, memory, folder = arguments
    until = time.monotonic() + float(seconds)
    works: dict[str, Callable[[int], None]] = {
        "cpu": lambda _: burn(until),
        "memory": lambda _: hold(until, int(memory)),
        "fork": lambda _: storm(until),
        "io": lambda number: write(until, Path(folder) / f"stress-{os.getpid()}-{number}"),
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pids: list[int] = []
    try:
        for number in range(int(workers)):
            pids.append(_child(f"{PREFIX}-py-{NAMES[kind]}", works[kind], number))  # noqa: PERF401 - known if one fails
        failed = 0
        while pids:
            pid, status = os.wait()
            pids.remove(pid)
            failed |= status
        return 1 if failed else 0
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


def burn(until: float) -> None:
    """Use a CPU."""
    while time.monotonic() < until:
        sum(range(10_000))


def hold(until: float, size: int) -> None:
    """Hold memory, each page of it written to, and written to again and again."""
    with mmap.mmap(-1, size) as memory:
        while time.monotonic() < until:
            for offset in range(0, size, mmap.PAGESIZE):
                memory[offset] = (memory[offset] + 1) % 256
                if time.monotonic() >= until:
                    return


def storm(until: float) -> None:
    """Make processes that end at once, one after the other."""
    while time.monotonic() < until:
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


def write(until: float, path: Path) -> None:
    """Write to a disk and wait until it has it, over and over; the file goes away at once with its name."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    path.unlink()
    try:
        while time.monotonic() < until:
            for offset in range(0, IO_BYTES, len(_CHUNK)):
                os.pwrite(descriptor, _CHUNK, offset)
                os.fsync(descriptor)
                if time.monotonic() >= until:
                    return
    finally:
        os.close(descriptor)


def _child(name: str, work: Callable[[int], None], number: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _LIBC.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
        if os.getppid() == parent:  # else it ended before it could be followed
            work(number)
            status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
