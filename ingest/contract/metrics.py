"""The metrics of an ingest API: both declare these names, so one dashboard and one set of rules reads either.

Label values come from the contract alone, never from a request. The registry is an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from time import perf_counter
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from ingest.contract.wire import Feed

Stage = Literal["decode", "queue", "insert", "commit"]

STAGES: Final[tuple[Stage, ...]] = ("decode", "queue", "insert", "commit")
TABLES: Final = ("ram", "cpu", "procesos", "process_samples", "processes")

_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""From the decoding of one small sample to the longest transaction (limits.TRANSACTION_SECONDS)."""

_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
"""To the most that one API puts into a transaction."""


class Metrics:
    """What an API counts. Every series is there from the start, so that a rate has its zero."""

    def __init__(self, registry: CollectorRegistry, api: Literal["raw", "orm"], version: str) -> None:
        self.registry = registry
        self._requests = Counter(
            "latido_ingest_requests_total", "Requests to the feeds' endpoints.", ["feed", "status"], registry=registry
        )
        self._stages = Histogram(
            "latido_ingest_stage_seconds",
            "Time that stages of a push took: decode and queue by request, insert and commit by transaction.",
            ["stage"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._batches = Histogram(
            "latido_ingest_batch_pushes",
            "Pushes that a committed transaction held.",
            buckets=_BATCHES,
            registry=registry,
        )
        self._samples = Counter("latido_ingest_samples_total", "Samples stored.", ["feed"], registry=registry)
        self._duplicates = Counter(
            "latido_ingest_duplicates_total", "Samples that were stored already.", ["feed"], registry=registry
        )
        self._rows = Counter(
            "latido_ingest_rows_total",
            "Rows sent to tables in transactions that committed; of processes also some that were there.",
            ["table"],
            registry=registry,
        )
        self._unknown = Counter(
            "latido_ingest_unknown_fields_total",
            "Fields that this version does not know and ignored.",
            ["feed"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "latido_ingest_requests_in_flight", "Pushes being read, decoded or stored.", registry=registry
        )
        self._connections = Gauge(
            "latido_ingest_connections_max",
            "Connections to the database that may write at the same time.",
            registry=registry,
        )
        self._connections_in_use = Gauge(
            "latido_ingest_connections_in_use",
            "Connections to the database that a push or batch holds.",
            registry=registry,
        )
        info = Gauge("latido_ingest_build_info", "1, by API and version.", ["api", "version"], registry=registry)
        info.labels(api, version).set(1)
        ProcessCollector(registry=registry)  # what a row costs: the program's CPU time beside its rows
        # A look-up of a series by its labels costs more than counting does: those of every push are kept.
        self._stored = {feed: self._requests.labels(feed.value, "201") for feed in Feed}
        self._samples_of = {feed: self._samples.labels(feed.value) for feed in Feed}
        self._duplicates_of = {feed: self._duplicates.labels(feed.value) for feed in Feed}
        self._stage_of = {stage: self._stages.labels(stage) for stage in STAGES}
        for feed in Feed:
            self._unknown.labels(feed.value)
        for table in TABLES:
            self._rows.labels(table)

    def request(self, feed: Feed, status: int) -> None:
        """Count an answer."""
        if status == HTTPStatus.CREATED:
            self._stored[feed].inc()
        else:
            self._requests.labels(feed.value, str(status)).inc()

    def stored(self, feed: Feed, *, accepted: int, duplicates: int) -> None:
        """Count the samples of pushes that committed."""
        if accepted:
            self._samples_of[feed].inc(accepted)
        if duplicates:
            self._duplicates_of[feed].inc(duplicates)

    def batch(self, pushes: int) -> None:
        """Record how many pushes a transaction held that committed."""
        self._batches.observe(pushes)

    def rows(self, table: str, count: int) -> None:
        """Count rows of a transaction that committed."""
        self._rows.labels(table).inc(count)

    def unknown_fields(self, feed: Feed, count: int) -> None:
        """Count fields that were ignored."""
        if count:
            self._unknown.labels(feed.value).inc(count)

    def in_flight(self, count: Callable[[], int]) -> None:
        """Say who knows how many pushes are in; asked when somebody reads the metrics."""
        self._in_flight.set_function(count)

    def pool(self, size: int) -> None:
        """Say how many connections may write at the same time."""
        self._connections.set(size)

    @contextmanager
    def connection(self) -> Iterator[None]:
        """Count a connection as in use while the block runs."""
        self._connections_in_use.inc()
        try:
            yield
        finally:
            self._connections_in_use.dec()

    def took(self, stage: Stage, seconds: float) -> None:
        """Record how long a stage took."""
        self._stage_of[stage].observe(seconds)

    def timed(self, stage: Stage) -> _Timed:
        """Record how long a block takes, however it ends."""
        return _Timed(self._stage_of[stage])


class _Timed:
    """A block being timed. No generator's context manager: that costs each push twice as much."""

    __slots__ = ("_series", "_start")

    def __init__(self, series: Histogram) -> None:
        self._series = series

    def __enter__(self) -> None:
        """Begin."""
        self._start = perf_counter()

    def __exit__(self, *_: object) -> None:
        """End."""
        self._series.observe(perf_counter() - self._start)
