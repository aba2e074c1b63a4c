"""The built program as it ships: `latido.skeleton`, made from latido.bpf.c by `build.py`.

A line of JSON (`Head`), then two blobs that `bpftool gen skeleton -L` made: what the loader program works on, and its
instructions. The loader is itself a BPF program: the kernel runs it, and it makes maps and programs and relocates them
to this kernel's own structures. So loading needs no ELF reader, no libbpf and no compiler.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

HERE: Final = Path(__file__).parent
ARTEFACT: Final = HERE / "latido.skeleton"


class Map(msgspec.Struct, frozen=True):
    """A map in the order in which the loader takes them; `initial` is the content of one that holds variables."""

    name: str
    initial: bytes | None


class Head(msgspec.Struct, frozen=True):
    """What the loader program expects, and what it was built from."""

    maps: tuple[Map, ...]
    programs: tuple[str, ...]
    data_bytes: int
    instruction_bytes: int
    built_from: Mapping[str, str]
    """SHA-256 of each source, by file name."""
    built_by: Mapping[str, str]
    """Version of each tool."""


class Skeleton(msgspec.Struct, frozen=True):
    """A whole artefact."""

    head: Head
    data: bytes
    instructions: bytes


def pack(skeleton: Skeleton) -> bytes:
    """Return the bytes of an artefact."""
    return msgspec.json.encode(skeleton.head) + b"\n" + skeleton.data + skeleton.instructions


def unpack(content: bytes) -> Skeleton:
    """Take an artefact apart. Raises ValueError where it is not one, or was cut off."""
    line, _, blobs = content.partition(b"\n")
    try:
        head = msgspec.json.decode(line, type=Head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"expected the head of a skeleton: {error}") from None
    expected = head.data_bytes + head.instruction_bytes
    if len(blobs) != expected:
        raise ValueError(f"expected {expected} bytes after the head, found {len(blobs)}")
    return Skeleton(head=head, data=blobs[: head.data_bytes], instructions=blobs[head.data_bytes :])
