"""The collectors: true values, each isolated from the others, each feed read once a scrape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from io import StringIO

import numpy as np
import pytest

from exporter.collectors.cpu import CpuCollector
from exporter.collectors.driver import MachineCollector, make_collectors
from exporter.collectors.processes import ProcessesCollector, Unattributed
from exporter.collectors.reading import Collector, Reading
from exporter.collectors.settings import CollectorSettings
from exporter.model import (
    PROCESS_DTYPE,
    UNKNOWN,
    CpuSample,
    CpuTimes,
    ExitRecords,
    ProcessTable,
    RamSample,
    SourceError,
)
from latido import logs, settings

SECOND = 1_000_000_000
ZERO = CpuTimes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
RAM = RamSample(100, 20, 50, 10, 5, 8, 7)
CPU = CpuSample(
    replace(ZERO, user_ns=SECOND), {0: replace(ZERO, user_ns=SECOND)}, 0.5, 0.25, 0.125, 9, 4, 1_700_000_000
)


def table(*rows: tuple[int, bytes, int]) -> ProcessTable:
    """Return processes of (pid, command, user_ns)."""
    records = np.zeros(len(rows), PROCESS_DTYPE)
    records["state"] = b"S"
    for position, (pid, command, user_ns) in enumerate(rows):
        records["pid"][position], records["command"][position], records["user_ns"][position] = pid, command, user_ns
    return ProcessTable(records, {})


@dataclass
class Machine:
    """A source whose values a test sets: feeds must fail, and kernels behave, on demand."""

    name: str = "procfs"
    ram_sample: RamSample = RAM
    cpu_sample: CpuSample = CPU
    process_table: ProcessTable = field(default_factory=lambda: table((1, b"init", 0)))
    failing: set[str] = field(default_factory=set)
    reads: list[str] = field(default_factory=list)

    def _read(self, feed: str) -> None:
        self.reads.append(feed)
        if feed in self.failing:
            raise SourceError(f"/proc/{feed}: expected a line, found none")

    def ram(self) -> RamSample:
        self._read("ram")
        return self.ram_sample

    def cpu(self) -> CpuSample:
        self._read("cpu")
        return self.cpu_sample

    def processes(self) -> ProcessTable:
        self._read("processes")
        return self.process_table

    def close(self) -> None:
        """Hold nothing."""


def chosen(*, ram: bool = True, cpu: bool = True, processes: bool = True) -> CollectorSettings:
    argv = [
        f"--{'' if on else 'no-'}collector.{name}"
        for name, on in (("ram", ram), ("cpu", cpu), ("processes", processes))
    ]
    return settings.load(CollectorSettings, "test", "", argv, {})


def registered(machine: Machine, collectors: list[Collector] | None = None) -> MachineCollector:
    return MachineCollector(machine, make_collectors(chosen()) if collectors is None else collectors)


def scrape(registry: MachineCollector) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample by name and label values."""
    return {
        (family.name + family.kind.suffix, row): value
        for family in registry.collect()
        for row, value in zip(family.labels, family.values, strict=True)
    }


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, object]]]]:
    stream = StringIO()
    logs.setup("info", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.setup("info", "console")


def test_each_feed_is_read_once_a_scrape_and_not_before() -> None:
    machine = Machine()
    registry = registered(machine)
    assert machine.reads == []
    scrape(registry)
    assert sorted(machine.reads) == ["cpu", "processes", "ram"]
    scrape(registry)
    assert len(machine.reads) == 6


def test_memory_is_the_sample() -> None:
    samples = scrape(registered(Machine()))
    assert samples["latido_memory_total_bytes", ()] == 100
    assert samples["latido_memory_available_bytes", ()] == 50
    assert samples["latido_swap_free_bytes", ()] == 7
    assert ("latido_memory_shared_bytes", ()) not in samples
    assert scrape(registered(Machine(ram_sample=replace(RAM, slab_bytes=0))))["latido_memory_slab_bytes", ()] == 0


@pytest.mark.parametrize(
    ("failing", "metric"),
    [("ram", "latido_memory_total_bytes"), ("cpu", "latido_load1"), ("processes", "latido_threads")],
)
def test_failing_feed_takes_no_other_with_it(
    failing: str, metric: str, log: Callable[[], list[dict[str, object]]]
) -> None:
    machine = Machine(failing={failing})
    samples = scrape(registered(machine))
    for name in ("ram", "cpu", "processes"):
        assert samples["latido_collector_success", (name,)] == (name != failing)
        assert samples["latido_collector_duration_seconds", (name,)] >= 0
    for name in ("latido_memory_total_bytes", "latido_load1", "latido_threads"):
        assert ((name, ()) in samples) == (name != metric)
    (line,) = [line for line in log() if line["event"] == "collector failed"]
    assert line["collector"] == failing
    assert line["error"] == f"/proc/{failing}: expected a line, found none"
    assert "trace" not in line
    assert machine.reads.count(failing) == 1


def test_defect_in_a_collector_takes_no_other_with_it(log: Callable[[], list[dict[str, object]]]) -> None:
    class Broken:
        name = "broken"

        def collect(self, reading: Reading) -> list[object]:
            raise ZeroDivisionError(str(reading.now))

    machine = Machine()
    samples = scrape(registered(machine, [Broken(), *make_collectors(chosen())]))  # type: ignore[list-item] # broken in its type, too
    assert samples["latido_collector_success", ("broken",)] == 0
    assert samples["latido_collector_success", ("processes",)] == 1
    (line,) = log()
    assert (line["level"], line["collector"]) == ("error", "broken")
    assert "ZeroDivisionError" in str(line["trace"])


def test_process_table_is_whole_while_cpu_cannot_be_read() -> None:
    samples = scrape(registered(Machine(failing={"cpu"})))
    assert samples["latido_group_processes", ("init",)] == 1
    assert ("latido_group_oldest_start_time_seconds", ("init",)) not in samples
    assert ("latido_cpu_unattributed_seconds_total", ()) not in samples


def test_collector_that_is_off_reads_nothing_and_exposes_nothing() -> None:
    machine = Machine()
    samples = scrape(registered(machine, make_collectors(chosen(ram=False, processes=False))))
    assert machine.reads == ["cpu"]
    assert {name for name, _ in samples if "memory" in name or "group" in name or "swap" in name} == set()
    assert samples["latido_collector_success", ("cpu",)] == 1
    assert ("latido_collector_success", ("ram",)) not in samples


def test_start_times_need_no_cpu_collector() -> None:
    machine = Machine()
    samples = scrape(registered(machine, make_collectors(chosen(ram=False, cpu=False))))
    assert samples["latido_group_oldest_start_time_seconds", ("init",)] == 1_700_000_000


def test_ready_once_every_collector_has_worked() -> None:
    machine = Machine(failing={"ram", "cpu"})
    collector = MachineCollector(machine, make_collectors(chosen()))
    assert collector.waits_for() == "no read has worked yet for: cpu, processes, ram"
    list(collector.collect())
    assert collector.waits_for() == "no read has worked yet for: cpu, ram"
    machine.failing.clear()
    list(collector.collect())
    assert collector.waits_for() is None
    machine.failing.add("cpu")
    list(collector.collect())
    assert collector.waits_for() is None


def test_modes_of_a_cpu_add_up_to_its_time_with_guests_apart() -> None:
    times = CpuTimes(*(number * SECOND for number in range(1, 11)))
    samples = scrape(registered(Machine(cpu_sample=replace(CPU, cores={3: times}))))
    modes = {labels: value for (name, labels), value in samples.items() if name == "latido_cpu_seconds_total"}
    assert modes["3", "user"] == 1
    assert modes["3", "steal"] == 8
    assert sum(modes.values()) == sum(range(1, 9))
    assert samples["latido_cpu_guest_seconds_total", ("3", "user")] == 9
    assert samples["latido_cpu_guest_seconds_total", ("3", "nice")] == 10


def test_cpu_time_that_steps_back_a_little_keeps_its_value_and_an_unplugged_cpu_starts_again() -> None:
    machine = Machine()
    registry = registered(machine, [CpuCollector()])
    seen = []
    for idle in (100.0, 99.98, 100.01, 2.0):
        machine.cpu_sample = replace(CPU, cores={0: replace(ZERO, idle_ns=int(idle * SECOND))})
        seen.append(scrape(registry)["latido_cpu_seconds_total", ("0", "idle")])
    assert seen == [100.0, 100.0, 100.01, 2.0]


def test_cpu_that_goes_offline_disappears() -> None:
    machine = Machine(cpu_sample=replace(CPU, cores={0: ZERO, 1: ZERO}))
    registry = registered(machine, [CpuCollector()])
    assert ("latido_cpu_seconds_total", ("1", "user")) in scrape(registry)
    machine.cpu_sample = replace(CPU, cores={0: ZERO})
    assert ("latido_cpu_seconds_total", ("1", "user")) not in scrape(registry)


def test_what_processes_used_between_two_scrapes_is_unattributed() -> None:
    """The machine spends 10 s; of these, init 4. The rest is of processes that no scrape saw."""
    machine = Machine()
    registry = registered(machine)
    assert scrape(registry)["latido_cpu_unattributed_seconds_total", ()] == 0
    machine.cpu_sample = replace(CPU, total=replace(ZERO, user_ns=8 * SECOND, nice_ns=SECOND, system_ns=2 * SECOND))
    machine.process_table = table((1, b"init", 4 * SECOND))
    samples = scrape(registry)
    assert samples["latido_group_cpu_seconds_total", ("init", "user")] == 4
    assert samples["latido_cpu_unattributed_seconds_total", ()] == 6


def test_interrupts_idle_and_stolen_time_are_no_process_s() -> None:
    unattributed = Unattributed()
    unattributed.update(CPU, 0)
    other = replace(ZERO, user_ns=SECOND, idle_ns=9 * SECOND, iowait_ns=9, irq_ns=9, softirq_ns=9, steal_ns=9)
    assert unattributed.update(replace(CPU, total=other), 0) == 0


def test_unattributed_never_falls() -> None:
    """Machine and processes are read one after the other: a lead may turn out to have been a process's after all."""
    unattributed = Unattributed()
    values = [
        unattributed.update(replace(CPU, total=replace(ZERO, user_ns=busy * SECOND)), attributed * SECOND)
        for busy, attributed in ((100, 0), (110, 8), (112, 12), (120, 15))
    ]
    assert [value // SECOND for value in values] == [0, 2, 2, 5]


def test_table_that_knows_exits_leaves_nothing_unattributed_and_one_that_stops_to_counts_from_there() -> None:
    name = ("latido_cpu_unattributed_seconds_total", ())
    none = np.zeros(0, PROCESS_DTYPE)
    plain = table((1, b"init", 0))
    machine = Machine(process_table=replace(plain, exits=ExitRecords(none, none, np.zeros(0, np.int64))))
    registry = registered(machine)
    assert name not in scrape(registry)
    machine.process_table = plain
    assert scrape(registry)[name] == 0.0


def test_metric_that_no_process_knows_is_absent() -> None:
    unknown = table((1, b"init", 0))
    for name in ("swap_bytes", "read_bytes", "written_bytes", "voluntary_switches", "involuntary_switches"):
        unknown.records[name] = UNKNOWN
    names = {name for name, _ in scrape(registered(Machine(process_table=unknown)))}
    assert (
        names
        & {
            "latido_group_swap_bytes",
            "latido_group_read_bytes_total",
            "latido_group_written_bytes_total",
            "latido_group_context_switches_total",
        }
        == set()
    )
    assert "latido_group_page_faults_total" in names


def test_groups_are_as_many_as_the_flag_says() -> None:
    processes = table(*((pid, b"p%d" % pid, 0) for pid in range(1, 100)))
    samples = scrape(registered(Machine(process_table=processes), [ProcessesCollector(max_groups=5)]))
    counts = {labels[0]: value for (name, labels), value in samples.items() if name == "latido_group_processes"}
    assert len(counts) == 5
    assert counts["other"] == 95
    assert sum(counts.values()) == 99


def test_largest_number_of_groups_is_bounded_too() -> None:
    with pytest.raises(settings.SettingsError, match=r"--collector\.processes\.max-groups: expected a whole number"):
        settings.load(CollectorSettings, "test", "", ["--collector.processes.max-groups=1"], {})
