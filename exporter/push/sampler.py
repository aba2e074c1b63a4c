"""The sampler: at every interval one reading of each feed goes into the spool, with the table that it leaves behind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from typing import Final, TypeVar

from exporter.model import CpuSample, ProcessTable, RamSample, Source, SourceError
from exporter.push import payload
from exporter.push.metrics import PushMetrics
from exporter.push.spool import Spool
from ingest.contract import wire
from ingest.contract.wire import Feed
from latido import logs

log = logs.get(__name__)

T = TypeVar("T")

DAY_MS: Final = 86_400_000
BOOT_ID: Final = "boot_id"
BOOT_TIME: Final = "boot_time_ms"


class Sampler:
    """Takes samples from a source into a spool. `clock` yields milliseconds since the epoch."""

    def __init__(
        self,
        source: Source,
        spool: Spool,
        metrics: PushMetrics,
        *,
        boot_id: str,
        keyframe_ms: int,
        clock: Callable[[], int],
        feeds: Collection[Feed] = tuple(Feed),
    ) -> None:
        self._source = source
        self._spool = spool
        self._metrics = metrics
        self._boot_id = boot_id
        self._keyframe_ms = keyframe_ms
        self._clock = clock
        self._feeds = frozenset(feeds)
        self._boot_time_ms: int | None = None
        self._previous: payload.Previous | None = None
        self._booted_since = False
        self._last_keyframe: int | None = None
        self._last_sampled_at = 0
        self._resume()

    def _resume(self) -> None:
        """Go on from the spool's table if it is of this boot."""
        spool = self._spool
        boot_id, boot_time = spool.fact(BOOT_ID), spool.fact(BOOT_TIME)
        if boot_id == self._boot_id and boot_time is not None:
            self._boot_time_ms = int(boot_time)
            rows = spool.baseline()
            if rows:
                self._previous = payload.table_of(rows)
        else:
            # Every process began after the previous sample, if there was one.
            self._booted_since = boot_id is not None and bool(spool.baseline())

    def take(self) -> None:
        """Read every feed and keep what could be read; a feed that fails is logged, counted and left for next time."""
        ram = self._read(Feed.RAM, self._source.ram) if Feed.RAM in self._feeds else None
        cpu = self._read(Feed.CPU, self._source.cpu) if self._feeds & {Feed.CPU, Feed.PROCESOS} else None
        table = self._read(Feed.PROCESOS, self._source.processes) if Feed.PROCESOS in self._feeds else None
        if cpu is not None and self._boot_time_ms is None:
            self._boot_time_ms = cpu.boot_time_seconds * 1000
        self._keep(self._clock(), ram, cpu if Feed.CPU in self._feeds else None, table)

    def _read(self, feed: Feed, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except SourceError as error:
            self._metrics.failed.labels(feed).inc()
            log.error("a feed could not be read", feed=feed.value, reason=str(error))
            return None

    def _keep(self, now: int, ram: RamSample | None, cpu: CpuSample | None, table: ProcessTable | None) -> None:
        spool = self._spool
        found: payload.Changes | None = None
        procesos: wire.ProcesosSample | None = None
        keyframe = False
        if table is not None and self._boot_time_ms is not None:
            keyframe = self._wants_keyframe(now)
            found = payload.changes(
                table,
                self._previous,
                self._boot_time_ms,
                keyframe=keyframe,
                new_since_previous=self._booted_since,
            )
            procesos = payload.procesos_sample(spool.next_seq(Feed.PROCESOS), now, table, found, keyframe=keyframe)
        kept = (
            payload.ram_sample(spool.next_seq(Feed.RAM), now, ram) if ram else None,
            payload.cpu_sample(spool.next_seq(Feed.CPU), now, cpu) if cpu else None,
            procesos,
        )
        taken = [feed for feed, sample in zip((Feed.RAM, Feed.CPU, Feed.PROCESOS), kept, strict=True) if sample]
        try:
            spool.put(
                *kept,
                carried=found.rows if found else (),
                exited=found.exited if found else (),
                new_table=self._previous is None and found is not None,
                # With the table that they belong to, or a crash between would give it to the wrong boot.
                facts={BOOT_ID: self._boot_id, BOOT_TIME: str(self._boot_time_ms)} if found else None,
            )
        except sqlite3.Error as error:
            for feed in taken:
                self._metrics.failed.labels(feed).inc()
            log.error("the spool cannot keep a sample", path=str(spool.path), reason=str(error))
            return
        for feed in taken:
            self._metrics.taken.labels(feed).inc()
        if table is not None and found is not None:
            self._previous = found.previous
            self._booted_since = False
            self._last_keyframe = now if keyframe else self._last_keyframe
            self._last_sampled_at = now

    def _wants_keyframe(self, now: int) -> bool:
        """At the start, after so long, as the first of a UTC day, and when the clock went back."""
        last = self._last_keyframe
        return (
            last is None
            or not 0 <= now - last < self._keyframe_ms
            or now < self._last_sampled_at
            or now // DAY_MS != self._last_sampled_at // DAY_MS
        )
