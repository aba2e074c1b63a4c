"""What the bridge answers to plain HTTP: the live page and its parts, health, metrics. Responses only, no sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from importlib.resources import files
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from websockets.datastructures import Headers
from websockets.http11 import Response

PAGE_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
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


class Pages:
    """Answers by path. `not_ready` returns why the bridge is not ready, or None."""

    def __init__(self, registry: CollectorRegistry, not_ready: Callable[[], str | None]) -> None:
        self._registry = registry
        self._not_ready = not_ready
        folder = files("bridge_ws") / "web"
        self._files = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in PAGE_FILES.items()}

    def answer(self, method: str, path: str, accept: str) -> Response:
        """Return the answer to a request that is not for the WebSocket. `accept` is the header of that name."""
        if method not in {"GET", "HEAD"}:
            return response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n", extra=[("Allow", "GET, HEAD")])
        answer = self._get(path, accept)
        if method == "HEAD":
            answer.body = b""  # Content-Length stays that of GET (RFC 9110, section 9.3.2)
        return answer

    def _get(self, path: str, accept: str) -> Response:
        if path in self._files:
            body, kind = self._files[path]
            return response(HTTPStatus.OK, body, kind, extra=[("Cache-Control", "no-cache")])
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
