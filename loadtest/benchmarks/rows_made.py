"""The history of a fleet, made up as an exporter would have told it, as text for LOAD DATA: what `rows` loads. Pure.

A host has 150 to 245 processes. A sample carries as many rows as asked for: 20 processes that always work, others that
take turns, one that lived between two samples and ended; every 60th is a keyframe with all. Counters only grow, and
`cpu_delta_ns` is the growth of `cpu_ns`, as from a real exporter. Values hang on seed, host and time alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.contract.identity import identity

INTERVAL: Final = timedelta(seconds=5)
KEYFRAME: Final = 60
"""Samples from one keyframe to the next: five minutes. They begin on the clock's, so that a UTC day begins with one."""
BUSY: Final = 20
"""Processes of a host that every sample carries."""
CORES: Final = 4
CONTAINERS: Final = 12
SEED: Final = 1

TABLES: Final = {
    "process_samples": (
        "host_id,sampled_at,seq,exited,pid,start_ticks,identity,@state,threads,cpu_ns,cpu_delta_ns,user_ns,rss_bytes,"
        "virtual_bytes,minor_faults,major_faults,swap_bytes,read_bytes,written_bytes,voluntary_switches,"
        "involuntary_switches"
    ),
    "processes": "host_id,day,pid,start_ticks,identity,command,uid,cgroup,ppid,started_at",
    "procesos": (
        "host_id,sampled_at,received_at,seq,keyframe,total,threads,running,sleeping,disk_sleep,stopped,traced,zombie,"
        "dead,idle,parked,other,processes_carried,exited_carried,api,batch_id"
    ),
    "ram": (
        "host_id,sampled_at,received_at,seq,total_bytes,free_bytes,available_bytes,cached_bytes,buffers_bytes,"
        "swap_total_bytes,swap_free_bytes,shared_bytes,slab_bytes,api,batch_id"
    ),
    "cpu": (
        "host_id,sampled_at,received_at,seq,user_ns,nice_ns,system_ns,idle_ns,iowait_ns,irq_ns,softirq_ns,steal_ns,"
        "guest_ns,guest_nice_ns,load1_milli,load5_milli,load15_milli,context_switches,forks,cores,api,batch_id"
    ),
}
"""By table, the columns of the text that is loaded into it."""

_COMMANDS: Final = (
    "nginx", "postgres", "java", "python3", "node", "containerd-shim", "sshd", "redis-server", "systemd-journal",
    "kworker/u16:3-events", "mariadbd", "envoy",
)  # fmt: skip
_BRIEF: Final = ("sh", "curl", "git", "cc1", "sed", "runc")
_JSON_LINES: Final = "FIELDS TERMINATED BY ',' LINES STARTING BY '[' TERMINATED BY ']'"
_MIB: Final = 1 << 20

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """How much there is: `hosts` times `samples` from `start` on, so many rows a sample that is no keyframe."""

    hosts: int
    carried: int
    samples: int
    start: datetime

    @property
    def end(self) -> datetime:
        """When the last sample was taken."""
        return self.start + (self.samples - 1) * INTERVAL

    @property
    def blocks(self) -> int:
        """Keyframes of a host."""
        return self.samples // KEYFRAME

    @property
    def rows(self) -> int:
        """Rows of `process_samples`."""
        return self.blocks * _rows_a_block(self.hosts, self.carried)


