"""`python -m bridge_ws.describe > bridge_ws/asyncapi.yaml`: the protocol as an AsyncAPI 3 document.

The schemas come from the types that encode and decode the frames, so the document cannot say anything else; a test
holds the committed file to this.
"""

from __future__ import annotations

import sys
from typing import Final, cast

import msgspec
import yaml

from bridge_ws import protocol
from bridge_ws.protocol import BEARER, CLIENT_MESSAGES, FRAMES, SUBPROTOCOL, Close
from ingest.contract.wire import CpuSample, ProcesosSample, RamSample

Node = dict[str, object]

_SCHEMAS: Final = "#/components/schemas/"
_SAMPLES: Final = (RamSample, CpuSample, ProcesosSample)
_BY_WEBSOCKET: Final = (
    # RFC 6455, section 7.4.1; sent by the WebSocket library itself.
    (1002, "frames that break RFC 6455"),
    (1009, f"a message of more than {protocol.MAX_MESSAGE_BYTES} bytes"),
)

DESCRIPTION: Final = f"""\
JSON text frames, one object each, told apart by `type`.

A client gets `hello`, then a `snapshot` of the newest of each host and feed, then every `sample`. It is subscribed to
all feeds and hosts unless the query (`?feeds=ram,cpu&hosts=a,b`) narrows that; `subscribe` and `unsubscribe` change
it, and `subscribe` sends a `snapshot` of what it names.

Samples of one host, stream and feed ascend by `seq`, and each is sent once; one that was stored after a newer one was
sent has `late: true`. The table of processes is the last `snapshot` (or `sample` with `keyframe: true`), then each
later `sample` in turn: put `processes` in, take `exited` out. A late `sample` is not put in; where it changes the
table, a `snapshot` follows.

A client that reads too slowly gets `gap` and a `snapshot` in place of the samples that it was not sent.

A client that comes back goes on by `?resume=TOKEN`, the newest token that `hello` or `resume` gave it, at any replica:
it gets what was stored since. A bridge looks back five minutes; after longer there is a `gap` of everything. Samples
of up to 15 seconds before the token may come again: `host`, `feed`, `stream` and `seq` tell which are known.

Where the bridge wants a token, it comes as a subprotocol `{BEARER}TOKEN` beside `{SUBPROTOCOL}`, or as the first
message, `authenticate`. A browser's page must be of the bridge's own origin or of one that `--web.origins` names.

Fields may be added; a client leaves out those that it does not know. None is renamed or changes meaning within a
version.

Handshakes are refused with 400 (the query), 401 (the token), 403 (the origin), 429 (too many clients of one
address) and 503 (too many clients).

Close codes:
"""


def document() -> Node:
    """Return the AsyncAPI document."""
    _, schemas = msgspec.json.schema_components(
        (*FRAMES, *CLIENT_MESSAGES, *_SAMPLES), ref_template=_SCHEMAS + "{name}"
    )
    for name in ("Snapshot", "Sample"):
        properties = cast(dict[str, Node], schemas[name]["properties"])
        properties["sample"] = {"anyOf": [{"$ref": _SCHEMAS + cls.__name__} for cls in _SAMPLES]}
    messages = {_tag(cls): cls.__name__ for cls in (*FRAMES, *CLIENT_MESSAGES)}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Latido bridge",
            "version": str(protocol.VERSION),
            "description": DESCRIPTION + "".join(f"- {code}: {reason}\n" for code, reason in _close_codes()),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:10113", "protocol": "ws"}},
        "channels": {
            "feed": {
                "address": "/ws",
                "messages": {tag: {"$ref": f"#/components/messages/{tag}"} for tag in messages},
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "query": {
                            "type": "object",
                            "properties": {
                                "feeds": {"type": "string", "description": "ram, cpu, procesos, parted by commas"},
                                "hosts": {"type": "string", "description": "names of hosts, parted by commas"},
                                "resume": {
                                    "type": "string",
                                    "description": "the newest token of an earlier connection",
                                },
                            },
                        },
                    }
                },
            }
        },
        "operations": {
            "receiveFrames": _operation("send", FRAMES, "What the bridge sends."),
            "sendMessages": _operation("receive", CLIENT_MESSAGES, "What a client may send."),
        },
        "components": {
            "messages": {
                tag: {
                    "name": tag,
                    "summary": str(schemas[name].get("description", "")).partition("\n")[0],
                    "payload": {"$ref": _SCHEMAS + name},
                }
                for tag, name in messages.items()
            },
            "schemas": schemas,
        },
    }


def text() -> str:
    """Return the document as YAML, the same each time."""
    return yaml.dump(_plain(document()), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that people can read them."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represent_text)


def _close_codes() -> list[tuple[int, str]]:
    return sorted([*((close.code, close.reason) for close in Close), *_BY_WEBSOCKET])


def _operation(action: str, types: tuple[type[msgspec.Struct], ...], summary: str) -> Node:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/feed"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/feed/messages/{_tag(cls)}"} for cls in types],
    }


def _tag(cls: type[msgspec.Struct]) -> str:
    return str(cls.__struct_config__.tag)


def _plain(node: object) -> object:
    # Enumerations and shared lists as JSON has them: YAML would write Python's types and anchors.
    return msgspec.json.decode(msgspec.json.encode(node))


if __name__ == "__main__":
    sys.stdout.write(text())
