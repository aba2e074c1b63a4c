"""An HTTP server that speaks the ingest contract and keeps what arrives in memory: the other end of a recording."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import msgspec

from ingest.contract import body, encoding, limits
from ingest.contract.problems import Problem, ProblemType
from ingest.contract.wire import PUSH_TYPES, Accepted, Feed, Push
from latido.settings import Address, SettingsError

READ_SECONDS: Final = 20.0
"""For a body to arrive; then the connection is closed."""
MOST_BYTES: Final = 256 << 20
"""Of JSON that is kept: beyond it a push is answered 429, which costs its sender nothing."""


class Kept:
    """The pushes that have arrived so far, in their order."""

    def __init__(self) -> None:
        self._pushes: list[Push] = []
        self._bytes = 0
        self._changed = threading.Condition()

    def add(self, push: Push, size: int) -> None:
        """Keep a push. Raises Problem (OVERLOADED) where there is no room."""
        with self._changed:
            if self._bytes + size > MOST_BYTES:
                raise Problem(ProblemType.OVERLOADED, "the recording is full", retry_after=30)
            self._pushes.append(push)
            self._bytes += size
            self._changed.notify_all()

    def samples(self, feed: Feed) -> int:
        """Return how many samples of a feed have arrived."""
        with self._changed:
            return sum(len(push.samples) for push in self._pushes if isinstance(push, PUSH_TYPES[feed]))

    def wait(self, seconds: float) -> None:
        """Return once a push arrives, or after so many seconds."""
        with self._changed:
            self._changed.wait(seconds)

    def streams(self) -> set[str]:
        """Return the streams that have pushed."""
        with self._changed:
            return {push.stream for push in self._pushes}

    def pushes(self) -> list[Push]:
        """Return all of them."""
        with self._changed:
            return list(self._pushes)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = READ_SECONDS
    kept: Kept

    def do_POST(self) -> None:
        """Take a push, answered as the contract says."""
        try:
            accepted = self._take()
        except Problem as problem:
            # The rest of a refused body would look like the next request.
            self.close_connection = True
            self._answer(problem.type.status, msgspec.json.encode(problem.document()), problem.headers())
        else:
            answer = msgspec.json.encode(Accepted(accepted, 0))
            self._answer(HTTPStatus.CREATED, answer, {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        """Say that it is healthy."""
        if self.path == "/api/health":
            self._answer(HTTPStatus.OK, b'{"status":"ok"}', {"Content-Type": "application/json"})
        else:
            problem = Problem(ProblemType.NOT_FOUND, "this only records pushes")
            self._answer(problem.type.status, msgspec.json.encode(problem.document()), problem.headers())

    def _take(self) -> int:
        try:
            feed = Feed(self.path.removeprefix("/api/"))
        except ValueError:
            raise Problem(ProblemType.NOT_FOUND, "expected /api/ram, /api/cpu or /api/procesos") from None
        body.check_headers(self.headers.get("Content-Type"), self.headers.get("Content-Encoding"))
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > limits.MAX_COMPRESSED_BYTES:
            raise Problem(ProblemType.TOO_LARGE, f"expected a Content-Length up to {limits.MAX_COMPRESSED_BYTES}")
        text = encoding.inflate(self.rfile.read(int(length)), self.headers.get("Content-Encoding"))
        try:
            push = msgspec.json.decode(text, type=PUSH_TYPES[feed])
        except msgspec.ValidationError as error:
            raise Problem(ProblemType.INVALID, str(error)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Problem(ProblemType.MALFORMED_JSON, str(error)) from None
        self.kept.add(push, len(text))
        return len(push.samples)

    def _answer(self, status: int, answer: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's word for it
        """Say nothing of each request."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Say nothing where a sender went away; a defect is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(_request, _client_address)  # type: ignore[arg-type] # socketserver's own private type


@contextmanager
def listening(address: Address) -> Iterator[tuple[Kept, int]]:
    """Serve until the block ends; yield what is kept, and the port. Raises SettingsError if the address is taken."""
    kept = Kept()
    handler = type("Handler", (_Handler,), {"kept": kept})
    try:
        server = _Server((address.host, address.port), handler)
    except OSError as error:
        raise SettingsError(
            f"{address} cannot be used: {error.strerror}; choose another with --web.listen-address"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield kept, server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
