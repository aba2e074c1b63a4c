"""Boots the kernel modules' own test guest (kmod/tests/run-guest) and takes the figures that its program prints.

Here is no second harness: kernels, modules and the guest are fetched, built and booted by kmod/tests, in a folder of
their own. The guest is QEMU without KVM, so figures from it are compared with one another only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest.benchmarks.programs import UnavailableError

REPOSITORY: Final = Path(__file__).parents[2]
HARNESS: Final = REPOSITORY / "kmod" / "tests"
KERNELS: Final = REPOSITORY / ".run" / "kernels"
FOLDER: Final = REPOSITORY / ".run" / "guest"
SERIES: Final = ("6.1", "6.12")
"""What Debian 12 offers."""
MARK: Final = "FIGURES "
"""Begins the line of a report that holds a program's figures, as one JSON object."""
_NEEDED: Final = ("qemu-system-x86_64", "busybox", "cpio", "gcc", "make")


@dataclass(frozen=True)
class Report:
    """What a guest said: its kernel's release, the program's figures (JSON), and how long it all took."""

    release: str
    figures: dict[str, object]
    seconds: float


def boot(series: str, program: str | None = None, crowd: int = 5000, limit: int = 900) -> Report:
    """Boot a kernel with the modules and `crowd` sleeping processes, run a program there, and return its figures.

    `program` is a path in the repository; without one it is the exporter's own test. A failed check of the guest is
    printed; the figures are returned all the same. Raises UnavailableError.
    """
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        raise UnavailableError(f"a guest needs {', '.join(missing)}")
    started = time.monotonic()
    home = FOLDER / (Path(program).stem if program else "exporter")  # of its own: two benchmarks may run at once
    kernel, modules, check, out = KERNELS / series, home / series, home / "check", home / f"{series}.out"
    home.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)
    _done([HARNESS / "fetch-kernels", KERNELS, series])
    _done([HARNESS / "build", kernel / "build", modules])
    _done(["gcc", "-static", "-O2", "-pthread", "-o", check, *sorted(HARNESS.glob("*.c"))])
    environ = {
        **os.environ,
        "LATIDO_PYTHON": sys.executable,
        "LATIDO_CROWD": str(crowd),
        "LATIDO_GUEST_SECONDS": str(limit),
    }
    if program is not None:
        environ["LATIDO_GUEST_PROGRAM"] = program
    command: list[str | Path] = [HARNESS / "run-guest", kernel, modules, check, "exporter", out]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    if done.returncode:
        print(f"guest {series}: {done.stdout}{done.stderr}", file=sys.stderr)  # noqa: T201 - to the person who runs it
    release = (kernel / "release").read_text(encoding="utf-8").strip()
    report = out / "report"
    return Report(release, figures_in(report.read_text(errors="replace"), release), time.monotonic() - started)


def figures_in(report: str, release: str) -> dict[str, object]:
    """Return the figures in a guest's report. Raises UnavailableError if it holds none, with its last lines."""
    for line in report.splitlines():
        if line.startswith(MARK):
            figures = json.loads(line.removeprefix(MARK))
            if isinstance(figures, dict):
                return figures
    tail = "\n".join(report.splitlines()[-15:])
    raise UnavailableError(f"the guest of {release} gave no figures; its last lines:\n{tail}")


def _done(command: Sequence[str | Path]) -> None:
    """Run a step. Raises UnavailableError if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own list
    if done.returncode:
        raise UnavailableError(f"{command[0]}: {done.stderr.strip() or done.stdout.strip()}")
