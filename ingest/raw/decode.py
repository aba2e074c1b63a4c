"""From a body to a checked push: bytes in, wire structs out, Problem raised. Pure.

A body that is as it should be is decoded once, by msgspec, into types that know no other field. Any other is parsed
again without types and walked along the wire types: that finds the first fault in document order (a member that is
missing counts as standing behind those that are there, in declaration order) and counts unknown fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import inspect

from ingest.contract import limits, wire
from ingest.contract.body import Json, check_depth, parse
from ingest.contract.problems import Problem, ProblemType, pointer
from ingest.contract.wire import Feed, Push

T = TypeVar("T", bound=msgspec.Struct)

Path = tuple[str | int, ...]


class Decoded(NamedTuple):
    """A push, and how many unknown fields it had."""

    push: Push
    unknown_fields: int


def decode(feed: Feed, body: bytes) -> Decoded:
    """Return the push that a body (after its Content-Encoding) holds. Raises Problem: MALFORMED_JSON or INVALID."""
    try:
        decoded = Decoded(_STRICT[feed].decode(body), 0)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        decoded = _decode_slowly(feed, body)
    _check(decoded.push)
    return decoded


def _decode_slowly(feed: Feed, body: bytes) -> Decoded:
    value = parse(body)
    check_depth(value)
    unknown = _walk(value, _INFO[feed], ())
    return Decoded(msgspec.convert(value, wire.PUSH_TYPES[feed]), unknown)


def _walk(value: Json, kind: inspect.Type, path: Path) -> int:
    """Return the number of unknown fields. Raises Problem at the first fault."""
    match kind:
        case inspect.StructType():
            return _walk_object(value, kind, path)
        case inspect.ListType():
            return _walk_array(value, kind, path)
        case inspect.UnionType():  # of one type and null: the only union in the contract
            return 0 if value is None else _walk(value, _not_null(kind), path)
        case inspect.IntType():
            if not isinstance(value, int) or isinstance(value, bool):
                raise _invalid(path, "expected an integer")
            if (kind.ge is not None and value < kind.ge) or (kind.le is not None and value > kind.le):
                raise _invalid(path, f"expected an integer from {kind.ge} to {kind.le}")
        case inspect.StrType():
            _check_string(value, kind, path)
        case inspect.BoolType():
            if not isinstance(value, bool):
                raise _invalid(path, "expected true or false")
        case _:
            raise NotImplementedError(f"the contract gained a type that this walk does not know: {kind}")
    return 0


def _walk_object(value: Json, kind: inspect.StructType, path: Path) -> int:
    if not isinstance(value, dict):
        raise _invalid(path, "expected an object")
    fields = {field.encode_name: field for field in kind.fields}
    unknown = 0
    for name, member in value.items():
        if name in fields:
            unknown += _walk(member, fields[name].type, (*path, name))
        else:
            unknown += 1
    for name, field in fields.items():
        if field.required and name not in value:
            raise _invalid((*path, name), "missing")
    return unknown


def _walk_array(value: Json, kind: inspect.ListType, path: Path) -> int:
    if not isinstance(value, list):
        raise _invalid(path, "expected an array")
    unknown = 0
    for index, item in enumerate(value):
        if index == kind.max_length:
            raise _invalid(path, f"expected at most {kind.max_length} items")
        unknown += _walk(item, kind.item_type, (*path, index))
    if len(value) < (kind.min_length or 0):
        raise _invalid(path, f"expected at least {kind.min_length} items")
    return unknown


def _check_string(value: Json, kind: inspect.StrType, path: Path) -> None:
    if not isinstance(value, str):
        raise _invalid(path, "expected a string")
    if len(value) < (kind.min_length or 0) or (kind.max_length is not None and len(value) > kind.max_length):
        raise _invalid(path, f"expected {kind.min_length or 0} to {kind.max_length} characters")
    if kind.pattern is not None and not re.search(kind.pattern, value):
        raise _invalid(path, f"expected a match of {kind.pattern}")


def _not_null(kind: inspect.UnionType) -> inspect.Type:
    (other,) = (member for member in kind.types if not isinstance(member, inspect.NoneType))
    return other


def _check(push: Push) -> None:
    """Raise Problem (INVALID) for what one field cannot tell, in document order of the samples."""
    seqs: set[int] = set()
    samples: Sequence[wire.RamSample | wire.CpuSample | wire.ProcesosSample] = push.samples
    for index, sample in enumerate(samples):
        if sample.seq in seqs:
            raise _invalid(("samples", index, "seq"), "another sample of this body has it")
        seqs.add(sample.seq)
        if isinstance(sample, wire.CpuSample):
            if len(sample.cores) > 1:
                _check_cores(sample, ("samples", index))
        elif isinstance(sample, wire.ProcesosSample):
            _check_processes(sample, ("samples", index))


def _check_cores(sample: wire.CpuSample, path: Path) -> None:
    repeated = _first_repeated(core.cpu for core in sample.cores)
    if repeated is not None:
        raise _invalid((*path, "cores", repeated, "cpu"), "another core of this sample has it")


def _check_processes(sample: wire.ProcesosSample, path: Path) -> None:
    for index, process in enumerate(sample.processes):
        if not process.pid:
            raise _invalid((*path, "processes", index, "pid"), "pid 0, a sum over processes, stands in `exited` alone")
    live = len(sample.processes)
    if live + len(sample.exited) > limits.MAX_PROCESSES:
        raise _invalid((*path, "exited"), f"expected at most {limits.MAX_PROCESSES} processes, exited ones included")
    both = (*sample.processes, *sample.exited)
    if len({(process.pid, process.start_ticks) for process in both}) == len(both):
        return
    repeated = _first_repeated((process.pid, process.start_ticks) for process in both)
    if repeated is not None:
        place = ("processes", repeated) if repeated < live else ("exited", repeated - live)
        raise _invalid((*path, *place), "this pid and start_ticks stand twice in the sample")


def _first_repeated(keys: Iterable[object]) -> int | None:
    seen: set[object] = set()
    for index, key in enumerate(keys):
        if key in seen:
            return index
        seen.add(key)
    return None


def _invalid(path: Path, detail: str) -> Problem:
    return Problem(ProblemType.INVALID, detail, pointer(*path))


def _strict(cls: type[T]) -> type[T]:
    """Return a subclass that refuses unknown fields, and so do the structs in its arrays."""
    fields: list[tuple[str, object]] = []
    for name, hint in get_type_hints(cls, include_extras=True).items():
        array, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        item = get_args(array)[0] if get_origin(array) is list else None
        if isinstance(item, type) and issubclass(item, msgspec.Struct):
            fields.append((name, Annotated[list[_strict(item)], *notes]))  # type: ignore[misc] # made at run time
    made = msgspec.defstruct(cls.__name__, fields, bases=(cls,), frozen=True, kw_only=True, forbid_unknown_fields=True)
    if not issubclass(made, cls):
        raise TypeError(f"expected a subclass of {cls}")
    return made


_STRICT: Final = {feed: msgspec.json.Decoder[Push](_strict(push)) for feed, push in wire.PUSH_TYPES.items()}
_INFO: Final = {feed: inspect.type_info(push) for feed, push in wire.PUSH_TYPES.items()}
