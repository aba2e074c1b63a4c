"""Pushes to SQL: one multi-row statement a table, built as text, since drivers' own way costs more than the server's.

Pure. Integers come from the wire types and are written as they are; every string goes through `quote`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Final, NamedTuple

import msgspec
from pymysql.converters import escape_string

from ingest.contract import wire
from ingest.contract.identity import identity
from ingest.contract.wire import Feed
from ingest.raw.names import Names, News, key

MAX_STATEMENT_CHARACTERS: Final = 2 << 20
"""At most 8 MiB as UTF-8: half of MariaDB's default max_allowed_packet, an eighth of MySQL's."""

ENCODED_ROWS: Final = 4_000
"""Rows of `process_samples` encoded at once: of 20 numbers with 20 digits each they stay below
`MAX_STATEMENT_CHARACTERS`."""

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - DATETIME has no zone; every connection speaks UTC

Sample = wire.RamSample | wire.CpuSample | wire.ProcesosSample


class Placed(NamedTuple):
    """A sample of a push with the key of its row."""

    host_id: int
    batch_id: int
    sample: Sample

    @property
    def key(self) -> tuple[int, int, int]:
        """(`host_id`, `sampled_at` in ms, `seq`): the primary key, and the order in which rows are locked."""
        return (self.host_id, self.sample.sampled_at, self.sample.seq)


def quote(text: str) -> str:
    """Return a string literal (MySQL 8.4, String Literals; needs a sql_mode without NO_BACKSLASH_ESCAPES)."""
    return f"'{escape_string(text)}'"


def moment(milliseconds: int) -> str:
    """Return the DATETIME(3) literal of UTC milliseconds since the epoch."""
    minutes, rest = divmod(milliseconds, 60_000)
    return f"'{_minute(minutes)}:{rest // 1000:02}.{rest % 1000:03}'"


@functools.lru_cache(maxsize=1024)  # a fleet's samples are of the last few minutes
def _minute(minutes: int) -> str:
    return (_EPOCH + timedelta(minutes=minutes)).isoformat(" ", "minutes")


def milliseconds(value: datetime) -> int:
    """Return UTC milliseconds since the epoch of a DATETIME(3) as the driver gives it."""
    return (value - _EPOCH) // timedelta(milliseconds=1)


def host_query(hosts: Iterable[tuple[str, str]]) -> str:
    """Return the query of (`id`, `name`, `stream`, `boot_id`, `kernel`) of hosts given as (`name`, `stream`)."""
    keys = ",".join(f"({quote(name)},{quote(stream)})" for name, stream in hosts)
    return f"SELECT id,name,stream,boot_id,kernel FROM hosts WHERE (name,stream) IN ({keys})"  # noqa: S608 - quoted


def host_count(ids: Iterable[int]) -> str:
    """Return the query of how many of these hosts are there."""
    return f"SELECT COUNT(*) FROM hosts WHERE id IN ({','.join(map(str, ids))})"  # noqa: S608 - integers


def hosts(rows: Iterable[tuple[str, str, str, str]]) -> str:
    """Return the INSERT of hosts given as (`name`, `stream`, `boot_id`, `kernel`); one that is there stays as it is."""
    values = ",".join(f"({','.join(map(quote, row))})" for row in rows)
    return f"INSERT INTO hosts (name,stream,boot_id,kernel) VALUES {values} ON DUPLICATE KEY UPDATE id=id"  # noqa: S608 - quoted


def host_update(host_id: int, boot_id: str, kernel: str) -> str:
    """Return the UPDATE that keeps a host's boot and kernel current."""
    return f"UPDATE hosts SET boot_id={quote(boot_id)}, kernel={quote(kernel)} WHERE id={host_id}"  # noqa: S608 - quoted


