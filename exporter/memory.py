"""Keeps the exporter's heap small: it shares a machine with what it watches.

glibc gives each thread an arena of its own and keeps freed memory for later; a scrape's short-lived rows then stay
resident for good. mallopt(3) turns both off, for some page faults a scrape. Measured at 10,000 processes by `procfs`:
7 MiB less.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Final

# malloc.h
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


def keep_small() -> None:
    """Set malloc's bounds, and take what was imported out of the garbage collector's rounds."""
    libc = ctypes.CDLL(None)
    # Another C library than glibc has none, and needs none: musl returns memory by itself.
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, 256 << 10)
        mallopt(_M_MMAP_THRESHOLD, 128 << 10)
    gc.collect()
    gc.freeze()
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(0)  # what starting up needed and nothing will
