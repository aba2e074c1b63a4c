"""The kernel modules' source over files that a guest gave, and the choice between sources."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from exporter.model import CpuSample, ProcessTable, RamSample, SourceError
from exporter.sources import record
from exporter.sources.choose import FallingBackSource, open_source, source_name
from exporter.sources.kmod import KmodSource

FIXTURE = Path(__file__).parent / "fixtures" / "kmod"

MEMINFO = """MemTotal: 1 kB
MemFree: 1 kB
MemAvailable: 1 kB
Buffers: 1 kB
Cached: 1 kB
SwapTotal: 4096 kB
SwapFree: 1 kB
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a /proc with the modules' files and what completes them."""
    for name in ("latido_ram", "latido_cpu", "latido_procesos", "latido_procesos.bin"):
        shutil.copy(FIXTURE / name, tmp_path / name)
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "stat").write_text("cpu  1 2 3\nintr 5 6\nctxt 777\nbtime 1\nprocesses 99\n")
    _write_exits(tmp_path, np.fromfile(FIXTURE / "exits.bin", record.RECORD_DTYPE))
    return tmp_path


def _write_exits(root: Path, records: np.ndarray[tuple[int], np.dtype[np.void]]) -> None:
    """Place each record at its number, as the file of the module does."""
    with (root / "latido_procesos.exits").open("wb") as file:
        for row in records:
            file.seek(int(row["number"]) * record.RECORD_DTYPE.itemsize)
            file.write(row.tobytes())


def _replace_header(root: Path, name: str, value: int) -> None:
    path = root / "latido_procesos.bin"
    data = bytearray(path.read_bytes())
    np.frombuffer(data, record.HEADER_DTYPE, count=1)[name] = value
    with path.open("r+b") as file:  # the same inode: the source holds it open
        file.write(data)


def test_memory_is_the_modules_and_swap_is_completed(root: Path) -> None:
    with closing(KmodSource(root)) as source:
        ram = source.ram()
    assert ram.swap_total_bytes == 4096 * 1024
    assert ram.swap_free_bytes == 0
    assert 700 * 2**20 < ram.total_bytes <= 768 * 2**20  # the guest's
    assert ram.slab_bytes is not None
    assert ram.free_bytes < ram.total_bytes


def test_cpu_is_the_modules_and_counts_are_completed(root: Path) -> None:
    with closing(KmodSource(root)) as source:
        cpu = source.cpu()
    assert (cpu.context_switches, cpu.forks) == (777, 99)
    assert sorted(cpu.cores) == [0, 1]
    assert cpu.total.user_ns == sum(core.user_ns for core in cpu.cores.values()) > 0
    assert cpu.total.idle_ns == sum(core.idle_ns for core in cpu.cores.values())


def test_every_process_of_the_table_is_there(root: Path) -> None:
    with closing(KmodSource(root)) as source:
        table = source.processes()
    first = table.records[0]
    assert (first["pid"], first["ppid"], first["command"]) == (1, 0, b"init")
    assert table.cgroups[int(first["cgroup"])] == "/"
    assert table.exits is not None
    assert len(table.exits.records) == 0, "what ended before the first table was in none"


def test_exits_since_the_last_table_come_with_the_next(root: Path) -> None:
    ended = np.fromfile(FIXTURE / "exits.bin", record.RECORD_DTYPE)
    _replace_header(root, "newest_exit", int(ended["number"][-4]))
    with closing(KmodSource(root)) as source:
        source.processes()
        _replace_header(root, "newest_exit", int(ended["number"][-1]))
        second = source.processes()
        third = source.processes()
    assert second.exits is not None
    assert third.exits is not None
    assert second.exits.records["pid"].tolist() == ended["pid"][-3:].tolist()
    assert set(second.exits.records["state"].tolist()) == {b"X"}
    assert len(second.exits.missed) == 0
    assert len(third.exits.records) == 0


def test_a_module_that_was_loaded_anew_counts_from_one(root: Path) -> None:
    ended = np.fromfile(FIXTURE / "exits.bin", record.RECORD_DTYPE)
    ended["number"] = np.arange(1, len(ended) + 1)
    with closing(KmodSource(root)) as source:
        source.processes()
        _replace_header(root, "loaded_ns", 123_456)
        _replace_header(root, "newest_exit", len(ended))
        _write_exits(root, ended)
        table = source.processes()
    assert table.exits is not None
    assert table.exits.records["pid"].tolist() == ended["pid"].tolist()


def test_a_missing_module_is_named(root: Path) -> None:
    (root / "latido_cpu").unlink()
    with pytest.raises(SourceError, match="latido_cpu: cannot be opened: the module is not loaded"):
        KmodSource(root)


def test_another_version_is_refused_at_the_start(root: Path) -> None:
    text = (root / "latido_cpu").read_text()
    (root / "latido_cpu").write_text(text.replace('"version":1', '"version":2'))
    with pytest.raises(SourceError, match="latido_cpu: expected version 1, found 2"):
        KmodSource(root)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version":1}', '{"version":1,"total_bytes":"x"}', "\xff"])
def test_a_document_that_is_not_the_modules_is_refused(root: Path, text: str) -> None:
    (root / "latido_ram").write_text(text)
    with pytest.raises(SourceError, match="latido_ram"):
        KmodSource(root)


def test_a_failed_start_leaves_no_descriptor_open(root: Path) -> None:
    (root / "latido_procesos.bin").write_bytes(b"")
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(SourceError):
        KmodSource(root)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


class Failing:
    """A source that works until it is told to stop."""

    name = "failing"

    def __init__(self, _: Path = Path("/proc")) -> None:
        self.works = True
        self.closed = False

    def ram(self) -> RamSample:
        if not self.works:
            raise SourceError("/proc/latido_ram: cannot be read: Input/output error")
        return RamSample(1, 1, 1, 1, 1, 1, 1)

    def cpu(self) -> CpuSample:
        raise SourceError("no CPU")

    def processes(self) -> ProcessTable:
        raise SourceError("no processes")

    def close(self) -> None:
        self.closed = True


def test_auto_goes_on_with_the_next_source_when_one_stops(root: Path) -> None:
    first = Failing()
    with closing(FallingBackSource([("failing", lambda _: first), ("kmod", KmodSource)], root, "scrape")) as source:
        assert (source.name, source.ram().total_bytes) == ("failing", 1)
        first.works = False
        assert source.ram().total_bytes > 1
        assert source.name == "kmod"
        assert first.closed


def test_auto_takes_procfs_where_no_module_is_loaded_and_no_program_may_read() -> None:
    """A captured /proc is of another kernel than the one that a BPF program would read."""
    with closing(open_source("auto", Path(__file__).parent / "fixtures" / "proc", "scrape")) as source:
        assert source.name == "procfs"
        assert len(source.processes()) > 0


def test_the_last_source_says_what_failed(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="latido_ram: cannot be opened: the module is not loaded"):
        open_source("kmod", tmp_path, "scrape")
    last = Failing()
    source = FallingBackSource([("failing", lambda _: last)], tmp_path, "scrape")
    last.works = False
    with pytest.raises(SourceError, match="Input/output error"):
        source.ram()
    assert not last.closed, "it may work again"


def test_a_source_that_is_not_known_is_refused_with_those_that_are() -> None:
    assert source_name("kmod") == "kmod"
    with pytest.raises(ValueError, match="expected one of auto, kmod, bpf, procfs, got 'ebpf'"):
        source_name("ebpf")
