"""Debian's Chromium as tests and screenshots drive it: headless, by Playwright, which never downloads one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, sync_playwright

ARGUMENTS: Final = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DEFAULT: Final = "/usr/bin/chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a browser. Raises FileNotFoundError where none is installed."""
    path = shutil.which("chromium") or DEFAULT
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()
