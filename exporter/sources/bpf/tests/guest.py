"""Runs in a guest of kmod/tests/run-guest: the tests of the BPF source, on that kernel, with cgroup v2 alone.

Gives what the tests need (/sys, cgroup2, no modules of ours), and prints a line for each as run-guest reads them: PASS,
FAIL, NOTE. A test that is skipped has not run: that is a failure too. The artefact's own tests need a compiler, not a
kernel, and are left out. Exit status 1: one failed.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

HERE: Final = Path(__file__).parent
BUSYBOX: Final = "/bin/busybox"
MODULES: Final = ("latido_procesos", "latido_cpu", "latido_ram")
PATHS: Final = ("test_bpf_cgroups.py", "test_bpf_exits.py", "test_bpf_source.py")


class Report:
    """Prints what became of each test, at once: the guest may end at any time."""

    def __init__(self) -> None:
        self.ran = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say it: after the call, or where it came to none."""
        name = report.nodeid.rpartition("/")[2].encode("ascii", "replace").decode()
        if report.passed and report.when == "call":
            self.ran += 1
            say(f"PASS {name} ({report.duration:.1f} s)")
        elif not report.passed:
            for line in report.longreprtext.splitlines()[-60:]:
                say(f"  {line}")
            say(f"FAIL {name}{' was skipped' if report.skipped else ''}")


def say(line: str) -> None:
    """Print a line."""
    sys.__stdout__.write(f"{line}\n")  # type: ignore[union-attr] # a program that has a standard output
    sys.__stdout__.flush()  # type: ignore[union-attr] # as above


def main() -> int:
    """Run all."""
    subprocess.run([BUSYBOX, "mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    subprocess.run([BUSYBOX, "mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
    for module in MODULES:
        if Path("/sys/module", module).exists():
            subprocess.run([BUSYBOX, "rmmod", module], check=True)
    report = Report()
    folder = tempfile.mkdtemp()
    options = ["-p", "no:cacheprovider", "-p", "no:terminal", "-o", "addopts=", f"--basetemp={folder}/tests"]
    status = pytest.main([*options, *(str(HERE / path) for path in PATHS)], plugins=[report])
    say(f"NOTE {platform.release()}: {report.ran} tests of the BPF source ran")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
