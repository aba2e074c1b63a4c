"""Numbers for what is alike: those of a sort anew, whatever was there before."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter import distinct
from exporter.distinct import Commands, renumber

COMMANDS = st.one_of(st.sampled_from([b"", b"a", b"b", b"sleep", b"kworker/0:1"]), st.binary(max_size=15))
COLUMNS = st.lists(st.lists(COMMANDS, max_size=40), max_size=6)


@settings(deadline=None)
@given(COLUMNS)
def test_each_row_has_its_own_command_whatever_was_there_before(columns: list[list[bytes]]) -> None:
    numbered = Commands()
    for values in columns:
        column = np.array(values, dtype="S16")
        commands, codes = numbered.number(column)
        assert column.tolist() == [commands[code] for code in codes.tolist()]
        assert len(set(commands)) == len(commands)


def test_commands_without_end_do_not_grow_memory() -> None:
    """Whoever starts processes under ever new names fills no table."""
    numbered = Commands()
    for start in range(0, 10 * distinct.KEPT, 1000):
        column = np.array([b"%d" % number for number in range(start, start + 1000)], dtype="S16")
        commands, codes = numbered.number(column)
        assert column.tolist() == [commands[code] for code in codes.tolist()]
        assert len(commands) <= distinct.KEPT


def test_commands_whose_hashes_are_equal_stay_apart() -> None:
    """Whoever chooses names so that they collide gets them told apart all the same."""
    multiplier = int(distinct._MULTIPLIER)
    one = (b"a" * 8, b"b" * 8)
    first = int.from_bytes(one[0], "little")
    other = first + 1
    # (first * m ^ x) == (other * m ^ y): y is what makes it so.
    second = int.from_bytes(one[1], "little") ^ (first * multiplier ^ other * multiplier) % 2**64
    column = np.array([b"".join(one), other.to_bytes(8, "little") + second.to_bytes(8, "little")], dtype="S16")
    hashes = distinct._hashes(column.view(np.uint64).reshape(-1, 2))
    assert hashes[0] == hashes[1]
    numbered = Commands()
    for _ in range(3):
        commands, codes = numbered.number(column)
        assert column.tolist() == [commands[code] for code in codes.tolist()]


@settings(deadline=None)
@given(st.lists(st.integers(0, 20_000), max_size=60), st.sampled_from([20_001, 1 << 40]))
def test_codes_are_numbered_as_by_unique(values: list[int], bound: int) -> None:
    codes = np.array(values, dtype=np.intp)
    rows, numbers = renumber(codes, bound)
    occurring, expected = np.unique(codes, return_inverse=True)
    assert numbers.tolist() == expected.tolist()
    assert codes[rows].tolist() == occurring.tolist()