def plan(rows: int, hosts: int, carried: int, now: datetime) -> Plan:
    """Return what makes at least so many rows of `process_samples`, the last of them just before `now`."""
    blocks = -(-rows // _rows_a_block(hosts, carried))
    minutes = INTERVAL * KEYFRAME
    end = datetime.fromtimestamp(now.timestamp() // minutes.total_seconds() * minutes.total_seconds(), UTC)
    return Plan(hosts, carried, blocks * KEYFRAME, end - blocks * minutes)


def _rows_a_block(hosts: int, carried: int) -> int:
    """Return the rows from one keyframe up to the next; a keyframe has the one that ended on top of its processes."""
    return sum(carried * KEYFRAME + processes(host) - (carried - 1) for host in range(hosts))


def processes(host: int) -> int:
    """Return how many processes live on a host."""
    return 150 + 5 * (host % 20)


def host_name(host: int) -> str:
    """Return its name."""
    return f"host-{host:03d}"


def container(host: int, number: int) -> str:
    """Return the id of one of the host's containers."""
    return hashlib.blake2b(f"{host}/{number}".encode(), digest_size=32).hexdigest()


def load_statement(table: str, path: str) -> str:
    """Return the statement that loads a file of a `Block`."""
    form = _JSON_LINES if table == "process_samples" else ""
    state = " SET state = ELT(@state, 'S', 'R')" if table == "process_samples" else ""
    return f"LOAD DATA LOCAL INFILE '{path}' INTO TABLE {table} CHARACTER SET utf8mb4 {form} ({TABLES[table]}){state}"


@dataclass(frozen=True)
class Block:
    """What a host told from one keyframe up to the next: by table, text to load; `rows` of `process_samples`."""

    text: dict[str, bytes]
    rows: int


@dataclass
class Host:
    """One host's history; `blocks` is read once."""

    number: int
    host_id: int
    plan: Plan
    _cpu: Integers = field(init=False)
    _steps: Integers = field(init=False)

    def __post_init__(self) -> None:
        """Name its processes."""
        count = processes(self.number)
        slots = np.arange(count, dtype=np.int64)
        self._slots = slots
        self._pids = 300 + 7 * slots
        self._starts = 1_000 + 13 * slots
        self._cpu = 1_000_000_000 * slots
        self._steps = np.zeros(count, dtype=np.int64)
        self._names = [self._name(slot) for slot in range(count)]
        self._identities = np.array([identity(*name) for name in self._names], dtype=np.int64)
        self._brief = [self._brief_name(number) for number in range(24)]
        self._brief_identities = [identity(*name) for name in self._brief]
        self._boot = self.plan.start - timedelta(days=1)

    def blocks(self) -> Iterator[Block]:
        """Yield its history, oldest first."""
        day = ""
        for number in range(self.plan.blocks):
            first = number * KEYFRAME
            times = [self.plan.start + (first + offset) * INTERVAL for offset in range(KEYFRAME)]
            seqs = np.arange(first + 1, first + 1 + KEYFRAME, dtype=np.int64)
            today = f"{times[0]:%Y-%m-%d}"
            random = np.random.default_rng((SEED, self.number, number))
            living, mask = self._living(random, first, seqs, times)
            ended = self._ended(random, seqs, times)
            rows = np.concatenate((living, ended))
            rows = rows[np.lexsort((rows[:, 4], rows[:, 2]))]
            names = self._brief_lines(ended, today, times)
            if today != day:
                names = self._slot_lines(today) + names
                day = today
            yield Block(
                {
                    "process_samples": msgspec.json.encode(rows.tolist())[1:-1],
                    "processes": "".join(names).encode(),
                    **self._machine(first, times, mask),
                },
                len(rows),
            )

    def _living(
        self, random: np.random.Generator, first: int, seqs: Integers, times: list[datetime]
    ) -> tuple[Integers, NDArray[np.bool_]]:
        count = len(self._slots)
        turns = self.plan.carried - BUSY - 1
        active = np.zeros((KEYFRAME, count), dtype=bool)
        active[:, :BUSY] = True
        others = BUSY + (np.arange(first, first + KEYFRAME)[:, None] * turns + np.arange(turns)) % (count - BUSY)
        np.put_along_axis(active, others, values=True, axis=1)
        delta = random.exponential(2e6, (KEYFRAME, count))
        delta[:, :BUSY] *= 10 + 15 * self._slots[:BUSY]
        delta = np.where(active, delta, 0).astype(np.int64)
        cpu = self._cpu + np.cumsum(delta, axis=0)
        steps = self._steps + np.cumsum(active, axis=0)
        self._cpu, self._steps = cpu[-1], steps[-1]
        mask = active.copy()
        mask[0] = True
        samples, slots = np.nonzero(mask)
        cpu, delta, steps = cpu[samples, slots], delta[samples, slots], steps[samples, slots]
        rss = 4096 * (1_000 + 997 * (slots % 37) + (steps * (1 + slots % 3)) % 5_000)
        columns = (
            np.full(len(slots), self.host_id), _numbers(times)[samples], seqs[samples], np.zeros_like(slots),
            self._pids[slots], self._starts[slots], self._identities[slots], 1 + active[samples, slots] * (steps % 2),
            1 + slots % 32, cpu, delta, cpu * 6 // 10, rss, rss * 5, 1_000 + 7 * steps, slots % 11,
            np.zeros_like(slots), 4096 * steps * (slots % 5), 4096 * steps * (slots % 7), 11 * steps,
            steps * (slots % 4),
        )  # fmt: skip
        return np.column_stack(columns), mask

    def _ended(self, random: np.random.Generator, seqs: Integers, times: list[datetime]) -> Integers:
        """Return one process a sample that lived shorter than the interval."""
        cpu = (random.exponential(40e6, KEYFRAME) + 1e6).astype(np.int64)
        rss = 4096 * random.integers(200, 5_000, KEYFRAME)
        zero = np.zeros_like(seqs)
        numbers = np.array(self._brief_identities, dtype=np.int64)[seqs % len(self._brief)]
        columns = (
            zero + self.host_id, _numbers(times), seqs, zero + 1, 10_000 + seqs % 4_000_000,
            100 * (86_400 + 5 * seqs) - 200, numbers, zero + 1, zero + 1, cpu, cpu, cpu // 2, rss, rss * 4, rss // 4096,
            zero, zero, zero, 4096 * (seqs % 3), zero + 2, zero + 1,
        )  # fmt: skip
        return np.column_stack(columns)

    def _machine(self, first: int, times: list[datetime], mask: NDArray[np.bool_]) -> dict[str, bytes]:
        """Return the rows of `procesos`, `ram` and `cpu`."""
        total = len(self._slots)
        procesos, ram, cpu = [], [], []
        for offset, moment in enumerate(times):
            seq = first + offset + 1
            key = f"{self.host_id}\t{moment:%Y-%m-%d %H:%M:%S}\t{moment:%Y-%m-%d %H:%M:%S}.200\t{seq}\t"
            procesos.append(
                f"{key}{int(offset == 0)}\t{total}\t{4 * total}\t2\t{total - 2}\t0\t0\t0\t0\t0\t0\t0\t0"
                f"\t{mask[offset].sum()}\t1\traw\t{seq}\n"
            )
            free = (4_000 + seq % 500) * _MIB
            ram.append(
                f"{key}{16_384 * _MIB}\t{free}\t{2 * free}\t{3_000 * _MIB}\t{200 * _MIB}\t{2_048 * _MIB}"
                f"\t{2_000 * _MIB}\t{100 * _MIB}\t{300 * _MIB}\traw\t{seq}\n"
            )
            busy = 600_000_000 * seq
            idle = 5_000_000_000 * seq - busy
            modes = f"{busy}\t0\t{busy // 2}\t{idle}\t{1_000_000 * seq}\t0\t{2_000_000 * seq}\t0\t0\t0"
            core = (
                f'"user_ns":{busy},"nice_ns":0,"system_ns":{busy // 2},"idle_ns":{idle},'
                f'"iowait_ns":{1_000_000 * seq},"irq_ns":0,"softirq_ns":{2_000_000 * seq},"steal_ns":0,"guest_ns":0,'
                '"guest_nice_ns":0'
            )
            cores = ",".join(f'{{"cpu":{number},{core}}}' for number in range(CORES))
            cpu.append(f"{key}{modes}\t1250\t800\t400\t{40_000 * seq}\t{90 * seq}\t[{cores}]\traw\t{seq}\n")
        return {name: "".join(lines).encode() for name, lines in (("procesos", procesos), ("ram", ram), ("cpu", cpu))}

    def _slot_lines(self, day: str) -> list[str]:
        return [
            _line((self.host_id, day, pid, start, number), name, self._boot + timedelta(milliseconds=10 * start))
            for pid, start, number, name in zip(
                self._pids.tolist(), self._starts.tolist(), self._identities.tolist(), self._names, strict=True
            )
        ]

    def _brief_lines(self, ended: Integers, day: str, times: list[datetime]) -> list[str]:
        return [
            _line((self.host_id, day, pid, start, number), self._brief[seq % len(self._brief)], moment - INTERVAL)
            for (seq, pid, start, number), moment in zip(ended[:, [2, 4, 5, 6]].tolist(), times, strict=True)
        ]

    def _name(self, slot: int) -> tuple[str, int, str, int]:
        command = _COMMANDS[slot % len(_COMMANDS)]
        return command, slot % 9, self._cgroup(slot, command), 1 + slot % 3

    def _brief_name(self, number: int) -> tuple[str, int, str, int]:
        return _BRIEF[number % len(_BRIEF)], number % 2, self._cgroup(number, "cron"), 300 + number

    def _cgroup(self, number: int, unit: str) -> str:
        if number % 3:
            return f"/system.slice/{unit.partition('/')[0]}.service"
        return f"/system.slice/docker-{container(self.number, number // 3 % CONTAINERS)}.scope"


def _numbers(times: list[datetime]) -> Integers:
    """Return times as numbers that a DATETIME takes: 20261123031200 (MySQL 8.4, Date and Time Literals)."""
    return np.array([int(f"{moment:%Y%m%d%H%M%S}") for moment in times], dtype=np.int64)


def _line(key: tuple[int, str, int, int, int], name: tuple[str, int, str, int], started: datetime) -> str:
    """Return a line of `processes`."""
    host_id, day, pid, start, number = key
    command, uid, cgroup, ppid = name
    return (
        f"{host_id}\t{day}\t{pid}\t{start}\t{number}\t{command}\t{uid}\t{cgroup}\t{ppid}\t{started:%Y-%m-%d %H:%M:%S}\n"
    )
