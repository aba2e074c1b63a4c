"""CPU time, load and context switches of the machine: `CpuSample` to metric families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from exporter.collectors.reading import NS, Reading
from exporter.exposition import Family, Kind
from exporter.model import CpuTimes

_MODES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_GUEST_MODES: Final = {"user": "guest_ns", "nice": "guest_nice_ns"}

_RESET_NS: Final = 3 * NS
"""iowait and idle step back by some ticks (proc(5): iowait "is not reliable"): their last value is kept. A step as
large as this is a CPU that was unplugged and counts anew."""


class CpuCollector:
    """Exposes `latido_cpu_*`, `latido_load*` and the counts of /proc/stat."""

    name = "cpu"

    def __init__(self) -> None:
        self._last: dict[int, dict[str, int]] = {}

    def collect(self, reading: Reading) -> Iterator[Family]:
        """Yield the families of one scrape. Raises SourceError."""
        sample = reading.cpu()
        self._last = {number: _forward(self._last.get(number), times) for number, times in sample.cores.items()}
        cores = sorted(self._last.items())
        yield Family(
            "latido_cpu_seconds",
            Kind.COUNTER,
            "CPU time by mode. The modes of a CPU add up to its time; user and nice hold what guests used.",
            [values[f"{mode}_ns"] / NS for _, values in cores for mode in _MODES],
            ("cpu", "mode"),
            tuple((str(number), mode) for number, _ in cores for mode in _MODES),
        )
        yield Family(
            "latido_cpu_guest_seconds",
            Kind.COUNTER,
            "The part of user and nice that virtual machines used.",
            [values[name] / NS for _, values in cores for name in _GUEST_MODES.values()],
            ("cpu", "mode"),
            tuple((str(number), mode) for number, _ in cores for mode in _GUEST_MODES),
        )
        for minutes, load in ((1, sample.load1), (5, sample.load5), (15, sample.load15)):
            documentation = f"Tasks that ran or waited for disk, averaged over {minutes} min."
            yield Family(f"latido_load{minutes}", Kind.GAUGE, documentation, (load,))
        yield Family(
            "latido_context_switches", Kind.COUNTER, "Context switches of all CPUs.", (sample.context_switches,)
        )
        yield Family("latido_forks", Kind.COUNTER, "Processes and threads made since boot.", (sample.forks,))
        yield Family(
            "latido_boot_time_seconds",
            Kind.GAUGE,
            "When the machine booted, in Unix time.",
            (sample.boot_time_seconds,),
        )


def _forward(last: dict[str, int] | None, times: CpuTimes) -> dict[str, int]:
    """Return the times by field; none steps back by less than _RESET_NS."""
    values = {name: getattr(times, name) for name in CpuTimes.__slots__}
    if last is None or any(last[name] - value >= _RESET_NS for name, value in values.items()):
        return values
    return {name: max(value, last[name]) for name, value in values.items()}
