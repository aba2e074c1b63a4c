"""The bridge's own metrics, on a registry that the program makes."""

from __future__ import annotations

import platform
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ingest.contract.wire import Feed
from latido import settings

CLOSED_REASONS: Final = ("client", "slow", "keepalive", "shutdown", "binary", "protocol", "unauthorized", "error")
REFUSED_STATUSES: Final = ("400", "401", "403", "429", "503")
FRAME_TYPES: Final = ("hello", "snapshot", "sample", "gap", "resume", "backfill", "error")


class Metrics:
    """Every metric of the bridge; labels are made at once, so that a series exists before its first event."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        info = Gauge("latido_bridge_build_info", "Always 1.", ["version", "python"], registry=registry)
        info.labels(settings.version(), platform.python_version()).set(1)
        self.clients = Gauge("latido_bridge_clients", "WebSocket clients that are served now.", registry=registry)
        self.frames = Counter(
            "latido_bridge_frames", "Frames written to clients, by type.", ["type"], registry=registry
        )
        self.gaps = Counter(
            "latido_bridge_gaps", "Times that a client was told of samples it missed.", registry=registry
        )
        self.closed = Counter(
            "latido_bridge_closed", "WebSocket clients that are gone, by reason.", ["reason"], registry=registry
        )
        self.refused = Counter(
            "latido_bridge_refused", "WebSocket handshakes refused, by HTTP status.", ["status"], registry=registry
        )
        self.poll = Histogram(
            "latido_bridge_poll_seconds",
            "Time of a poll of the database, rows read and queued for clients.",
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.sample_age = Histogram(
            "latido_bridge_sample_age_seconds",
            "Age of a sample when it was queued for clients, by the database's clock; late samples are left out.",
            ["feed"],
            registry=registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
        )
        self.samples = Counter(
            "latido_bridge_samples", "Samples read from the database.", ["feed", "late"], registry=registry
        )
        self.invalid = Counter(
            "latido_bridge_invalid_rows", "Rows that do not match the contract and were left out.", ["feed"],
            registry=registry,
        )  # fmt: skip
        self.database_up = Gauge(
            "latido_bridge_database_up", "Whether the last poll reached the database.", registry=registry
        )
        self.rebuilds = Counter(
            "latido_bridge_table_rebuilds", "Process tables rebuilt from the database.", registry=registry
        )
        for status in REFUSED_STATUSES:
            self.refused.labels(status)
        for kind in FRAME_TYPES:
            self.frames.labels(kind)
        for reason in CLOSED_REASONS:
            self.closed.labels(reason)
        for feed in Feed:
            self.sample_age.labels(feed)
            self.invalid.labels(feed)
            for late in ("false", "true"):
                self.samples.labels(feed, late)