def feed_rows(feed: Feed, placed: Sequence[Placed]) -> Iterator[str]:
    """Return the INSERTs of samples, in the order of their keys; a row that is there already stays as it is."""
    rows = (
        f"({item.host_id},{moment(item.sample.sampled_at)},{item.sample.seq},{_values(item.sample)},'raw',{item.batch_id})"
        for item in sorted(placed, key=lambda item: item.key)
    )
    columns = f"host_id,sampled_at,seq,{','.join(_COLUMNS[feed])},api,batch_id"
    start = f"INSERT INTO {feed.value} ({columns}) VALUES "  # noqa: S608 - names of ours
    return _insert(start, rows, " ON DUPLICATE KEY UPDATE seq=seq")


def winners(feed: Feed, placed: Iterable[Placed]) -> Iterator[str]:
    """Return queries of (`host_id`, `sampled_at`, `seq`, `batch_id`) of the rows that stand under the samples' keys."""
    keys = (f"({item.host_id},{moment(item.sample.sampled_at)},{item.sample.seq})" for item in placed)
    query = f"SELECT host_id,sampled_at,seq,batch_id FROM {feed.value} WHERE (host_id,sampled_at,seq) IN ("  # noqa: S608 - a Feed, integers and times
    return _insert(query, keys, ")")


@dataclass(frozen=True)
class ProcessRows:
    """INSERTs of `process_samples` and `processes`, how many rows they hold, and what is known after their commit."""

    samples: Iterator[str]
    sample_count: int
    processes: Iterator[str]
    process_count: int
    news: News


def process_rows(placed: Iterable[Placed], names: Names) -> ProcessRows:
    """Return the INSERTs of the processes that `procesos` samples carry; `names` are not sent again."""
    samples: list[str] = []
    count = 0
    named: dict[tuple[int, str, int, int, int], wire.Process] = {}
    news = News()
    for item in sorted(placed, key=lambda item: item.key):
        sample = item.sample
        if not isinstance(sample, wire.ProcesosSample):
            raise TypeError(f"expected a procesos sample, got {type(sample).__name__}")
        at = moment(sample.sampled_at)
        day = f"{at[:11]}'"
        known = names.of((item.host_id, day))
        stored = news.stored.setdefault((item.host_id, day), {})
        for exited, processes in ((0, sample.processes), (1, sample.exited)):
            numbers = [_identity(p.command, p.uid, p.cgroup, p.ppid) for p in processes]
            samples += _encoded(f"{item.host_id},{at},{sample.seq},{exited},", processes, numbers)
            count += len(processes)
            keys = [key(p.pid, p.start_ticks) for p in processes]
            for process, number, one in zip(processes, numbers, keys, strict=True):
                if known.get(one) != number and stored.get(one) != number:
                    named[(item.host_id, day, process.pid, process.start_ticks, number)] = process
                    stored[one] = number
            if exited and processes:
                news.ended.setdefault((item.host_id, day), []).extend(keys)
    # In the order of the primary key: two APIs that store the same processes lock them in the same order.
    rows = [
        f"({host},{day},{pid},{start},{number},{_process(process)})"
        for (host, day, pid, start, number), process in sorted(named.items(), key=lambda entry: entry[0])
    ]
    return ProcessRows(
        samples=_insert(_INSERT_PROCESS_SAMPLES, samples, ""),
        sample_count=count,
        processes=_insert(_INSERT_PROCESSES, rows, " ON DUPLICATE KEY UPDATE identity=identity"),
        process_count=len(rows),
        news=news,
    )


def _encoded(prefix: str, processes: Sequence[wire.Process], numbers: Sequence[int]) -> Iterator[str]:
    """Return rows of `process_samples`, many a text: the JSON of their values is turned into SQL as a whole.

    The values are integers, null, and a state that is one ASCII letter (wire.STATE_PATTERN), in double quotes, which
    the session's sql_mode takes for a string: no bracket stands within a row.
    """
    for start in range(0, len(processes), ENCODED_ROWS):
        some = slice(start, start + ENCODED_ROWS)
        values = [(*_PROCESS_VALUES(p), number) for p, number in zip(processes[some], numbers[some], strict=True)]
        text = msgspec.json.encode(values)[2:-2].decode("ascii")
        yield f"({prefix}{text.replace('],[', f'),({prefix}')})"


