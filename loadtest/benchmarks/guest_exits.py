"""Runs in the guest of kmod/tests, for `exits`: the same storms as outside, by `kmod` and by `bpf`.

Prints FIGURES and JSON, and whether it came to its end: the figures are judged outside.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from loadtest.benchmarks.attribution import CGROUP_ROOT, measure
from loadtest.benchmarks.guest import MARK
from loadtest.benchmarks.measure import LEAST_RUNS

ROUNDS: Final = 12
"""Of each storm: the guest is ten times slower than its machine."""
INTERVAL: Final = 3.0
"""Seconds between scrapes; there are seven to scrape, and each takes the guest tenths of a second."""


def main() -> int:
    """Measure."""
    if "latido.run=exporter" not in Path("/proc/cmdline").read_text(encoding="ascii"):
        sys.stderr.write("this mounts file systems over the machine's own: it runs in the guest of kmod/tests alone\n")
        return 2
    # What was borrowed from outside shows the machine's own /sys; these are the guest's kernel's.
    for kind, folder in (("sysfs", Path("/sys")), ("cgroup2", CGROUP_ROOT)):
        subprocess.run(["/bin/mount", "-t", kind, kind, folder], check=True)  # noqa: S603 - as it stands
    rounds = measure(["kmod", "bpf"], ROUNDS, LEAST_RUNS, interval=INTERVAL)
    sys.stdout.write(f"{MARK}{json.dumps({'rounds': [asdict(one) for one in rounds]})}\n")
    sys.stdout.write("PASS storms came to their end\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
