"""Builds `latido.skeleton`: clang compiles, bpftool makes a light skeleton, and this takes what Python needs of it.

For developers: `make -C exporter/sources/bpf`. Nothing here runs where the exporter does. `--check FILE` builds anew
and compares (exit status 1: it differs).
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from exporter.sources.bpf.skeleton import ARTEFACT, HERE, Head, Map, Skeleton, pack, unpack

RECORD_HEADER: Final = HERE.parents[2] / "kmod" / "latido_record.h"
SOURCES: Final = (HERE / "latido.bpf.c", HERE / "account.h", HERE / "kernel.h", RECORD_HEADER)
"""What the artefact is built from."""

_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})|\\(0)|\\\n")


def main(argv: Sequence[str]) -> int:
    """Build, then write the artefact or compare with the one that is there; return the exit status."""
    parser = argparse.ArgumentParser(prog="build.py", description="Build latido.skeleton from latido.bpf.c.")
    parser.add_argument("--check", type=Path, metavar="FILE", help="compare with FILE instead of writing")
    check: Path | None = parser.parse_args(argv).check
    try:
        built = build()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"build.py: {error}", file=sys.stderr)  # noqa: T201 - a command for developers
        return 1
    if check is None:
        ARTEFACT.write_bytes(pack(built))
        return 0
    return 0 if same_program(unpack(check.read_bytes()), built) else 1


def same_program(one: Skeleton, other: Skeleton) -> bool:
    """Return whether two artefacts hold the same program, whoever built them."""
    return (one.head.maps, one.head.programs, one.data, one.instructions) == (
        other.head.maps,
        other.head.programs,
        other.data,
        other.instructions,
    )


def build() -> Skeleton:
    """Compile. Raises OSError or CalledProcessError where a tool is missing or refuses."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "latido.o"
        # Relative names, from here: no path of the machine gets into the artefact.
        _run(
            "clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-fdebug-compilation-dir=.",
            f"-I/usr/include/{_run('gcc', '-print-multiarch').decode().strip()}",
            "-c", "latido.bpf.c", "-o", str(target),
        )  # fmt: skip
        _run("llvm-strip", "-g", str(target))
        header = _run("bpftool", "gen", "skeleton", "-L", str(target), "name", "latido")
    return _take(header)


def sources() -> dict[str, str]:
    """Return the SHA-256 of each source by file name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SOURCES}


def tools() -> dict[str, str]:
    """Return the version of each tool."""
    return {
        name: _run(name, option).decode().splitlines()[0]
        for name, option in (("clang", "--version"), ("bpftool", "version"))
    }


def _run(*command: str) -> bytes:
    return subprocess.run(command, cwd=HERE, check=True, stdout=subprocess.PIPE).stdout  # noqa: S603 - fixed commands


def _take(header: bytes) -> Skeleton:
    """Take names and blobs out of the C header that bpftool writes."""
    maps = re.findall(rb"struct bpf_map_desc (\w+);", header)
    programs = re.findall(rb"struct bpf_prog_desc (\w+);", header)
    initial = {
        name: _string(text)
        for name, text in re.findall(rb'skel->(\w+) = skel_prep_map_data\(\(void \*\)"(.*?)",', header, re.DOTALL)
    }
    data, instructions = (
        _string(text) for text in re.findall(rb'opts\.(?:data|insns) = \(void \*\)"(.*?)";', header, re.DOTALL)
    )
    return Skeleton(
        head=Head(
            maps=tuple(Map(name.decode(), initial.get(name)) for name in maps),
            programs=tuple(name.decode() for name in programs),
            data_bytes=len(data),
            instruction_bytes=len(instructions),
            built_from=sources(),
            built_by=tools(),
        ),
        data=data,
        instructions=instructions,
    )


def _string(text: bytes) -> bytes:
    """Return what a C string of escapes holds; its last NUL is not written."""

    def one(match: re.Match[bytes]) -> bytes:
        if match[1] is not None:
            return bytes([int(match[1], 16)])
        return b"\0" if match[2] is not None else b""

    return _ESCAPE.sub(one, text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
