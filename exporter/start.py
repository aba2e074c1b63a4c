"""The door of `latido exporter`: loads the program without what a library would bring along and nobody here uses.

aiohttp makes its client's TLS contexts when it is imported, with every certificate authority of the system: 1.7 MiB of
each exporter's memory. Push makes a context of its own where it needs one (exporter/push/tls.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final

_AUTHORITIES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks instead of its own default, if the environment says so (SSL_CTX_set_default_verify_paths(3))."""


@contextmanager
def _without_authorities(environ: MutableMapping[str, str]) -> Iterator[None]:
    """Let TLS contexts that are made meanwhile trust nobody."""
    before = {name: environ.get(name) for name in _AUTHORITIES}
    environ.update(dict.fromkeys(_AUTHORITIES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del environ[name]
            else:
                environ[name] = value


with _without_authorities(os.environ):
    from exporter.program import main

__all__ = ["main"]
