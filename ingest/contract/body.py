"""What stands before validation, the same in every API: media type, and JSON (RFC 8259) without its loose ends.

Stricter than Python's `json`: no NaN or Infinity, no lone surrogates, no byte order mark, UTF-8 alone, and a bound on
depth and on the number of values. Of a key that stands twice the last value counts, at the first one's place.
"""

from __future__ import annotations

import functools
import json
import re
from typing import Final, NoReturn

from ingest.contract import limits
from ingest.contract.encoding import ENCODINGS
from ingest.contract.problems import Problem, ProblemType

MAX_DEPTH: Final = 32
"""Arrays and objects within one another. The contract's own need 5; the rest is for fields that we do not know."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_UTF_8: Final = frozenset({"utf-8", "utf8"})
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_STRING: Final = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_BLOCK: Final = re.compile(rb'(?:[^"]++|"(?:[^"\\]|\\.)*+"|"){1,10000}+', re.DOTALL)
"""A part of a text that cuts no string: to be taken one by one, in little memory."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@functools.lru_cache(maxsize=64)  # a fleet's senders say the same few things; what is refused is not kept
def check_headers(content_type: str | None, content_encoding: str | None) -> None:
    """Raise Problem for a body that is not said to be JSON in UTF-8, or is in an encoding that no API takes."""
    media_type, *parameters = (content_type or "").lower().split(";")
    charsets = [value for name, _, value in (item.partition("=") for item in parameters) if name.strip() == "charset"]
    if media_type.strip() != "application/json" or any(value.strip(' \t"') not in _UTF_8 for value in charsets):
        raise Problem(ProblemType.UNSUPPORTED_MEDIA_TYPE, f"got Content-Type {content_type!r}")
    if (content_encoding or "identity").strip().lower() not in ENCODINGS:
        raise Problem(ProblemType.UNSUPPORTED_ENCODING, f"got Content-Encoding {content_encoding!r}")


def parse(body: bytes) -> Json:
    """Return the value of a JSON text. Raises Problem (MALFORMED_JSON).

    The depth is bounded by Python's own limit alone (some hundreds): call `check_depth` where that can matter.
    """
    if _values(body) > limits.MAX_VALUES and _values_outside_strings(body) > limits.MAX_VALUES:
        raise _malformed(f"more than {limits.MAX_VALUES} values")
    try:
        text = body.decode("utf-8")
        value: Json = json.loads(text, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _malformed(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise _malformed(f"more than {MAX_DEPTH} arrays and objects within one another") from None
    except ValueError as error:  # NaN, Infinity, or an integer of more than 4,300 digits (sys.int_info)
        raise _malformed(str(error)) from None
    if _SURROGATE_ESCAPE.search(body):  # rare: the walk is paid only by texts with escapes that could be lone
        _check_surrogates(value)
    return value


def _values(body: bytes) -> int:
    """Return a number not below that of a text's values: what strings hold is counted too."""
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _values_outside_strings(body: bytes) -> int:
    return sum(_values(_STRING.sub(b"", block[0])) for block in _BLOCK.finditer(body))


def check_depth(value: Json) -> None:
    """Raise Problem (MALFORMED_JSON) if arrays and objects stand more than `MAX_DEPTH` within one another."""
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        level = [child for parent in level for child in _children(parent) if isinstance(child, (list, dict))]
        if not level:
            return
    raise _malformed(f"more than {MAX_DEPTH} arrays and objects within one another")


def _children(value: Json) -> list[Json]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _check_surrogates(value: Json) -> None:
    stack: list[Json] = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if _SURROGATE.search(item):
                raise _malformed("a surrogate (\\ud800 to \\udfff) stands without its other half")
        else:
            stack.extend(_children(item))
            if isinstance(item, dict):
                stack.extend(item)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _malformed(detail: str) -> Problem:
    return Problem(ProblemType.MALFORMED_JSON, detail)
