"""The binary format of a process that the kernel module and the BPF program write (kmod/latido_record.h, kmod/ABI.md).

Pure: bytes in, arrays out. The dtypes below are the C structures field by field, and a test compares their layouts.
Numbers that a kernel cannot know are all ones there, which read as signed is `UNKNOWN`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.model import PROCESS_DTYPE, UNKNOWN, USER_HZ, Records, SourceError

VERSION: Final = 1
HEAD: Final = b"LATIDO\n\1"
TAIL: Final = b"latido\n\2"
REST: Final = 1
"""Flag of the sum that holds all that found no room among the others."""

NS_PER_TICK: Final = 1_000_000_000 // USER_HZ

RECORD_DTYPE: Final = np.dtype(
    [
        ("number", "<i8"),
        ("start_ns", "<i8"),
        ("end_ns", "<i8"),
        ("user_ns", "<i8"),
        ("system_ns", "<i8"),
        ("rss_bytes", "<i8"),
        ("virtual_bytes", "<i8"),
        ("swap_bytes", "<i8"),
        ("minor_faults", "<i8"),
        ("major_faults", "<i8"),
        ("read_bytes", "<i8"),
        ("written_bytes", "<i8"),
        ("voluntary_switches", "<i8"),
        ("involuntary_switches", "<i8"),
        ("cgroup", "<i8"),
        ("pid", "<i4"),
        ("ppid", "<i4"),
        ("uid", "<u4"),
        ("threads", "<i4"),
        ("command", "S16"),
        ("state", "S1"),
        ("reserved", "V7"),
    ]
)
"""struct latido_record: one process, alive or ended."""


def _offset(name: str) -> int:
    fields = RECORD_DTYPE.fields
    assert fields is not None  # noqa: S101 - for the type checker: it is a structure
    return fields[name][1]


SUM_DTYPE: Final = np.dtype(
    [
        ("since", "<i8"),
        ("exits", "<i8"),
        ("user_ns", "<i8"),
        ("system_ns", "<i8"),
        ("minor_faults", "<i8"),
        ("major_faults", "<i8"),
        ("read_bytes", "<i8"),
        ("written_bytes", "<i8"),
        ("voluntary_switches", "<i8"),
        ("involuntary_switches", "<i8"),
        ("cgroup", "<i8"),
        ("uid", "<u4"),
        ("flags", "<u4"),
        ("command", "S16"),
    ]
)
"""struct latido_sum: all exits of a command, user and cgroup since the module was loaded."""

HEADER_DTYPE: Final = np.dtype(
    [
        ("magic", "V8"),
        ("version", "<u4"),
        ("header_bytes", "<u4"),
        ("record_bytes", "<u4"),
        ("sum_bytes", "<u4"),
        ("now_ns", "<i8"),
        ("loaded_ns", "<i8"),
        ("newest_exit", "<i8"),
        ("oldest_exit", "<i8"),
        ("reserved", "<i8"),
    ]
)
"""struct latido_header: starts a table."""

TRAILER_DTYPE: Final = np.dtype(
    [
        ("magic", "V8"),
        ("records", "<u4"),
        ("sums", "<u4"),
        ("paths", "<u4"),
        ("trailer_bytes", "<u4"),
        ("paths_bytes", "<i8"),
        ("total_bytes", "<i8"),
    ]
)
"""struct latido_trailer: ends a table; without it the table was cut off."""

PATH_DTYPE: Final = np.dtype([("cgroup", "<i8"), ("length", "<u4"), ("reserved", "<u4")])
"""struct latido_path: names a cgroup; the path follows, padded to 8 bytes."""

TOTALS: Final = (
    "user_ns",
    "system_ns",
    "minor_faults",
    "major_faults",
    "read_bytes",
    "written_bytes",
    "voluntary_switches",
    "involuntary_switches",
)
"""Fields of a sum that add up."""

_SPACED_DTYPE: Final[np.dtype[np.void]] = np.dtype(
    {
        "names": list(PROCESS_DTYPE.names or ()),
        "formats": [PROCESS_DTYPE[name] for name in PROCESS_DTYPE.names or ()],
        "offsets": [_offset("start_ns" if name == "start_ticks" else name) for name in PROCESS_DTYPE.names or ()],
        "itemsize": RECORD_DTYPE.itemsize,
    }
)
"""The fields of the model's dtype where struct latido_record has them; the start's place holds ticks then."""

_COPIED: Final = tuple(name for name in PROCESS_DTYPE.names or () if name != "start_ticks")


@dataclass(frozen=True, slots=True)
class Table:
    """What one read of the table holds. The arrays look into the bytes that were parsed."""

    loaded_ns: int
    newest_exit: int
    oldest_exit: int
    records: NDArray[np.void]
    """Of RECORD_DTYPE."""
    sums: NDArray[np.void]
    """Of SUM_DTYPE."""
    paths: bytes
    """For `parse_paths`."""


def parse_table(data: memoryview, path: str) -> Table:
    """Parse a whole table. Raises SourceError that names `path` where it is of another version, or was cut off."""
    smallest = HEADER_DTYPE.itemsize + TRAILER_DTYPE.itemsize
    if len(data) < smallest:
        raise SourceError(f"{path}: expected at least {smallest} bytes, found {len(data)}")
    header = np.frombuffer(data, HEADER_DTYPE, count=1)[0]
    if header["magic"].tobytes() != HEAD:
        raise SourceError(f"{path}: expected a table that starts with {HEAD!r}, found {header['magic'].tobytes()!r}")
    _expect(path, "version", int(header["version"]), VERSION)
    _expect(path, "size of the header", int(header["header_bytes"]), HEADER_DTYPE.itemsize)
    _expect(path, "size of a record", int(header["record_bytes"]), RECORD_DTYPE.itemsize)
    _expect(path, "size of a sum", int(header["sum_bytes"]), SUM_DTYPE.itemsize)
    trailer = np.frombuffer(data, TRAILER_DTYPE, count=1, offset=len(data) - TRAILER_DTYPE.itemsize)[0]
    if trailer["magic"].tobytes() != TAIL:
        raise SourceError(f"{path}: expected a table that ends with {TAIL!r}: it was cut off")
    records, sums, paths = int(trailer["records"]), int(trailer["sums"]), int(trailer["paths_bytes"])
    records_end = HEADER_DTYPE.itemsize + records * RECORD_DTYPE.itemsize
    sums_end = records_end + sums * SUM_DTYPE.itemsize
    _expect(path, "length", len(data), sums_end + paths + TRAILER_DTYPE.itemsize)
    return Table(
        loaded_ns=int(header["loaded_ns"]),
        newest_exit=int(header["newest_exit"]),
        oldest_exit=int(header["oldest_exit"]),
        records=np.frombuffer(data, RECORD_DTYPE, count=records, offset=HEADER_DTYPE.itemsize),
        sums=np.frombuffer(data, SUM_DTYPE, count=sums, offset=records_end),
        paths=bytes(data[sums_end : sums_end + paths]),
    )


def parse_records(data: bytes, path: str) -> NDArray[np.void]:
    """Parse records alone, as the file of exits holds them. Raises SourceError that names `path`."""
    if len(data) % RECORD_DTYPE.itemsize:
        raise SourceError(f"{path}: expected records of {RECORD_DTYPE.itemsize} bytes, found {len(data)} bytes")
    return np.frombuffer(data, RECORD_DTYPE)


def parse_paths(data: bytes, path: str) -> dict[int, str]:
    """Parse the names of cgroups. Bytes that are not UTF-8 become U+FFFD. Raises SourceError that names `path`."""
    names: dict[int, str] = {}
    at = 0
    while at < len(data):
        start = at + PATH_DTYPE.itemsize
        if start > len(data):
            raise SourceError(f"{path}: the names of cgroups end within one")
        cgroup = int.from_bytes(data[at : at + 8], "little", signed=True)
        length = int.from_bytes(data[at + 8 : at + 12], "little")
        at = start + (length + 7) // 8 * 8
        if at > len(data):
            raise SourceError(f"{path}: expected a name of {length} bytes, found {len(data) - start}")
        names[cgroup] = data[start : start + length].decode("utf-8", "replace")
    return names


def as_processes(records: NDArray[np.void], cgroups: Mapping[int, str]) -> Records:
    """Return records (of RECORD_DTYPE) in the model's dtype. A cgroup that is not in `cgroups` becomes UNKNOWN."""
    rows = np.empty(len(records), dtype=PROCESS_DTYPE)
    rows["start_ticks"] = records["start_ns"] // NS_PER_TICK
    for name in _COPIED:
        rows[name] = records[name]
    return _without_nameless(rows, cgroups)


