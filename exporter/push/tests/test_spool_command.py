"""`latido spool`: dead letters are shown, sent again to a real API and forgotten, beside a spool that is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev.program import Program
from exporter.push import spool_command
from exporter.push.spool import Refusal, Spool
from exporter.push.tests.test_spool import ram
from ingest.contract.wire import Feed
from ingest.schema import upgrade
from latido import cli

REFUSED = Refusal(422, '{"type":"urn:latido:problem:outside-partitions"}\x1b[2J')


@pytest.fixture
def api(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setenv("LATIDO_DB_DSN", empty_database)
    assert upgrade.main([]) == 0
    program = Program(("ingest", "raw"), (), {"LATIDO_DB_DSN": empty_database}).start("/-/ready")
    yield program
    assert program.stop() == 0
    program.close()


Bury = Callable[..., Spool]


@pytest.fixture
def bury(tmp_path: Path) -> Iterator[Bury]:
    """Open a spool whose samples at these times were refused by an API; it stays open, as an exporter's does."""
    spool: list[Spool] = []

    def bury_it(api: str, *times: int) -> Spool:
        spool.append(Spool(tmp_path / "spool.sqlite", [api]))
        for sampled_at in times:
            sample = ram(spool[0].next_seq(Feed.RAM), sampled_at=sampled_at)
            spool[0].put(sample, None, None, facts={"boot_id": "7d0c1f9e-2f4b-4a51-9f64-0c6f1c1f0b11"})
            (stored,) = spool[0].pending(api, Feed.RAM, 1, 1 << 20)
            spool[0].bury(api, Feed.RAM, stored, REFUSED, now_ms=sampled_at + 1000)
        return spool[0]

    yield bury_it
    for opened in spool:
        opened.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def run(tmp_path: Path, *arguments: str) -> int:
    return cli.main(["spool", *arguments, f"--spool.path={tmp_path / 'spool.sqlite'}"])


def test_list_says_what_was_refused_where_and_why(
    bury: Bury, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bury("http://127.0.0.1:1", 1_790_000_000_000)
    assert run(tmp_path, "list") == 0
    (line,) = capsys.readouterr().out.splitlines()
    number, sampled, feed, seq, refused, api, status, problem = line.split("\t")
    assert (number, feed, seq, api, status) == ("1", "ram", "1", "http://127.0.0.1:1", "422")
    assert (sampled, refused) == ("2026-09-21 14:13:20", "2026-09-21 14:13:21")
    assert "outside-partitions" in problem
    assert "\x1b" not in line


def test_retry_stores_what_can_be_and_keeps_the_rest(
    bury: Bury, api: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = bury(f"http://127.0.0.1:{api.port}", now_ms(), 1000)
    assert run(tmp_path, "retry") == 1
    said = capsys.readouterr()
    assert said.out == "1 stored, 1 kept\n"
    assert "outside-partitions" in said.err
    assert spool.depth().dead_letters == 1
    assert run(tmp_path, "list") == 0
    assert capsys.readouterr().out.startswith("2\t1970-01-01 00:00:01\tram\t2\t")


def test_drop_forgets_what_it_is_told_to(bury: Bury, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spool = bury("http://127.0.0.1:1", 1000, 2000, 3000)
    assert run(tmp_path, "drop") == 2
    assert "--all" in capsys.readouterr().err
    assert run(tmp_path, "drop", "--id=2") == 0
    assert run(tmp_path, "drop", "--id=2") == 2
    assert "no dead letter has the number 2" in capsys.readouterr().err
    assert spool.depth().dead_letters == 2
    assert run(tmp_path, "drop", "--all") == 0
    assert spool.depth().dead_letters == 0


def test_a_letter_of_a_mode_over_several_apis_needs_their_urls(
    bury: Bury, api: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = bury("failover", now_ms())
    assert run(tmp_path, "retry") == 2
    assert "--push.url: needed" in capsys.readouterr().err
    urls = ("--push.url=http://127.0.0.1:1", f"--push.url=http://127.0.0.1:{api.port}")
    assert run(tmp_path, "retry", *urls) == 0
    assert spool.depth().dead_letters == 0


def test_a_path_that_is_no_spool_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("list", "retry"):
        assert run(tmp_path, command) == 2
        assert "does not exist" in capsys.readouterr().err
    (tmp_path / "spool.sqlite").write_bytes(b"not a database" * 100)
    assert spool_command.list_letters([f"--spool.path={tmp_path / 'spool.sqlite'}"]) == 2
    assert "not a database" in capsys.readouterr().err
