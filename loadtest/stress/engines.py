"""What makes the load: stress-ng where it is installed, else `loadtest.stress.workload` in plain Python. Pure."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from msgspec import Struct

KINDS: Final = ("cpu", "memory", "fork", "io")
ENGINES: Final = ("auto", "stress-ng", "python")
PREFIX: Final = "stress"
"""How the names of all processes of either engine begin, and so the groups that the exporter makes of them."""
IO_BYTES: Final = 32 << 20
"""That a worker writes, over and over."""


class Amount(Struct, frozen=True):
    """How much: whole seconds, workers, and bytes of memory that each of them holds."""

    seconds: int
    workers: int
    memory_bytes: int


def choose(engine: str) -> str:
    """Return the engine that `auto` is here."""
    if engine != "auto":
        return engine
    return "stress-ng" if shutil.which("stress-ng") else "python"


def command(engine: str, kind: str, amount: Amount, folder: Path) -> list[str]:
    """Return the command that loads this machine, and ends by itself. I/O goes into `folder`."""
    if engine == "python":
        flags = [kind, str(amount.seconds), str(amount.workers), str(amount.memory_bytes), str(folder)]
        return [sys.executable, "-m", "loadtest.stress.workload", *flags]
    workers = str(amount.workers)
    load = {
        "cpu": ["--cpu", workers],
        "memory": ["--vm", workers, "--vm-bytes", str(amount.memory_bytes), "--vm-keep"],
        "fork": ["--fork", workers],
        "io": ["--hdd", workers, "--hdd-bytes", str(IO_BYTES), "--hdd-opts", "fsync"],
    }[kind]
    return ["stress-ng", *load, "--timeout", f"{amount.seconds}s", "--temp-path", str(folder), "--quiet"]
