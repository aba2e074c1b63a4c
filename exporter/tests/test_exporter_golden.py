"""The whole scrape of a captured host, byte for byte; `pytest --update-golden` writes it anew, to be read in the diff.

The host was captured at two moments (fixtures/proc and fixtures/proc-later, by hand made anonymous): in between nginx
worked, one of its workers ended and cron began. Process 1 has no io file, as where reading it is refused.
"""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from exporter.collectors.driver import MachineCollector, make_collectors
from exporter.collectors.settings import CollectorSettings
from exporter.model import CpuSample, ProcessTable, RamSample, Source
from exporter.sources.procfs import ProcfsSource
from exporter.web import Format, Scrape, scraper

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "metrics.prom"
MAX_GROUPS = 11


class Moments:
    """A source that goes on to the next of several when told: the same host, later."""

    name = "procfs"

    def __init__(self, *sources: Source) -> None:
        self._later = iter(sources)
        self._now = next(self._later)

    def advance(self) -> None:
        self._now = next(self._later)

    def ram(self) -> RamSample:
        return self._now.ram()

    def cpu(self) -> CpuSample:
        return self._now.cpu()

    def processes(self) -> ProcessTable:
        return self._now.processes()

    def close(self) -> None:
        self._now.close()


def everything(procfs: Path = Path("/proc")) -> CollectorSettings:
    return CollectorSettings(procfs=procfs, ram=True, cpu=True, processes=True, max_groups=MAX_GROUPS)


@pytest.fixture
def scrape() -> Iterator[Scrape]:
    """Return the second scrape of the captured host: the first was at the earlier moment."""
    ticks = itertools.count()
    with (
        closing(ProcfsSource(HERE / "fixtures" / "proc")) as earlier,
        closing(ProcfsSource(HERE / "fixtures" / "proc-later")) as later,
    ):
        source = Moments(earlier, later)
        machine = MachineCollector(
            source,
            make_collectors(everything()),
            clock=lambda: next(ticks) / 1024,
            version="1.2.3",
            python="3.11.0",
        )
        scrape = scraper(machine, CollectorRegistry())
        scrape(Format.TEXT)
        source.advance()
        yield scrape


def test_scrape_equals_the_golden_one(scrape: Scrape, request: pytest.FixtureRequest) -> None:
    produced = scrape(Format.TEXT)
    if request.config.getoption("--update-golden"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_bytes(produced)
    assert produced.decode() == GOLDEN.read_text(encoding="utf-8")


def lint(promtool: Path, exposition: bytes) -> str:
    """Return what `promtool check metrics` has to say: nothing, if all is well."""
    done = subprocess.run([promtool, "check", "metrics"], input=exposition, capture_output=True, check=False)
    return f"{done.stdout.decode()}{done.stderr.decode()}" + (f"exit {done.returncode}" if done.returncode else "")


def test_golden_scrape_passes_promtool(promtool: Path) -> None:
    assert lint(promtool, GOLDEN.read_bytes()) == ""


def test_scrape_of_this_machine_passes_promtool(promtool: Path) -> None:
    """Twice, so that counters have counted; whatever runs here, however it is named."""
    with closing(ProcfsSource()) as source:
        scrape = scraper(MachineCollector(source, make_collectors(everything())), CollectorRegistry())
        scrape(Format.TEXT)
        exposition = scrape(Format.TEXT)
    assert lint(promtool, exposition) == ""
    assert exposition.count(b"latido_collector_success") == 2 + 3
    assert b'latido_collector_success{collector="processes"} 1.0' in exposition


def test_lint_finds_faults(promtool: Path) -> None:
    """The check above can fail."""
    assert "no help text" in lint(promtool, b"x 1\n")


def test_openmetrics_says_the_same(scrape: Scrape) -> None:
    exposition = scrape(Format.OPENMETRICS).decode()
    parse: Callable[[str], Iterator[Metric]] = openmetrics_parser.text_string_to_metric_families
    assert values(parse(exposition)) == values(parsed(GOLDEN.read_text(encoding="utf-8")))


def values(families: Iterable[Metric]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def parsed(exposition: str) -> list[Metric]:
    return list(text_string_to_metric_families(exposition))


def test_metrics_are_documented_and_nothing_else_is(repository: Path) -> None:
    """docs/metrics.md, its first section: name, type and labels equal those of the golden scrape."""
    text = (repository / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text, flags=re.MULTILINE)[1]
    assert section.startswith("Exporter: the machine and its processes\n")
    rows = re.findall(r"^\| `(latido_\w+)` \| (\w+) \|[^|]*\|([^|]*)\| [^|]+ \|$", section, flags=re.MULTILINE)
    documented = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    exposed = {
        sample.name: (family.type, frozenset(sample.labels))
        for family in parsed(GOLDEN.read_text(encoding="utf-8"))
        for sample in family.samples
    }
    assert documented == exposed


def test_counters_have_no_created_series() -> None:
    """They double the series and say only when the exporter started."""
    assert "_created" not in GOLDEN.read_text(encoding="utf-8")
