"""What must be true: of the wire's ledger, the database and the spools together, at the end; of counters, throughout.

Reading is apart from judging: `read_database` and `read_spool` return values, and the checks are pure over them.
Every violation is a line that says what was expected and what is there.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from ingest.contract.wire import Feed
from latido import settings
from loadtest.verify import connect
from tests.faults.ledger import Key, Ledger, Told
from tests.faults.reader import Followed

FIGURES: Final = {"ram": "free_bytes", "cpu": "context_switches"}
SHOWN: Final = 12
"""Violations of one kind that are shown in full."""

Stream = tuple[str, str]
"""Host and stream."""


class ProcessRow(NamedTuple):
    """A row of `process_samples`, in the order in which a process is followed."""

    pid: int
    start_ticks: int
    seq: int
    cpu_ns: int
    cpu_delta_ns: int
    exited: bool


@dataclass
class Stored:
    """What the database holds."""

    samples: dict[Key, list[Told]] = field(default_factory=dict)
    """Each identity with every row that carries it: one, if all is well."""
    incomplete: list[str] = field(default_factory=list)
    """Samples whose process rows are not those that the sample says it carries."""
    processes: dict[Stream, list[ProcessRow]] = field(default_factory=dict)


@dataclass(frozen=True)
class SpoolState:
    """What an exporter has left behind."""

    stream: str
    next_seq: Mapping[str, int]
    waiting: frozenset[tuple[str, int]]
    """(feed, seq) of samples in the spool that some API is still to get."""
    lost: Mapping[str, int]
    dead_letters: int


@dataclass(frozen=True)
class HostState:
    """One exporter's end: its spool, and the CPU time of every process that its host has now, by (pid, start_ticks)."""

    host: str
    spool: SpoolState
    cpu_ns: Mapping[tuple[int, int], int]