def _insert(start: str, rows: Iterable[str], end: str) -> Iterator[str]:
    """Return statements of at most `MAX_STATEMENT_CHARACTERS` (or of one row)."""
    held: list[str] = []
    size = 0
    for row in rows:
        if held and size + len(row) > MAX_STATEMENT_CHARACTERS:
            yield start + ",".join(held) + end
            held, size = [], 0
        held.append(row)
        size += len(row) + 1
    if held:
        yield start + ",".join(held) + end


_TIMES: Final = (
    "user_ns", "nice_ns", "system_ns", "idle_ns", "iowait_ns", "irq_ns", "softirq_ns", "steal_ns", "guest_ns",
    "guest_nice_ns",
)  # fmt: skip
_COLUMNS: Final[Mapping[Feed, Sequence[str]]] = {
    Feed.RAM: (
        "total_bytes", "free_bytes", "available_bytes", "cached_bytes", "buffers_bytes", "swap_total_bytes",
        "swap_free_bytes", "shared_bytes", "slab_bytes",
    ),
    Feed.CPU: (*_TIMES, "load1_milli", "load5_milli", "load15_milli", "context_switches", "forks", "cores"),
    Feed.PROCESOS: (
        "keyframe", "total", "threads", "running", "sleeping", "disk_sleep", "stopped", "traced", "zombie", "dead",
        "idle", "parked", "other", "processes_carried", "exited_carried",
    ),
}  # fmt: skip
_PROCESS_COLUMNS: Final = (
    "pid", "start_ticks", "state", "threads", "cpu_ns", "cpu_delta_ns", "user_ns", "rss_bytes", "virtual_bytes",
    "minor_faults", "major_faults", "swap_bytes", "read_bytes", "written_bytes", "voluntary_switches",
    "involuntary_switches",
)  # fmt: skip
_PROCESS_VALUES: Final = attrgetter(*_PROCESS_COLUMNS)
_CPU_NUMBERS: Final = attrgetter(*_COLUMNS[Feed.CPU][:-1])
_INSERT_PROCESS_SAMPLES: Final = (
    f"INSERT INTO process_samples (host_id,sampled_at,seq,exited,{','.join(_PROCESS_COLUMNS)},identity) VALUES "  # noqa: S608 - names of ours
)
_INSERT_PROCESSES: Final = (
    "INSERT INTO processes (host_id,day,pid,start_ticks,identity,command,uid,cgroup,ppid,started_at) VALUES "
)


def _values(s: Sample) -> str:
    """Return the values of `_COLUMNS`, in their order."""
    if isinstance(s, wire.RamSample):
        return (
            f"{s.total_bytes},{s.free_bytes},{s.available_bytes},{s.cached_bytes},{s.buffers_bytes},"
            f"{s.swap_total_bytes},{s.swap_free_bytes},{_nullable(s.shared_bytes)},{_nullable(s.slab_bytes)}"
        )
    if isinstance(s, wire.CpuSample):
        numbers = msgspec.json.encode(_CPU_NUMBERS(s))[1:-1]
        return f"{numbers.decode('ascii')},'{msgspec.json.encode(s.cores).decode()}'"  # our names and integers
    return (
        f"{int(s.keyframe)},{s.total},{s.threads},{s.running},{s.sleeping},{s.disk_sleep},{s.stopped},{s.traced},"
        f"{s.zombie},{s.dead},{s.idle},{s.parked},{s.other},{len(s.processes)},{len(s.exited)}"
    )


def _process(p: wire.Process) -> str:
    cgroup = "NULL" if p.cgroup is None else quote(p.cgroup)
    return f"{quote(p.command)},{p.uid},{cgroup},{p.ppid},{moment(p.started_at)}"


def _nullable(value: int | None) -> int | str:
    return "NULL" if value is None else value


_identity: Final = functools.lru_cache(maxsize=1 << 16)(identity)
"""Of one name for many samples: a tenth of the digest's time."""
