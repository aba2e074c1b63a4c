"""The OpenAPI 3.1 document of the ingest APIs, made from the wire types, limits and problems.

`python -m ingest.contract.openapi` prints it; `openapi.json` beside it is what both APIs serve, and a test holds the
two together. Struct docstrings become descriptions, so they are written for readers of the document too.
"""

from __future__ import annotations

import json
import sys
from typing import Final

import msgspec

from ingest.contract import limits, wire
from ingest.contract.problems import CONTENT_TYPE, ProblemType
from ingest.contract.wire import Feed

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]

_PUSH_PROBLEMS: Final = (
    ProblemType.MALFORMED_JSON,
    ProblemType.MALFORMED_ENCODING,
    ProblemType.UNAUTHORIZED,
    ProblemType.FORBIDDEN,
    ProblemType.REQUEST_TIMEOUT,
    ProblemType.TOO_LARGE,
    ProblemType.UNSUPPORTED_MEDIA_TYPE,
    ProblemType.UNSUPPORTED_ENCODING,
    ProblemType.INVALID,
    ProblemType.OUTSIDE_PARTITIONS,
    ProblemType.OVERLOADED,
    ProblemType.INTERNAL,
    ProblemType.UNAVAILABLE,
)

_SUMMARIES: Final = {
    Feed.RAM: "Store memory samples of a host",
    Feed.CPU: "Store CPU samples of a host",
    Feed.PROCESOS: "Store process tables of a host",
}

_DESCRIPTION: Final = f"""\
Two programs serve this contract, `latido ingest raw` and `latido ingest orm`: the same answers to the same requests.

A push is stored wholly or not at all, and answered 201 after the commit. The identity of a sample is
(`host`, `stream`, feed, `seq`): sent again, to either API, it is counted under `duplicates` and stored once.

Bodies are JSON in UTF-8, as they are, gzip or zstd: at most {limits.MAX_COMPRESSED_BYTES} bytes as sent and
{limits.MAX_INFLATED_BYTES} inflated. Types are strict: no number as a string, no fraction or exponent for an integer,
no NaN. Fields that an API does not know are ignored and counted, so that a newer sender works with an older API.
Of a key that stands twice the last value counts. At most {limits.MAX_VALUES} values, unknown fields included.

Every other answer is a problem document (RFC 9457); `pointer` (RFC 6901) names the first field at fault, in the order
of the document, where a member that is missing stands behind those that are there.
429 and 503 carry `Retry-After`: the same push may be sent again."""


def document(version: str = "1") -> dict[str, Json]:
    """Return the document. `version` is the contract's, not the program's."""
    _, components = msgspec.json.schema_components(
        [*wire.PUSH_TYPES.values(), wire.Accepted], ref_template="#/components/schemas/{name}"
    )
    schemas: dict[str, Json] = {name: _portable(schema) for name, schema in components.items()}
    schemas["Problem"] = _problem_schema()
    schemas["Health"] = {
        "title": "Health",
        "type": "object",
        "properties": {
            "status": {"const": "ok"},
            "api": {"enum": ["raw", "orm"]},
            "version": {"type": "string"},
            "database": {"const": "ok"},
        },
        "required": ["status", "api", "version", "database"],
    }
    paths: dict[str, Json] = {f"/api/{feed.value}": {"post": _push(feed)} for feed in Feed}
    paths["/api/health"] = {
        "get": {
            "operationId": "health",
            "summary": "Say whether pushes can be stored",
            "security": [],
            "responses": {
                "200": _answer("The database answers and has its tables", "Health"),
                "503": {"$ref": "#/components/responses/Problem503"},
            },
        }
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Latido ingest",
            "version": version,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"bearer": []}, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Asked for where the API has a token file; a token may be bound to hosts.",
                }
            },
            "responses": {f"Problem{status}": _problem_answer(status) for status in _statuses()},
            "schemas": schemas,
        },
    }


def render() -> str:
    """Return the text of `openapi.json`."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _push(feed: Feed) -> Json:
    committed = _answer("Committed", "Accepted")
    committed["links"] = {
        "again": {
            "operationId": f"push_{feed.value}",
            "requestBody": "$request.body",
            "description": "The same push sent again stores nothing: its samples are counted under `duplicates`",
        },
        "health": {"operationId": "health", "description": "What stored a push says that it can"},
    }
    responses: dict[str, Json] = {"201": committed}
    responses |= {str(status): {"$ref": f"#/components/responses/Problem{status}"} for status in _statuses()}
    return {
        "operationId": f"push_{feed.value}",
        "summary": _SUMMARIES[feed],
        "parameters": [
            {
                "name": "Content-Encoding",
                "in": "header",
                "description": "In upper or lower case; empty is as if it were not there",
                "schema": {"enum": ["identity", "gzip", "zstd", ""], "default": "identity"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": f"#/components/schemas/{wire.PUSH_TYPES[feed].__name__}"}}
            },
        },
        "responses": responses,
    }


def _statuses() -> list[int]:
    return sorted({problem.status for problem in _PUSH_PROBLEMS})


def _answer(description: str, schema: str) -> dict[str, Json]:
    return {
        "description": description,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _problem_answer(status: int) -> Json:
    problems = [problem for problem in _PUSH_PROBLEMS if problem.status == status]
    answer: dict[str, Json] = {
        "description": "; ".join(problem.title for problem in problems),
        "content": {
            CONTENT_TYPE: {
                "schema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Problem"},
                        {
                            "properties": {
                                "type": {"enum": [problem.uri for problem in problems]},
                                "status": {"const": status},
                            }
                        },
                    ]
                }
            }
        },
    }
    if status in {ProblemType.OVERLOADED.status, ProblemType.UNAVAILABLE.status}:
        answer["headers"] = {
            "Retry-After": {
                "description": "Seconds until the push may be sent again",
                "required": True,
                "schema": {"type": "integer", "minimum": 0},
            }
        }
    if status == ProblemType.UNAUTHORIZED.status:
        answer["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return answer


def _problem_schema() -> Json:
    return {
        "title": "Problem",
        "description": "RFC 9457.",
        "type": "object",
        "properties": {
            "type": {"enum": [problem.uri for problem in ProblemType]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "For people; its words are not part of the contract"},
            "pointer": {"type": "string", "description": "JSON pointer (RFC 6901) to the field at fault"},
        },
        "required": ["type", "title", "status", "detail"],
    }


def _portable(schema: Json) -> Json:
    """Return a schema whose patterns mean in ECMA 262, JSON Schema's dialect, what they mean in Python."""
    if isinstance(schema, dict):
        return {
            name: value.replace(r"\Z", "$") if name == "pattern" and isinstance(value, str) else _portable(value)
            for name, value in schema.items()
        }
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    return schema


if __name__ == "__main__":
    sys.stdout.write(render())
