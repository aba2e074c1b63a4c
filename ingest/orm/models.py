"""The tables as SQLModel classes. `ingest.schema` makes them; here they are written and read.

Only what this API touches is declared: `received_at` and `created_at` are the server's to fill.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import JSON, BigInteger, Column, SmallInteger
from sqlalchemy.dialects.mysql import DATETIME
from sqlmodel import Field, SQLModel


class Host(SQLModel, table=True):
    """A host's stream, with the boot and kernel that it last named."""

    __tablename__ = "hosts"

    id: int | None = Field(default=None, primary_key=True)
    name: str
    stream: str
    boot_id: str
    kernel: str


class Ram(SQLModel, table=True):
    """A `ram` sample."""

    __tablename__ = "ram"

    host_id: int = Field(primary_key=True)
    sampled_at: datetime = Field(sa_column=Column(DATETIME(fsp=3), primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True))
    total_bytes: int
    free_bytes: int
    available_bytes: int
    cached_bytes: int
    buffers_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int
    shared_bytes: int | None
    slab_bytes: int | None
    api: str
    batch_id: int = Field(sa_column=Column(BigInteger))


class Cpu(SQLModel, table=True):
    """A `cpu` sample."""

    __tablename__ = "cpu"

    host_id: int = Field(primary_key=True)
    sampled_at: datetime = Field(sa_column=Column(DATETIME(fsp=3), primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True))
    user_ns: int
    nice_ns: int
    system_ns: int
    idle_ns: int
    iowait_ns: int
    irq_ns: int
    softirq_ns: int
    steal_ns: int
    guest_ns: int
    guest_nice_ns: int
    load1_milli: int
    load5_milli: int
    load15_milli: int
    context_switches: int
    forks: int
    cores: list[dict[str, int]] = Field(sa_column=Column(JSON))
    api: str
    batch_id: int = Field(sa_column=Column(BigInteger))


class Procesos(SQLModel, table=True):
    """A `procesos` sample: the counts; its processes are in `process_samples`."""

    __tablename__ = "procesos"

    host_id: int = Field(primary_key=True)
    sampled_at: datetime = Field(sa_column=Column(DATETIME(fsp=3), primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True))
    keyframe: bool
    total: int
    threads: int
    running: int
    sleeping: int
    disk_sleep: int
    stopped: int
    traced: int
    zombie: int
    dead: int
    idle: int
    parked: int
    other: int
    processes_carried: int
    exited_carried: int
    api: str
    batch_id: int = Field(sa_column=Column(BigInteger))


class ProcessSample(SQLModel, table=True):
    """The numbers of one process in one sample."""

    __tablename__ = "process_samples"

    host_id: int = Field(primary_key=True)
    sampled_at: datetime = Field(sa_column=Column(DATETIME(fsp=3), primary_key=True))
    seq: int = Field(sa_column=Column(BigInteger, primary_key=True))
    pid: int = Field(primary_key=True)
    start_ticks: int = Field(sa_column=Column(BigInteger, primary_key=True))
    exited: bool
    identity: int = Field(sa_column=Column(BigInteger))
    state: str
    threads: int
    cpu_ns: int
    cpu_delta_ns: int
    user_ns: int
    rss_bytes: int
    virtual_bytes: int
    minor_faults: int
    major_faults: int
    swap_bytes: int | None
    read_bytes: int | None
    written_bytes: int | None
    voluntary_switches: int | None
    involuntary_switches: int | None


class Process(SQLModel, table=True):
    """What a process was called, by whom and where it ran, once a day and value."""

    __tablename__ = "processes"

    host_id: int = Field(primary_key=True)
    day: date = Field(primary_key=True)
    pid: int = Field(primary_key=True)
    start_ticks: int = Field(sa_column=Column(BigInteger, primary_key=True))
    identity: int = Field(sa_column=Column(BigInteger, primary_key=True))
    command: str
    uid: int
    cgroup: str | None
    ppid: int
    started_at: datetime = Field(sa_column=Column(DATETIME(fsp=3)))


class Partition(SQLModel, table=True):
    """A partition of a table, as the server lists them (information_schema.PARTITIONS)."""

    __tablename__ = "PARTITIONS"
    __table_args__ = {"schema": "information_schema"}

    TABLE_SCHEMA: str = Field(primary_key=True)
    TABLE_NAME: str = Field(primary_key=True)
    PARTITION_NAME: str | None = Field(primary_key=True)
    PARTITION_ORDINAL_POSITION: int | None = Field(sa_column=Column(SmallInteger))
