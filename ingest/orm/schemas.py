"""The bodies of the API as pydantic models, strict, with the contract's limits.

They are this API's own, written against the contract as any team would, not made from `ingest.contract.wire`; a test
holds the two to one another. Unknown fields are kept aside by pydantic (`extra="allow"`) so that they can be counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ingest.contract import limits
from ingest.contract.body import Json, check_depth, parse
from ingest.contract.problems import Problem, ProblemType, pointer

Count = Annotated[int, Field(ge=0, le=limits.INT64_MAX)]
Small = Annotated[int, Field(ge=0, le=limits.INT32_MAX)]
Pid = Annotated[int, Field(ge=0, le=limits.INT32_MAX)]
Uid = Annotated[int, Field(ge=0, le=limits.UINT32_MAX)]
Milliseconds = Annotated[int, Field(ge=0, le=limits.MAX_SAMPLED_AT)]
Uuid = Annotated[
    str,
    StringConstraints(
        min_length=36, max_length=36, pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z"
    ),
]
Host = Annotated[
    str,
    StringConstraints(min_length=1, max_length=limits.MAX_HOST_LENGTH, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"),
]
Kernel = Annotated[str, StringConstraints(max_length=limits.MAX_KERNEL_LENGTH)]
Command = Annotated[str, StringConstraints(max_length=limits.MAX_COMMAND_LENGTH)]
Cgroup = Annotated[str, StringConstraints(max_length=limits.MAX_CGROUP_LENGTH)]
State = Annotated[str, StringConstraints(min_length=1, max_length=1, pattern=r"^[A-Za-z]\Z")]

# python-re: pydantic's own engine knows no \Z. FailFast: a body of faults must not become a list of them.
_CONFIG: Final = ConfigDict(strict=True, extra="allow", regex_engine="python-re", frozen=True)


class RamSample(BaseModel):
    """Memory of one host at one moment, in bytes."""

    model_config = _CONFIG

    seq: Count
    sampled_at: Milliseconds
    total_bytes: Count
    free_bytes: Count
    available_bytes: Count
    cached_bytes: Count
    buffers_bytes: Count
    swap_total_bytes: Count
    swap_free_bytes: Count
    shared_bytes: Count | None = None
    slab_bytes: Count | None = None


class CoreTimes(BaseModel):
    """Nanoseconds since boot by mode, of one CPU."""

    model_config = _CONFIG

    cpu: Small
    user_ns: Count
    nice_ns: Count
    system_ns: Count
    idle_ns: Count
    iowait_ns: Count
    irq_ns: Count
    softirq_ns: Count
    steal_ns: Count
    guest_ns: Count
    guest_nice_ns: Count


class CpuSample(BaseModel):
    """CPU time of one host, all CPUs together and each by itself."""

    model_config = _CONFIG

    seq: Count
    sampled_at: Milliseconds
    user_ns: Count
    nice_ns: Count
    system_ns: Count
    idle_ns: Count
    iowait_ns: Count
    irq_ns: Count
    softirq_ns: Count
    steal_ns: Count
    guest_ns: Count
    guest_nice_ns: Count
    load1_milli: Count
    load5_milli: Count
    load15_milli: Count
    context_switches: Count
    forks: Count
    cores: Annotated[list[CoreTimes], Field(max_length=limits.MAX_CORES), FailFast()]


class Process(BaseModel):
    """One process."""

    model_config = _CONFIG

    pid: Pid
    start_ticks: Count
    started_at: Milliseconds
    ppid: Small
    uid: Uid
    command: Command
    state: State
    threads: Small
    cpu_ns: Count
    cpu_delta_ns: Count
    user_ns: Count
    rss_bytes: Count
    virtual_bytes: Count
    minor_faults: Count
    major_faults: Count
    swap_bytes: Count | None = None
    read_bytes: Count | None = None
    written_bytes: Count | None = None
    voluntary_switches: Count | None = None
    involuntary_switches: Count | None = None
    cgroup: Cgroup | None = None


class ProcesosSample(BaseModel):
    """The process table of one host: whole in a keyframe, otherwise what changed."""

    model_config = _CONFIG

    seq: Count
    sampled_at: Milliseconds
    keyframe: bool
    total: Small
    threads: Small
    running: Small
    sleeping: Small
    disk_sleep: Small
    stopped: Small
    traced: Small
    zombie: Small
    dead: Small
    idle: Small
    parked: Small
    other: Small
    processes: Annotated[list[Process], Field(max_length=limits.MAX_PROCESSES), FailFast()]
    exited: Annotated[list[Process], Field(max_length=limits.MAX_PROCESSES), FailFast()]


class RamPush(BaseModel):
    """The body of `POST /api/ram`."""

    model_config = _CONFIG

    host: Host
    stream: Uuid
    boot_id: Uuid
    kernel: Kernel = ""
    samples: Annotated[list[RamSample], Field(min_length=1, max_length=limits.MAX_SAMPLES), FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_seqs(self.samples)
        return self


class CpuPush(BaseModel):
    """The body of `POST /api/cpu`."""

    model_config = _CONFIG

    host: Host
    stream: Uuid
    boot_id: Uuid
    kernel: Kernel = ""
    samples: Annotated[list[CpuSample], Field(min_length=1, max_length=limits.MAX_SAMPLES), FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        seqs = set[int]()
        for index, sample in enumerate(self.samples):
            _check_seq(seqs, index, sample)
            repeated = _first_repeated(core.cpu for core in sample.cores)
            if repeated is not None:
                raise _fault("another core of this sample has it", "samples", index, "cores", repeated, "cpu")
        return self


class ProcesosPush(BaseModel):
    """The body of `POST /api/procesos`."""

    model_config = _CONFIG

    host: Host
    stream: Uuid
    boot_id: Uuid
    kernel: Kernel = ""
    samples: Annotated[list[ProcesosSample], Field(min_length=1, max_length=limits.MAX_SAMPLES), FailFast()]

    @model_validator(mode="after")
    def _check(self) -> Self:
        seqs = set[int]()
        for index, sample in enumerate(self.samples):
            _check_seq(seqs, index, sample)
            for place, process in enumerate(sample.processes):
                if process.pid == 0:
                    raise _fault("a sum stands in `exited` alone", "samples", index, "processes", place, "pid")
            live = len(sample.processes)
            if live + len(sample.exited) > limits.MAX_PROCESSES:
                raise _fault(f"expected at most {limits.MAX_PROCESSES} with `processes`", "samples", index, "exited")
            both = (*sample.processes, *sample.exited)
            repeated = _first_repeated((process.pid, process.start_ticks) for process in both)
            if repeated is not None:
                where = ("processes", repeated) if repeated < live else ("exited", repeated - live)
                raise _fault("this pid and start_ticks stand twice in the sample", "samples", index, *where)
        return self


class Accepted(BaseModel):
    """The body of a 201."""

    accepted: int
    duplicates: int


class Health(BaseModel):
    """The body of `GET /api/health`."""

    status: str
    api: str
    version: str
    database: str


Push = RamPush | CpuPush | ProcesosPush
P = TypeVar("P", RamPush, CpuPush, ProcesosPush)


def validate(model: type[P], body: bytes) -> tuple[P, int]:
    """Return the push that a body holds and how many unknown fields it had. Raises Problem."""
    value = parse(body)
    try:
        push = model.model_validate(value)
    except ValidationError as error:
        check_depth(value)
        raise _first_fault(error, value) from None
    unknown = _count_unknown(push)
    if unknown:
        check_depth(value)
    return push, unknown


def _first_fault(error: ValidationError, body: Json) -> Problem:
    """Return the fault that comes first in the document; a missing member stands behind those that are there."""
    faults = error.errors(include_url=False, include_input=False)
    first = min(faults, key=lambda fault: _place(body, fault["loc"]))
    where = first.get("ctx", {}).get("pointer", pointer(*first["loc"]))
    return Problem(ProblemType.INVALID, first["msg"], str(where))


def _place(value: Json, loc: Sequence[int | str]) -> list[int]:
    place = []
    for part in loc:
        if isinstance(value, dict) and isinstance(part, str):
            # pydantic reports missing members in the order of their declaration, and min() keeps it
            place.append(list(value).index(part) if part in value else len(value))
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int):
            place.append(part)
            value = value[part]
    return place


def _count_unknown(push: Push) -> int:
    count = len(push.model_extra or ())
    for sample in push.samples:
        count += len(sample.model_extra or ())
        if isinstance(sample, CpuSample):
            count += sum(len(core.model_extra or ()) for core in sample.cores)
        elif isinstance(sample, ProcesosSample):
            count += sum(len(process.model_extra or ()) for process in (*sample.processes, *sample.exited))
    return count


def _check_seqs(samples: Sequence[RamSample]) -> None:
    seqs = set[int]()
    for index, sample in enumerate(samples):
        _check_seq(seqs, index, sample)


def _check_seq(seen: set[int], index: int, sample: RamSample | CpuSample | ProcesosSample) -> None:
    if sample.seq in seen:
        raise _fault("another sample of this body has it", "samples", index, "seq")
    seen.add(sample.seq)


def _first_repeated(keys: Iterable[object]) -> int | None:
    seen = set[object]()
    for index, key in enumerate(keys):
        if key in seen:
            return index
        seen.add(key)
    return None


def _fault(message: str, *path: str | int) -> PydanticCustomError:
    return PydanticCustomError("contract", "{message}", {"message": message, "pointer": pointer(*path)})
