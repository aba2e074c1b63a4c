"""Memory and swap of the machine: `RamSample` to metric families."""

from __future__ import annotations

from collections.abc import Iterator

from exporter.collectors.reading import Reading
from exporter.exposition import Family, Kind


class RamCollector:
    """Exposes `latido_memory_*` and `latido_swap_*`. What the source cannot know is absent."""

    name = "ram"

    def collect(self, reading: Reading) -> Iterator[Family]:
        """Yield the families of one scrape. Raises SourceError."""
        sample = reading.ram()
        values = (
            ("latido_memory_total_bytes", "Memory that the kernel manages.", sample.total_bytes),
            ("latido_memory_free_bytes", "Memory that nothing uses.", sample.free_bytes),
            (
                "latido_memory_available_bytes",
                "Memory that new work can have without swapping, as the kernel estimates.",
                sample.available_bytes,
            ),
            ("latido_memory_cached_bytes", "Page cache and shared memory.", sample.cached_bytes),
            ("latido_memory_buffers_bytes", "Cache of block devices.", sample.buffers_bytes),
            ("latido_memory_shared_bytes", "Shared memory and tmpfs.", sample.shared_bytes),
            ("latido_memory_slab_bytes", "The kernel's own data structures.", sample.slab_bytes),
            ("latido_swap_total_bytes", "Swap space.", sample.swap_total_bytes),
            ("latido_swap_free_bytes", "Swap space that nothing uses.", sample.swap_free_bytes),
        )
        for name, documentation, value in values:
            if value is not None:
                yield Family(name, Kind.GAUGE, documentation, (value,))
