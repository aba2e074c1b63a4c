"""`python -m dev.screenshots`: takes the README's pictures of the live page, of real exporters on this machine.

Every host of the fleet is an exporter of its own here, so all show this machine, each at moments of its own; some
small loads run beside them. In `unshare --pid --fork --mount-proc` the process table holds this stack alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser

from dev.browser import chromium
from dev.fleet import running_fleet
from dev.mariadb import Mariadb
from dev.waiting import wait_for

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"
HOSTS: Final = ("db-1", "db-2", "cache-1", "queue-1", "web-1", "web-2", "build-1", "backup-1")
LOADS: Final = (
    "while True:\n until = time.monotonic() + 0.25\n while time.monotonic() < until: sum(range(9999))\n time.sleep(1)",
    "while True:\n hashlib.sha256(os.urandom(1 << 24)).digest()\n time.sleep(7)",
    "held = []\nwhile True:\n held = [] if len(held) > 60 else [*held, bytearray(8 << 20)]\n time.sleep(3)",
    "while True:\n subprocess.run(['find', '/usr/share', '-name', '*.py'], stdout=-3)\n time.sleep(40)",
)
WAIT_MS: Final = 120_000.0
LINE: Final = 200
"""Characters of a line of some points."""
SHOTS: Final = (
    ("fleet", "", 1280, 390, "light"),
    ("fleet-dark", "", 1280, 390, "dark"),
    ("host", "#/host/web-1", 1280, 900, "light"),
    ("host-dark", "#/host/web-1", 1280, 900, "dark"),
    ("phone", "#/host/web-1", 390, 844, "light"),
    ("fleet-phone", "", 390, 844, "dark"),
)


def take(browser: Browser, url: str, folder: Path) -> None:
    """Take every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, place, width, height, theme in SHOTS:
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if theme == "dark" else "light"
        )
        page = context.new_page()
        page.goto(f"{url}/{place}")
        page.get_by_text("Live", exact=True).wait_for()
        if place:
            page.locator("td.cpu:not([data-zero])").first.wait_for(timeout=WAIT_MS)
            page.locator("figure.chart").nth(2).wait_for(timeout=WAIT_MS)
        else:
            page.locator(".tile").nth(len(HOSTS) - 1).wait_for(timeout=WAIT_MS)
            # A line of some length in every tile: what the backfills bring.
            # Asked from outside: the page's policy lets nobody evaluate text in it.
            lines = "[...document.querySelectorAll('.spark-line')].map((line) => line.getAttribute('d').length)"
            wait_for(lambda: min(page.evaluate(lines)) > LINE, "every tile has its line", WAIT_MS / 1_000)  # noqa: B023
        page.wait_for_timeout(6_000)  # for the last of the backfills, and rates of two samples
        page.screenshot(path=folder / f"{name}.png")
        context.close()


def main() -> int:
    """Run the fleet for so long, then take the pictures."""
    parser = argparse.ArgumentParser(prog="python -m dev.screenshots", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of history before the pictures")
    parser.add_argument("--folder", type=Path, default=IMAGES)
    parser.add_argument("--hold", action="store_true", help="go on until Ctrl-C")
    given = parser.parse_args()
    with ExitStack() as stack:
        for number, load in enumerate(LOADS, 1):
            name = f"open('/proc/self/comm', 'w').write('worker-{number}')"
            code = f"import hashlib, os, subprocess, time\n{name}\n{load}"
            process = subprocess.Popen([sys.executable, "-c", code])
            stack.callback(process.wait)
            stack.callback(process.terminate)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latido-screenshots-")))
        server = Mariadb(folder / "mariadb", options=("--innodb-flush-log-at-trx-commit=2",))
        server.start()
        stack.callback(server.stop)
        bridge = stack.enter_context(running_fleet(server.create_database("latido"), HOSTS, folder, "2s")).bridge
        print(f"{bridge.url}/", flush=True)
        time.sleep(60 * given.minutes)
        with chromium() as browser:
            take(browser, bridge.url, given.folder)
        if given.hold:
            sys.stdin.read()
    return 0


if __name__ == "__main__":
    sys.exit(main())
