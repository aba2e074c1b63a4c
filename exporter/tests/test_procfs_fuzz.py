"""A whole /proc whose files vanish, refuse or hold garbage: the scrape goes on, and says what could not be read."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from exporter.collectors.driver import MachineCollector, make_collectors
from exporter.collectors.settings import CollectorSettings
from exporter.exposition import Family
from exporter.model import SourceError
from exporter.sources.procfs import ProcfsSource
from latido import settings

FIXTURE = Path(__file__).parent / "fixtures" / "proc"
PROCESSES = ("402", "611", "612", "700", "705")
FILES = (
    "meminfo",
    "stat",
    "loadavg",
    *(f"{pid}/{name}" for pid in PROCESSES for name in ("stat", "status", "io", "cgroup")),
)
PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"9" * 5000, b"-1", b" ", b"\n", b"\0", b"1_0", b"e9", b"18446744073709551616"]),
)
DAMAGE = st.one_of(
    st.sampled_from(["gone", "empty", "folder", "loop"]), st.tuples(st.integers(0, 3000), st.integers(0, 60), PIECES)
)


def damage(file: Path, how: str | tuple[int, int, bytes]) -> None:
    """Do to a file what a kernel, a mount or an attacker may have done."""
    content = file.read_bytes()
    file.unlink()
    if isinstance(how, tuple):
        start, length, piece = how
        start = min(start, len(content))
        file.write_bytes(content[:start] + piece + content[start + length :])
    elif how == "empty":
        file.touch()
    elif how == "folder":
        file.mkdir()  # opens, and refuses to be read: as a file whose process ended, or that the kernel denies
    elif how == "loop":
        file.symlink_to(file)  # refuses to be opened


@given(st.lists(st.tuples(st.sampled_from(FILES), DAMAGE), max_size=6, unique_by=lambda each: each[0]))
def test_only_documented_errors_escape_and_the_scrape_tells(
    damaged: list[tuple[str, str | tuple[int, int, bytes]]],
) -> None:
    with TemporaryDirectory() as folder:
        root = Path(shutil.copytree(FIXTURE, Path(folder) / "proc"))
        for name, how in damaged:
            damage(root / name, how)
        with closing(ProcfsSource(root)) as source:
            works = {}
            for feed, read in (("ram", source.ram), ("cpu", source.cpu), ("processes", source.processes)):
                try:
                    read()
                    works[feed] = True
                except SourceError as error:
                    assert str(root) in str(error)  # noqa: PT017 - most damage is none, or of one process
                    works[feed] = False
            chosen = settings.load(CollectorSettings, "test", "", [], {})
            machine = MachineCollector(source, make_collectors(chosen))
            families = {family.name: family for family in machine.collect()}
    assert successes(families["latido_collector_success"]) == works
    assert ("latido_memory_total_bytes" in families) == works["ram"]
    assert ("latido_cpu_seconds" in families) == works["cpu"]
    assert ("latido_group_processes" in families) == works["processes"]


def successes(family: Family) -> dict[str, bool]:
    """Return what `latido_collector_success` says, by collector."""
    return {row[0]: bool(value) for row, value in zip(family.labels, family.values, strict=True)}
