"""`latency`: from the kernel's read on a host to a painted frame in a real browser.

Exporters of three hosts push every second to an API over a private MariaDB; a bridge follows it, and Debian's Chromium
shows its page. A sample's time is when its exporter began to read the kernel (`sampled_at`, whole milliseconds of this
machine's clock); a tile has it when the page has drawn the frame that follows the change of the document. All
programs, the database and the browser share the machine. Each run is a page of its own; percentiles are of its samples.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from loadtest.benchmarks.measure import LEAST_RUNS, Ratio, Result, installed
from loadtest.benchmarks.programs import UnavailableError

HOSTS: Final = ("web-1", "web-2", "web-3")
BAR_MS: Final = 500.0
WAIT_MS: Final = 120_000.0
WATCH: Final = """() => {
  window.seen = [];
  const known = new Map();
  const look = () => {
    for (const tile of document.querySelectorAll("a.tile")) {
      const at = Number(tile.dataset.sampledAt);
      if (known.get(tile.dataset.host) === at) continue;
      if (known.has(tile.dataset.host)) {
        // A task behind the next frame: by then it is painted.
        requestAnimationFrame(() => setTimeout(() => {
          window.seen.push(performance.timeOrigin + performance.now() - at);
        }));
      }
      known.set(tile.dataset.host, at);
    }
  };
  look();
  new MutationObserver(look).observe(document.body, { subtree: true, attributes: true, childList: true });
}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--seconds", type=float, default=20.0, help="of each run")
    parser.add_argument(
        "--runs", type=int, default=LEAST_RUNS, help=f"pages, one after another (at least {LEAST_RUNS})"
    )


def run(given: argparse.Namespace) -> Result:
    """Measure. Raises UnavailableError where the browser or the programs cannot be had."""
    if given.runs < LEAST_RUNS:
        raise ValueError(f"at least {LEAST_RUNS} runs are needed, got {given.runs}")
    try:
        # Not in the wheel: it measures a checkout.
        from dev.browser import chromium  # noqa: PLC0415
        from dev.fleet import running_fleet  # noqa: PLC0415
        from dev.mariadb import Mariadb  # noqa: PLC0415
    except ImportError as error:
        raise UnavailableError(f"{error}; this benchmark runs in a checkout") from None
    runs: list[list[float]] = []
    with tempfile.TemporaryDirectory(prefix="latido-latency-") as name:
        folder = Path(name)
        server = Mariadb(folder / "mariadb")
        server.start()
        try:
            with running_fleet(server.create_database("latido"), HOSTS, folder) as fleet, chromium() as browser:
                for _ in range(given.runs):
                    page = browser.new_page()
                    page.goto(f"{fleet.bridge.url}/")
                    page.locator("a.tile").nth(len(HOSTS) - 1).wait_for(timeout=WAIT_MS)
                    page.evaluate(WATCH)
                    page.wait_for_timeout(1_000 * given.seconds)
                    runs.append(sorted(cast(list[float], page.evaluate("window.seen"))))
                    page.close()
        finally:
            server.stop()
    least = len(HOSTS) * given.seconds / 2
    if any(len(one) < least for one in runs):
        raise UnavailableError(f"{[len(one) for one in runs]} samples came in the runs, expected at least {least:.0f}")
    p99 = [percentile(one, 0.99) for one in runs]
    p50 = [percentile(one, 0.5) for one in runs]
    found = Ratio(statistics.median(p99), min(p99), max(p99), len(p99), BAR_MS, "smaller")
    ratios = {"latency.kernel_to_browser_p99_ms": found}
    longest = max(one[-1] for one in runs)
    sys.stdout.write(f"kernel to browser: p50 {statistics.median(p50):.0f} ms, longest {longest:.0f} ms\n")
    raw = {"p50_ms": p50, "p99_ms": p99, "milliseconds": runs}
    return Result("latency", ratios, raw, installed("playwright", "websockets"))


def percentile(ascending: Sequence[float], part: float) -> float:
    """Return the value below which this part lies."""
    return ascending[min(len(ascending) - 1, int(len(ascending) * part))]