def become_processes(records: NDArray[np.void], cgroups: Mapping[int, str]) -> Records:
    """Return the same with the fields of the model's dtype, where they are: `records` are no records any more."""
    records["start_ns"] //= NS_PER_TICK
    return _without_nameless(records.view(_SPACED_DTYPE), cgroups)


def sums_as_processes(sums: NDArray[np.void], cgroups: Mapping[int, str]) -> Records:
    """Return sums (of SUM_DTYPE) as rows of the model's dtype, with pid 0 and in state X."""
    return as_processes(sums_as_records(sums), cgroups)


def sums_as_records(sums: NDArray[np.void]) -> NDArray[np.void]:
    """Return sums (of SUM_DTYPE) as records (of RECORD_DTYPE), with pid 0 and in state X."""
    rows = np.zeros(len(sums), dtype=RECORD_DTYPE)
    for name in (*TOTALS, "cgroup", "uid", "command"):
        rows[name] = sums[name]
    rows["state"] = b"X"
    return rows


def missed(before: NDArray[np.void], after: NDArray[np.void], seen: NDArray[np.void]) -> NDArray[np.void]:
    """Return the sums (of SUM_DTYPE) of exits between two reads that are not among the records `seen` between them.

    The sums of all exits only grow, so that is their growth less what was seen. A kind that found no room was folded
    into the rest: what it had at `before` is taken off the rest's growth, and its records count there.
    """
    growth = {_key(row): row.copy() for row in after}
    earlier = {_key(row): row for row in before}
    rest = next((key for key in growth if key[0] == REST), None)
    for key, row in earlier.items():
        target = growth.get(key)
        # Another of the same kind may have begun since: told apart by its first exit, which the rest has none of.
        if target is None or (key != rest and target["since"] != row["since"]):
            target = growth[rest] if rest is not None else None
        if target is not None:
            _subtract(target, row, int(row["exits"]))
    for row in seen:
        target = growth.get((0, row["command"], int(row["uid"]), int(row["cgroup"])))
        if target is None or row["number"] < target["since"]:
            target = growth[rest] if rest is not None else None
        if target is not None:
            _subtract(target, row, 1)
    left = [row for row in growth.values() if row["exits"] > 0]
    return np.array(left, dtype=SUM_DTYPE) if left else np.zeros(0, dtype=SUM_DTYPE)


def _key(row: np.void) -> tuple[int, bytes, int, int]:
    flags = int(row["flags"])
    return (REST, b"", 0, 0) if flags & REST else (0, row["command"], int(row["uid"]), int(row["cgroup"]))


def _subtract(target: np.void, row: np.void, exits: int) -> None:
    target["exits"] -= exits
    for name in TOTALS:
        if target[name] != UNKNOWN and row[name] != UNKNOWN:
            target[name] -= row[name]


def _without_nameless(rows: Records, cgroups: Mapping[int, str]) -> Records:
    named = np.array(sorted([*cgroups, UNKNOWN]), dtype=np.int64)
    column = np.ascontiguousarray(rows["cgroup"])
    places = np.searchsorted(named, column)
    places[places == len(named)] = 0
    nameless = named[places] != column
    if nameless.any():
        rows["cgroup"][nameless] = UNKNOWN
    return rows


def _expect(path: str, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise SourceError(f"{path}: expected {what} {expected}, found {found}")
