"""`--web.max-bytes`: what pushes in flight hold of bodies is bounded, while they inflate too."""

from __future__ import annotations

import gzip
from contextlib import suppress

import pytest
import zstandard

from ingest.contract.encoding import inflate
from ingest.contract.problems import Problem, ProblemType
from ingest.serving import RETRY_AFTER_BUSY, Room

PACKED = {"gzip": gzip.compress(bytes(32 << 20)), "zstd": zstandard.ZstdCompressor().compress(bytes(32 << 20))}
PIECE = 8 << 20
"""What 256 bytes of zstd inflate to at most."""


def test_a_push_gets_what_is_left_and_another_is_told_to_come_again() -> None:
    room = Room(100)
    with room.place() as first, room.place() as second:
        first(60)
        second(40)
        with pytest.raises(Problem) as refused:
            second(1)
    assert (ProblemType.OVERLOADED, RETRY_AFTER_BUSY) == (refused.value.type, refused.value.retry_after)


def test_of_pushes_that_have_no_room_beside_one_another_the_oldest_gets_through() -> None:
    room = Room(100)
    with room.place() as first, room.place() as second:
        first(60)
        second(40)
        first(40)
        with pytest.raises(Problem):
            first(1)  # that is more than any may hold


def test_a_push_that_is_over_leaves_its_room_to_others() -> None:
    room = Room(100)
    with suppress(Problem), room.place() as take:
        take(100)
        take(1)
    with room.place() as take:
        take(100)


@pytest.mark.parametrize("encoding", PACKED)
def test_a_body_stops_inflating_where_the_room_ends(encoding: str) -> None:
    told: list[int] = []
    with Room(2 << 20).place() as take:

        def note(size: int) -> None:
            told.append(size)
            take(size)

        with pytest.raises(Problem) as refused:
            inflate(PACKED[encoding], encoding, note)
    assert refused.value.type is ProblemType.OVERLOADED
    assert sum(told[:-1]) <= 2 << 20  # the piece that found no room was the last
    assert max(told) <= PIECE
