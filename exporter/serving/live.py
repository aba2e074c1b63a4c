"""The web configuration as it is now: read again when one of its files has changed, kept when the new one is broken.

Every handshake and every request asks for it, as the toolkit's do; unchanged files cost a `stat` each. What protects
may not vanish by an edit: a file that is being written is empty for a moment, and must not open the door.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from exporter.serving import config, tls
from exporter.serving.config import WebConfig, WebConfigError
from latido import logs

log = logs.get(__name__)

MAX_FILE: Final = 1 << 20
_SETTLED_SECONDS: Final = 1.0
"""A file changed more lately than this may change again within the same tick of its timestamp (4 ms, some 1 s)."""

Marks = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Protection:
    """What is in force: the file's values, and the TLS context made of its certificates (None: plain HTTP)."""

    config: WebConfig = field(default_factory=WebConfig)
    context: ssl.SSLContext | None = None


Current = Callable[[], Protection]
"""Returns what is in force now."""


def unprotected() -> Protection:
    """Return what is in force without a file: plain HTTP for whoever can connect."""
    return Protection()


class LiveConfig:
    """`--web.config.file`. Making one reads it and raises WebConfigError; from then on errors are logged, once each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: tuple[Path, ...] = (path,)
        self._marks: Marks = ()
        self._settled = False
        self._complaint: str | None = None
        self._protection = self._read()

    def current(self) -> Protection:
        """Return what is in force now."""
        marks = _marks(self._files)
        if marks != self._marks or not self._settled:
            self._refresh(marks)
        return self._protection

    def _refresh(self, marks: Marks) -> None:
        changed = marks != self._marks
        try:
            new = self._read()
            _refuse_less(self._protection.config, new.config, self._path)
        except WebConfigError as error:
            if str(error) != self._complaint:
                log.error("new web configuration refused; the one before stays in force", reason=str(error))
            self._complaint = str(error)
        else:
            if changed:
                log.info("web configuration read again", file=str(self._path))
            self._complaint = None
            self._protection = new

    def _read(self) -> Protection:
        # Marked before it is read: what changes meanwhile is seen next time. And marked even if it turns out
        # unusable: it is not read again until it changes.
        self._mark(self._path)
        parsed = config.parse(_text(self._path), self._path)
        if parsed.tls is None:
            return Protection(parsed)
        self._mark(self._path, *parsed.tls.files)
        return Protection(parsed, tls.make_context(parsed.tls))

    def _mark(self, first: Path, *others: Path) -> None:
        self._files = (first, *others)
        # The first was marked before, when it was read.
        self._marks = (*self._marks[:1], *_marks(others)) if others else _marks(self._files)
        self._settled = _settled(self._marks)


def _refuse_less(old: WebConfig, new: WebConfig, path: Path) -> None:
    if (old.tls is None) != (new.tls is None):
        raise WebConfigError(f"{path}: TLS is not switched on or off while the exporter runs; restart it")
    if old.authenticates and not new.authenticates:
        raise WebConfigError(f"{path}: authentication is not taken away while the exporter runs; restart it")


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise WebConfigError(f"--web.config.file: {path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_FILE:
        raise WebConfigError(f"--web.config.file: {path} is larger than {MAX_FILE} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise WebConfigError(f"--web.config.file: {path} is not text in UTF-8") from None


def _marks(files: Sequence[Path]) -> Marks:
    return tuple(_mark(file) for file in files)


def _mark(file: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - follows links, as a mounted Kubernetes secret is swapped by one
    except OSError:
        return None  # gone: itself a change, and reading it says why
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _settled(marks: Marks) -> bool:
    newest = max((mark[-1] for mark in marks if mark), default=0)
    return newest / 1e9 + _SETTLED_SECONDS < time.time()
