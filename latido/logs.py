"""Structured logs that every program shares: one event a line, as JSON or for the console, on standard error.

A line carries an event in words and the fields needed to act on it: `log.warning("push refused", url=..., status=401)`.
Field names follow the settings' and the wire's names, so that a log can be joined with both.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final, Literal, TextIO

Format = Literal["console", "json"]

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final[tuple[Format, ...]] = ("console", "json")

Field = str | int | float | bool | None


class Log:
    """A named logger whose calls take fields by keyword."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def is_enabled(self, level: int) -> bool:
        """Whether a line of this level (`logging.DEBUG` and its like) would be written."""
        return self._logger.isEnabledFor(level)

    def debug(self, event: str, **fields: Field) -> None:
        """Log what only someone hunting a fault wants."""
        self._emit(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Field) -> None:
        """Log a step that an operator expects to see once."""
        self._emit(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Field) -> None:
        """Log what goes on working, though not as it should."""
        self._emit(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Field) -> None:
        """Log what does not work."""
        self._emit(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Field) -> None:
        """Log a defect of ours, with its trace. Never used for a user's mistake."""
        self._logger.log(logging.ERROR, event, extra={"fields": fields}, exc_info=True)

    def _emit(self, level: int, event: str, fields: dict[str, Field]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, extra={"fields": fields})


def get(name: str) -> Log:
    """Return the logger of a module (`__name__`)."""
    return Log(name)


def setup(level: str, form: Format, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (standard error unless told otherwise), replacing earlier set-ups."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Libraries speak at INFO of their own start and every request; our own lines say both with fields.
    for name in ("aiohttp.access", "uvicorn", "websockets", "alembic", "asyncio", "aiosqlite"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    server = logging.getLogger("aiohttp.server")
    server.filters[:] = [_quiet_bad_requests]


def _quiet_bad_requests(record: logging.LogRecord) -> bool:
    """Make a line for debugging of what aiohttp says as an error, with a trace, for every request that is no HTTP.

    Whoever reaches the port could fill the log with it, and the trace quotes what was sent: a token, say.
    """
    error = record.exc_info[1] if record.exc_info else None
    if error is None or type(error).__module__ != "aiohttp.http_exceptions":
        return True
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    record.msg, record.args = f"a request was refused: {type(error).__name__}", None
    record.exc_info = record.exc_text = None
    return logging.getLogger().isEnabledFor(logging.DEBUG)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC, milliseconds), `level`, `logger`, `event`, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        line: dict[str, Field] = {
            "time": _rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class ConsoleFormatter(logging.Formatter):
    """The same for a person: time, level, event, then `name=value`, values with blanks quoted as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        fields = "".join(f" {name}={_plain(value)}" for name, value in _fields(record).items())
        line = f"{_rfc3339(record.created)[11:23]} {record.levelname.lower():7} {_safe(record.getMessage())}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, Field]:
    fields = getattr(record, "fields", {})
    return fields if isinstance(fields, dict) else {}


def _rfc3339(seconds: float) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03d}Z"


def _plain(value: Field) -> str:
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set(' ="'):
        return value
    return json.dumps(value, ensure_ascii=True)


def _safe(text: str) -> str:
    # A process may be named by an escape sequence; it must not reach the terminal of whoever reads the log.
    return text if text.isprintable() else json.dumps(text, ensure_ascii=True)[1:-1]
