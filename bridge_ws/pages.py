"""What the bridge answers to plain HTTP: the live page and its parts, health, metrics. Responses only, no sockets."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from websockets.datastructures import Headers
from websockets.http11 import Response

KINDS: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".md": "text/plain; charset=utf-8",  # shown, not saved
}
"""Content types of the built page's files, by how their names end."""
CHANGING: Final = "no-cache"
LASTING: Final = "public, max-age=31536000, immutable"
"""Of `assets/`: their names carry a hash of what they hold (RFC 8246)."""
SECURITY: Final = (
    # 'self' in connect-src covers ws: of the same origin (CSP level 3, section 6.7.2.8).
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
            " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True)
class _File:
    body: bytes
    gzipped: bytes
    kind: str
    cache: str

    def answer(self, *, gzipped: bool) -> Response:
        extra = [("Cache-Control", self.cache), ("Vary", "Accept-Encoding")]
        if gzipped:
            extra.append(("Content-Encoding", "gzip"))
        return response(HTTPStatus.OK, self.gzipped if gzipped else self.body, self.kind, extra=extra)


def _read(folder: Traversable, prefix: str = "/") -> Iterator[tuple[str, _File]]:
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _read(entry, f"{path}/")
        elif (kind := KINDS.get(PurePosixPath(entry.name).suffix)) is not None:
            body = entry.read_bytes()
            yield path, _File(body, gzip.compress(body, mtime=0), kind, LASTING if prefix == "/assets/" else CHANGING)


class Pages:
    """Answers by path. `not_ready` returns why the bridge is not ready, or None."""

    def __init__(self, registry: CollectorRegistry, not_ready: Callable[[], str | None]) -> None:
        self._registry = registry
        self._not_ready = not_ready
        self._files = dict(_read(files("bridge_ws") / "web" / "dist"))
        self._files["/"] = self._files.pop("/index.html")

    def answer(self, method: str, path: str, accept: str, accept_encoding: str = "") -> Response:
        """Return the answer to a request that is not for the WebSocket. The last two are the headers of those names."""
        if method not in {"GET", "HEAD"}:
            return response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n", extra=[("Allow", "GET, HEAD")])
        answer = self._get(path, accept, accept_encoding)
        if method == "HEAD":
            answer.body = b""  # Content-Length stays that of GET (RFC 9110, section 9.3.2)
        return answer

    def _get(self, path: str, accept: str, accept_encoding: str) -> Response:
        if (file := self._files.get(path)) is not None:
            return file.answer(gzipped=_takes_gzip(accept_encoding))
        if path == "/metrics":
            encode, kind = choose_encoder(accept)
            return response(HTTPStatus.OK, encode(self._registry), kind)
        if path == "/-/healthy":
            return response(HTTPStatus.OK, "healthy\n")
        if path == "/-/ready":
            reason = self._not_ready()
            if reason is not None:
                return response(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {reason}\n")
            return response(HTTPStatus.OK, "ready\n")
        return response(HTTPStatus.NOT_FOUND, "nothing here; the feed is at /ws, the page at /\n")


def _takes_gzip(accept_encoding: str) -> bool:
    """Return whether gzip is named and not refused by `q=0` (RFC 9110, section 12.5.3)."""
    for item in accept_encoding.split(","):
        name, _, weight = item.partition(";")
        if name.strip().lower() == "gzip":
            return weight.strip().lower().rstrip("0") not in {"q=", "q=0."}
    return False


def response(
    status: HTTPStatus, body: str | bytes, content_type: str = TEXT, *, extra: list[tuple[str, str]] | None = None
) -> Response:
    """Return a whole HTTP response, after which the connection closes."""
    content = body.encode() if isinstance(body, str) else body
    headers = Headers(
        [
            ("Date", formatdate(usegmt=True)),
            ("Connection", "close"),
            ("Content-Length", str(len(content))),
            ("Content-Type", content_type),
            *SECURITY,
            *(extra or []),
        ]
    )
    return Response(status.value, status.phrase, headers, content)