def read_database(dsn: str) -> Stored:
    """Read every sample and every process row."""
    found = Stored()
    with (
        connect(settings.dsn(dsn)) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT id, name, stream FROM hosts")
        streams: dict[int, Stream] = {number: (name, stream) for number, name, stream in cursor.fetchall()}
        millis = "CAST(ROUND(UNIX_TIMESTAMP(sampled_at) * 1000) AS SIGNED)"
        cursor.execute(
            "SELECT host_id, sampled_at, seq, SUM(cpu_delta_ns), SUM(exited), COUNT(*) FROM process_samples"
            " GROUP BY host_id, sampled_at, seq"
        )
        sums = {row[:3]: tuple(int(value) for value in row[3:]) for row in cursor.fetchall()}
        for feed in Feed:
            figure = FIGURES.get(feed.value, "0")
            carried = "processes_carried, exited_carried" if feed is Feed.PROCESOS else "0, 0"
            cursor.execute(f"SELECT host_id, sampled_at, seq, {millis}, {figure}, {carried} FROM {feed.value}")  # noqa: S608 - names above
            for host_id, sampled_at, seq, at, value, living, ended in cursor.fetchall():
                key = Key(*streams[host_id], feed.value, seq)
                if feed is Feed.PROCESOS:
                    value, exited, count = sums.pop((host_id, sampled_at, seq), (0, 0, 0))  # noqa: PLW2901 - the figure
                    if (living, ended) != (count - exited, exited):
                        found.incomplete.append(
                            f"{key} carries {living} processes and {ended} ended ones; rows: {count - exited}, {exited}"
                        )
                found.samples.setdefault(key, []).append(Told(int(at), int(value)))
        found.incomplete += [f"process rows without a sample: {streams[row[0]]} seq {row[2]}" for row in sums]
        cursor.execute(
            "SELECT s.host_id, s.seq, s.pid FROM process_samples s LEFT JOIN processes p ON p.host_id = s.host_id"
            " AND p.day = DATE(s.sampled_at) AND p.pid = s.pid AND p.start_ticks = s.start_ticks"
            " AND p.identity = s.identity WHERE p.host_id IS NULL"
        )
        for host_id, seq, pid in cursor.fetchall():
            found.incomplete.append(
                f"{streams[host_id]} seq {seq} pid {pid} has no row in processes: nobody knows its name"
            )
        cursor.execute(
            "SELECT host_id, pid, start_ticks, seq, cpu_ns, cpu_delta_ns, exited FROM process_samples"
            " ORDER BY host_id, pid, start_ticks, seq"
        )
        for host_id, *values in cursor.fetchall():
            found.processes.setdefault(streams[host_id], []).append(ProcessRow._make(values))
    return found


def newest(dsn: str) -> dict[Followed, int]:
    """Return the newest number of each feed of each stream that the database holds now."""
    with connect(settings.dsn(dsn)) as connection, connection.cursor() as cursor:
        found: dict[Followed, int] = {}
        for feed in Feed:
            cursor.execute(
                f"SELECT name, stream, MAX(seq) FROM {feed.value} JOIN hosts ON hosts.id = host_id GROUP BY host_id"  # noqa: S608 - a Feed
            )
            found |= {Followed(host, stream, feed.value): int(seq) for host, stream, seq in cursor.fetchall()}
    return found


def read_spool(path: Path) -> SpoolState:
    """Read the spool of an exporter that has ended."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
        # What every cursor has passed will never be sent, though it is still there.
        waiting = database.execute(
            "SELECT feed, seq FROM samples WHERE EXISTS (SELECT 1 FROM cursors WHERE cursors.feed = samples.feed"
            " AND NOT (seq <= backlog OR (seq > backlog_end AND seq <= live)))"
        ).fetchall()
        ((dead,),) = database.execute("SELECT COUNT(*) FROM dead_letters").fetchall()
    database.close()
    return SpoolState(
        stream=meta["stream"],
        next_seq={feed.value: int(meta[f"next_seq:{feed.value}"]) for feed in Feed},
        waiting=frozenset((feed, seq) for feed, seq in waiting),
        lost={feed.value: int(meta.get(f"lost:{feed.value}", 0)) for feed in Feed},
        dead_letters=dead,
    )


def violations(ledger: Ledger, stored: Stored, hosts: Iterable[HostState]) -> list[str]:
    """Hold everything together; return what is wrong, a line each."""
    found = list(hosts)
    checks = (
        ledger.contradictions,
        _answers(ledger),
        _acknowledged(ledger, stored),
        _once(ledger, stored),
        stored.incomplete,
        itertools.chain.from_iterable(_accounted(host, stored) for host in found),
        itertools.chain.from_iterable(_cpu(host, stored) for host in found),
    )
    return list(itertools.chain.from_iterable(_shortened(check) for check in checks))


def _shortened(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = [f"… and {len(found) - SHOWN} more of this kind"] if len(found) > SHOWN else []
    return found[:SHOWN] + more


def _answers(ledger: Ledger) -> Iterator[str]:
    """Hold that nothing was answered but what the contract says of an API that is busy or without its database."""
    for (api, status), count in sorted(ledger.answers.items()):
        if status not in {201, 401, 408, 429, 503}:
            yield f"{api} answered {status} {count} times; expected 201, 401, 408, 429 or 503"


def _acknowledged(ledger: Ledger, stored: Stored) -> Iterator[str]:
    """Hold that what an API said that it has is there."""
    for key, apis in sorted(ledger.acknowledged.items()):
        if key not in stored.samples:
            yield f"{key} was acknowledged by {', '.join(sorted(apis))} and is not in the database"


def _once(ledger: Ledger, stored: Stored) -> Iterator[str]:
    """Hold that what is there was sent, says what was sent, and is there once."""
    for key, told in sorted(stored.samples.items()):
        if len(told) > 1:
            yield f"{key} is in the database {len(told)} times: {told}"
        sent = ledger.sent.get(key)
        if sent is None:
            yield f"{key} is in the database and was never sent"
        elif told[0] != sent:
            yield f"{key} was sent as {sent} and is in the database as {told[0]}"


def missing(host: HostState, stored: Stored) -> dict[str, set[int]]:
    """Return by feed the numbers that the stream has used, and that are neither in the database nor in the spool."""
    return {
        feed: {
            seq
            for seq in range(1, following)
            if Key(host.host, host.spool.stream, feed, seq) not in stored.samples
            and (feed, seq) not in host.spool.waiting
        }
        for feed, following in host.spool.next_seq.items()
    }


def _accounted(host: HostState, stored: Stored) -> Iterator[str]:
    """Hold that what is nowhere is in the exporter's own count of losses."""
    for feed, numbers in missing(host, stored).items():
        # More may be counted than is missing: what an API stored without its answer arriving counts as lost too.
        if len(numbers) > host.spool.lost[feed]:
            yield (
                f"{host.host} {host.spool.stream} {feed}: {len(numbers)} samples are nowhere"
                f" ({_ranges(numbers)}), and the exporter counts {host.spool.lost[feed]} lost"
            )
    if host.spool.dead_letters:
        yield f"{host.host} {host.spool.stream}: {host.spool.dead_letters} samples were refused; expected none"


def _cpu(host: HostState, stored: Stored) -> Iterator[str]:
    """Hold that each process's deltas add up to its CPU time, and that its last row says what the host says."""
    stream = (host.host, host.spool.stream)
    holes = missing(host, stored)["procesos"]
    last: dict[tuple[int, int], ProcessRow] = {}
    for row in stored.processes.get(stream, []):
        key = (row.pid, row.start_ticks)
        before = last.get(key)
        last[key] = row
        if before is not None and before.exited:
            yield f"{stream} {row}: told of after its end, {before}"
            continue
        since, expected = (before.seq, row.cpu_ns - before.cpu_ns) if before is not None else (0, row.cpu_ns)
        if before is None and row.seq == 1:
            expected = 0  # CPU time before the stream's first sample is in no delta
        if any(since < seq <= row.seq for seq in holes):
            if not 0 <= row.cpu_delta_ns <= expected:
                yield f"{stream} {row}: expected a delta of at most {expected} behind a hole"
        elif row.cpu_delta_ns != expected:
            yield f"{stream} {row}: expected a delta of {expected} after {before}"
    for key, cpu_ns in host.cpu_ns.items():
        seen = last.get(key)
        if seen is None or seen.cpu_ns != cpu_ns:
            yield f"{stream} process {key}: its host says {cpu_ns} ns of CPU, the database {seen}"


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as `1-3, 7`."""
    parts = []
    for _, group in itertools.groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        parts.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return ", ".join(parts)


def counters(exposition: str) -> dict[str, float]:
    """Return the series of an exposition that may never fall: those of counters and histograms, but not `_created`."""
    kinds: dict[str, str] = {}
    found: dict[str, float] = {}
    for line in exposition.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            kinds[name] = kind
        elif line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            base = name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")
            if kinds.get(name) == "counter" or kinds.get(base) == "histogram":
                found[series] = float(value)
    return found


def fallen(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Return what went back between two scrapes of one process."""
    return [
        f"{series} fell from {value:g} to {now[series]:g}"
        for series, value in before.items()
        if now.get(series, value) < value
    ]


def feeds(keys: Iterable[Key]) -> Counter[str]:
    """Count samples by feed."""
    return Counter(key.feed for key in keys)
