"""Problem types (RFC 9457) of the ingest APIs: both answer with the same status, `type` and pointer for one fault."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

CONTENT_TYPE: Final = "application/problem+json"


class ProblemType(Enum):
    """Each problem: its name in `type`, its status, its title."""

    MALFORMED_JSON = ("malformed-json", 400, "The body is not JSON")
    MALFORMED_ENCODING = ("malformed-encoding", 400, "The body does not match its Content-Encoding")
    UNAUTHORIZED = ("unauthorized", 401, "A valid bearer token is required")
    FORBIDDEN = ("forbidden", 403, "The token is not for this host")
    NOT_FOUND = ("not-found", 404, "There is nothing at this path")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "The path does not take this method")
    REQUEST_TIMEOUT = ("request-timeout", 408, "The body did not arrive in time")
    TOO_LARGE = ("too-large", 413, "The body is larger than the limit")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported-media-type", 415, "The body must be application/json")
    UNSUPPORTED_ENCODING = ("unsupported-encoding", 415, "The Content-Encoding must be gzip, zstd or identity")
    INVALID = ("invalid", 422, "A field does not match the contract")
    OUTSIDE_PARTITIONS = ("outside-partitions", 422, "The time lies outside the partitions that exist")
    OVERLOADED = ("overloaded", 429, "The API has more requests than it can take")
    INTERNAL = ("internal", 500, "The API has a defect")
    UNAVAILABLE = ("unavailable", 503, "The database does not answer")

    @property
    def uri(self) -> str:
        """The `type` member."""
        return f"urn:latido:problem:{self.value[0]}"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value[1]

    @property
    def title(self) -> str:
        """The `title` member."""
        return self.value[2]


@dataclass(eq=False)  # neither frozen nor compared: Python writes a traceback into an exception and hashes it
class Problem(Exception):  # noqa: N818 - RFC 9457's own word
    """A request that is answered with a problem document.

    `pointer` is a JSON pointer (RFC 6901) into the body, where one field is at fault ("" is the whole body).
    `retry_after` is in seconds. `allow` names the methods of a 405.
    """

    type: ProblemType
    detail: str
    pointer: str | None = None
    retry_after: int | None = None
    allow: str | None = None

    def document(self) -> dict[str, str | int]:
        """Return the body of the answer."""
        body: dict[str, str | int] = {
            "type": self.type.uri,
            "title": self.type.title,
            "status": self.type.status,
            "detail": self.detail,
        }
        if self.pointer is not None:
            body["pointer"] = self.pointer
        return body

    def headers(self) -> dict[str, str]:
        """Return the headers that go with the status."""
        headers = {"Content-Type": CONTENT_TYPE}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.allow is not None:
            headers["Allow"] = self.allow
        if self.type is ProblemType.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="latido"'
        return headers


def pointer(*parts: str | int) -> str:
    """Return the JSON pointer of a path (RFC 6901 section 3: `~` is ~0, `/` is ~1)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
