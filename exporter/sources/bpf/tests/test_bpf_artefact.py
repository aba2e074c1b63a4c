"""The committed artefact belongs to its source."""

from __future__ import annotations

import os
import shutil

import pytest

from exporter.sources.bpf import build
from exporter.sources.bpf.skeleton import ARTEFACT, Skeleton, pack, unpack


@pytest.fixture
def committed() -> Skeleton:
    return unpack(ARTEFACT.read_bytes())


def test_artefact_was_built_from_these_sources(committed: Skeleton) -> None:
    """If this fails: `make -C exporter/sources/bpf`, and commit latido.skeleton."""
    assert build.sources() == committed.head.built_from


def test_building_anew_gives_the_same_program(committed: Skeleton) -> None:
    """With the compiler that made it; another may choose other instructions, and then the hashes above must do."""
    tools = ("clang", "llvm-strip", "bpftool", "gcc")
    missing = [tool for tool in tools if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; the sources' hashes were compared")
    if build.tools() != committed.head.built_by:
        pytest.skip(f"built by {committed.head.built_by}, installed is {build.tools()}; hashes were compared")
    assert build.same_program(committed, build.build())


def test_changed_program_is_told_apart(committed: Skeleton) -> None:
    changed = Skeleton(
        head=committed.head, data=committed.data, instructions=committed.instructions[:-8] + b"\x95" + bytes(7)
    )
    assert build.same_program(committed, unpack(pack(committed)))
    assert not build.same_program(committed, changed) or changed == committed
    assert not build.same_program(committed, Skeleton(committed.head, committed.data + b"\0", committed.instructions))


def test_artefact_names_no_folder_of_the_machine_that_built_it() -> None:
    content = ARTEFACT.read_bytes()
    assert [folder for folder in (b"/home/", b"/root/", b"/tmp/", b"/work/", b"/usr/") if folder in content] == []


@pytest.mark.parametrize("content", [b"", b"{}\n", b"no JSON\n"])
def test_what_is_no_artefact_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="expected the head of a skeleton"):
        unpack(content)


def test_artefact_that_was_cut_off_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \d+ bytes after the head, found \d+"):
        unpack(ARTEFACT.read_bytes()[:-1])
