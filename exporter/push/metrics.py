"""What the exporter says of its own push: `latido_push_*` and `latido_spool_*`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exporter.push.spool import Depth
from ingest.contract.wire import Feed


class PushMetrics:
    """The counters of push and spool, in one registry. `api` is the URL as given to --push.url."""

    def __init__(self, registry: CollectorRegistry, apis: Iterable[str]) -> None:
        self.samples = Counter(
            "latido_push_samples", "Samples that the API acknowledged.", ["api", "feed"], registry=registry
        )
        self.duplicates = Counter(
            "latido_push_duplicates",
            "Acknowledged samples that the database held already.",
            ["api", "feed"],
            registry=registry,
        )
        self.requests = Counter(
            "latido_push_requests", "Answers by status; 0 is no answer at all.", ["api", "status"], registry=registry
        )
        self.dead = Counter(
            "latido_push_dead_letters",
            "Samples that the API refused for what they hold; the spool keeps them aside.",
            ["api", "feed"],
            registry=registry,
        )
        self.paused = Gauge(
            "latido_push_paused",
            "1 while the API refuses this exporter (401, 403, 404, …) and everything is kept for it.",
            ["api"],
            registry=registry,
        )
        self.last_success = Gauge(
            "latido_push_last_success_timestamp_seconds",
            "When the API last acknowledged a sample; 0 if never since the start.",
            ["api"],
            registry=registry,
        )
        self.taken = Counter(
            "latido_push_samples_taken", "Samples read from the kernel for the spool.", ["feed"], registry=registry
        )
        self.failed = Counter(
            "latido_push_samples_failed",
            "Samples that could not be read or kept; the next one carries their CPU time.",
            ["feed"],
            registry=registry,
        )
        self.dropped = Counter(
            "latido_spool_dropped_samples", "Samples pushed out of the spool by a bound.", ["feed"], registry=registry
        )
        self.lost = Counter(
            "latido_spool_lost_samples",
            "Samples pushed out of the spool that no API had acknowledged.",
            ["feed"],
            registry=registry,
        )
        for feed in Feed:
            for counter in (self.taken, self.failed, self.dropped, self.lost):
                counter.labels(feed)
            for api in apis:
                for counter in (self.samples, self.duplicates, self.dead):
                    counter.labels(api, feed)
        for api in apis:
            self.paused.labels(api).set(0)
            self.last_success.labels(api).set(0)


class SpoolCollector(Collector):
    """How full the spool is, read when scraped."""

    def __init__(self, depth: Callable[[], Depth], now: Callable[[], float]) -> None:
        self._depth = depth
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Yield the gauges."""
        depth = self._depth()
        yield GaugeMetricFamily("latido_spool_bytes", "Bytes of samples in the spool.", value=depth.bytes)
        yield GaugeMetricFamily("latido_spool_samples", "Samples in the spool.", value=depth.samples)
        yield GaugeMetricFamily(
            "latido_spool_dead_letters", "Refused samples that the spool keeps aside.", value=depth.dead_letters
        )
        oldest = 0.0 if depth.oldest_sampled_at is None else self._now() - depth.oldest_sampled_at / 1000
        yield GaugeMetricFamily(
            "latido_spool_oldest_sample_age_seconds", "Age of the oldest sample in the spool; 0 if empty.", value=oldest
        )
        pending = GaugeMetricFamily(
            "latido_spool_pending_samples",
            "Samples in the spool that the API has not acknowledged.",
            labels=["api", "feed"],
        )
        for (api, feed), count in sorted(depth.pending.items()):
            pending.add_metric([api, feed], count)
        yield pending

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: names are checked at the first scrape, and registering must not touch the disk."""
        return ()
