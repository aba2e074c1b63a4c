"""Holds the binary format: to the C structures, to the JSON of the same moment, and against bytes of any kind."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from exporter.model import UNKNOWN, SourceError
from exporter.sources import record

FIXTURE = Path(__file__).parent / "fixtures" / "kmod"
"""What a guest with Linux 6.12 gave (kmod/tests/guest-init), the table and its JSON within a second."""

STRUCTURES = {
    "latido_record": record.RECORD_DTYPE,
    "latido_sum": record.SUM_DTYPE,
    "latido_header": record.HEADER_DTYPE,
    "latido_trailer": record.TRAILER_DTYPE,
    "latido_path": record.PATH_DTYPE,
}


def _table() -> record.Table:
    return record.parse_table(memoryview((FIXTURE / "latido_procesos.bin").read_bytes()), "table")


def test_layouts_equal_those_of_the_c_structures(tmp_path: Path, repository: Path) -> None:
    compiler = shutil.which("cc")
    assert compiler is not None, "a C compiler is missing: apt-get install gcc"
    lines = ["#include <stddef.h>", "#include <stdio.h>", "#include <linux/types.h>", '#include "latido_record.h"']
    lines.append("int main(void) {")
    for name, dtype in STRUCTURES.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for member in dtype.names or ():
            where = f"(((struct {name} *)0)->{member})"
            lines.append(f'printf("{name}.{member} %zu %zu\\n", offsetof(struct {name}, {member}), sizeof{where});')
    lines.append(
        f'printf("version %d unknown %lld rest %d\\n", LATIDO_VERSION, (long long)LATIDO_UNKNOWN, {"LATIDO_SUM_REST"});'
    )
    lines += ["return 0; }"]
    (tmp_path / "layout.c").write_text("\n".join(lines))
    program = tmp_path / "layout"
    subprocess.run([compiler, "-I", repository / "kmod", "-o", program, tmp_path / "layout.c"], check=True)
    shown = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()

    expected: list[str] = []
    for name, dtype in STRUCTURES.items():
        expected.append(f"{name} {dtype.itemsize}")
        for member, (kind, offset, *_) in (dtype.fields or {}).items():
            expected.append(f"{name}.{member} {offset} {kind.itemsize}")
    expected.append(f"version {record.VERSION} unknown {UNKNOWN} rest {record.REST}")
    assert shown == expected


def test_table_equals_the_json_of_the_same_moment() -> None:
    table = _table()
    paths = record.parse_paths(table.paths, "table")
    document = json.loads((FIXTURE / "latido_procesos").read_bytes())
    rows = {row[0]: dict(zip(document["fields"], row, strict=True)) for row in document["processes"]}
    compared = 0
    for process in table.records:
        row = rows.get(int(process["pid"]))
        if row is None or process["start_ns"] != row["start_ns"]:
            continue  # one of the two readers, `cat`
        compared += 1
        assert process["command"] == row["command"].encode("latin-1")
        assert process["state"] == row["state"].encode()
        assert paths[int(process["cgroup"])] == row["cgroup"]
        for name in ("ppid", "uid", "threads", "virtual_bytes", "swap_bytes", "read_bytes", "written_bytes"):
            assert process[name] == row[name], name
        assert process["user_ns"] <= row["user_ns"]
    assert compared >= len(rows) - 2


def test_pids_ascend_and_the_model_keeps_every_value() -> None:
    table = _table()
    paths = record.parse_paths(table.paths, "table")
    rows = record.as_processes(table.records, paths)
    assert (np.diff(rows["pid"]) > 0).all()
    assert (rows["start_ticks"] == table.records["start_ns"] // 10_000_000).all()
    for name in rows.dtype.names or ():
        if name != "start_ticks":
            assert (rows[name] == table.records[name]).all(), name


def test_cgroup_without_a_name_is_unknown() -> None:
    rows = record.as_processes(_table().records, {})
    assert set(rows["cgroup"].tolist()) == {UNKNOWN}


def test_long_names_and_bytes_that_are_no_text() -> None:
    data = b"".join(
        number.to_bytes(8, "little")
        + len(name).to_bytes(4, "little")
        + bytes(4)
        + name.ljust((len(name) + 7) // 8 * 8, b"\0")
        for number, name in ((7, b"/"), (8, b"/\xff\xfe"), (9, b"/" + b"x" * 480))
    )
    assert record.parse_paths(data, "table") == {7: "/", 8: "/��", 9: "/" + "x" * 480}


def test_a_table_that_was_cut_off_anywhere_is_refused() -> None:
    data = (FIXTURE / "latido_procesos.bin").read_bytes()
    for length in [*range(300), *range(300, len(data), 97)]:
        with pytest.raises(SourceError, match="table: expected"):
            record.parse_table(memoryview(data)[:length], "table")


@pytest.mark.parametrize(("offset", "what"), [(8, "version"), (12, "header"), (16, "record"), (20, "sum")])
def test_another_version_is_refused_by_name(offset: int, what: str) -> None:
    data = bytearray((FIXTURE / "latido_procesos.bin").read_bytes())
    data[offset] += 1
    with pytest.raises(SourceError, match=f"table: expected .*{what}.*, found"):
        record.parse_table(memoryview(data), "table")


@given(position=st.integers(0, 12_000), byte=st.integers(0, 255))
def test_any_changed_byte_is_parsed_or_refused(position: int, byte: int) -> None:
    data = bytearray((FIXTURE / "latido_procesos.bin").read_bytes())
    data[position % len(data)] = byte
    try:
        table = record.parse_table(memoryview(data), "table")
        record.as_processes(table.records, record.parse_paths(table.paths, "table"))
    except SourceError:
        return


@dataclass
class Kernel:
    """What the module does with exits, in the small: a ring, and sums of which the least recent is folded."""

    ring_size: int = 4
    sums_size: int = 3
    ring: list[NDArray[np.void]] = field(default_factory=list)
    sums: list[NDArray[np.void]] = field(default_factory=list)
    latest: dict[int, int] = field(default_factory=dict)
    newest: int = 0

    def __post_init__(self) -> None:
        rest = np.zeros(1, dtype=record.SUM_DTYPE)
        rest["flags"] = record.REST
        self.sums.append(rest)

    def exit(self, command: bytes, used: int) -> None:
        self.newest += 1
        one = np.zeros(1, dtype=record.RECORD_DTYPE)
        one["number"], one["command"], one["user_ns"], one["minor_faults"] = self.newest, command, used, 1
        self.ring = [*self.ring, one][-self.ring_size :]
        place = next((i for i, row in enumerate(self.sums) if i and row["command"][0] == command), None)
        if place is None:
            row = np.zeros(1, dtype=record.SUM_DTYPE)
            row["since"], row["command"] = self.newest, command
            if len(self.sums) < self.sums_size:
                self.sums.append(row)
                place = len(self.sums) - 1
            else:
                place = min(range(1, self.sums_size), key=lambda i: self.latest[i])
                for name in ("exits", *record.TOTALS):
                    self.sums[0][name] += self.sums[place][name]
                self.sums[place] = row
        self.sums[place]["exits"] += 1
        self.sums[place]["user_ns"] += used
        self.sums[place]["minor_faults"] += 1
        self.latest[place] = self.newest

    def read_sums(self) -> NDArray[np.void]:
        return np.concatenate(self.sums)


EXITS = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), st.integers(0, 10**12)), max_size=12)


@given(rounds=st.lists(EXITS, max_size=12))
def test_what_overflows_the_ring_is_missed_by_no_nanosecond(rounds: list[list[tuple[bytes, int]]]) -> None:
    """At each read, what was seen and what was missed are together what ended; a kind is told where it has room."""
    kernel = Kernel()
    before, last = kernel.read_sums(), 0
    for ended in rounds:
        for command, used in ended:
            kernel.exit(command, used)
        seen_rows = [row for row in kernel.ring if row["number"][0] > last]
        seen = np.concatenate(seen_rows) if seen_rows else np.zeros(0, dtype=record.RECORD_DTYPE)
        after = kernel.read_sums()
        lost = record.missed(before, after, seen)
        assert len(seen) + int(lost["exits"].sum()) == len(ended)
        assert int(seen["user_ns"].sum() + lost["user_ns"].sum()) == sum(used for _, used in ended)
        assert (lost["user_ns"] >= 0).all()
        assert (lost["exits"] == lost["minor_faults"]).all()
        for row in lost:
            if not row["flags"] & record.REST:
                of_kind = [used for command, used in ended if command == row["command"]]
                assert int(row["user_ns"]) <= sum(of_kind)
        before, last = after, kernel.newest
