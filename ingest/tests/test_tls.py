"""An exporter pushes over HTTPS to both APIs: a certificate that is wrong costs time and a log line, never a sample."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from dev.program import Program, Start
from dev.waiting import wait_for
from exporter.push import spool_command
from exporter.push.spool import Refusal, Spool
from exporter.push.tests.test_spool import ram
from exporter.tests.certificates import Authority, Pair
from ingest.contract.wire import Feed
from ingest.tests.clients import Database, now_ms
from ingest.tests.conftest import APIS
from latido import settings

WRONG: Final[dict[str, tuple[Callable[[Authority], Pair], str]]] = {
    "of another authority": (lambda _: Authority("another").server(), "CERTIFICATE_VERIFY_FAILED"),
    "expired": (lambda authority: authority.server(age=dt.timedelta(days=30)), "certificate has expired"),
    "of another name": (
        lambda authority: authority.server("db.example"),
        "certificate is not valid for '127.0.0.1'",
    ),
}
"""Certificates to refuse, and what OpenSSL says of each."""


class Servers:
    """Starts APIs that serve HTTPS over one database."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.dsn = settings.dsn(dsn)
        self._environ = {"LATIDO_DB_DSN": dsn}
        self._folder = folder
        self._programs: list[Program] = []

    def start(self, pair: Pair, *flags: str, ports: Sequence[int] = (0, 0)) -> list[Program]:
        """Start both with this certificate."""
        certificate, key = pair.write(self._folder, "server")
        given = (f"--web.tls-cert-file={certificate}", f"--web.tls-key-file={key}", *flags)
        started = [
            Program(("ingest", api), given, self._environ, port=port) for api, port in zip(APIS, ports, strict=True)
        ]
        self._programs += started
        for program in started:
            program.start(ready="")
        for program in started:
            wait_for(lambda program=program: "listening" in program.log() or not program.runs(), "it listens", 120)  # type: ignore[misc]  # bound at once
            assert program.runs(), program.log()
        return started

    def stop(self) -> list[int]:
        """End those that run; return their statuses."""
        return [program.stop() for program in self._programs if program.runs()]

    def close(self) -> None:
        """End what still runs and forget the logs."""
        self.stop()
        for program in self._programs:
            program.close()


@pytest.fixture
def servers(tables: str, tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tables, tmp_path)
    yield made
    made.close()


def _exporter(start: Start, folder: Path, apis: list[Program], *flags: str) -> Program:
    urls = tuple(f"--push.url=https://127.0.0.1:{api.port}" for api in apis)
    return start(
        "exporter",
        flags=(
            *("--source=procfs", "--push.interval=500ms", f"--spool.path={folder / 'spool.sqlite'}"),
            *(f"--push.ca-file={folder / 'ca.pem'}", *urls, *flags),
        ),
    )


def _stored(program: Program, api: Program) -> float:
    return program.metric(f'latido_push_samples_total{{api="https://127.0.0.1:{api.port}",feed="ram"}}')


def _unanswered(program: Program, api: Program) -> float:
    return program.metric(f'latido_push_requests_total{{api="https://127.0.0.1:{api.port}",status="0"}}')


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority()
    (tmp_path / "ca.pem").write_bytes(made.pem)
    return made


def test_samples_arrive_over_https_with_client_certificates(
    start: Start, servers: Servers, tmp_path: Path, authority: Authority
) -> None:
    apis = servers.start(authority.server(), f"--web.tls-client-ca-file={tmp_path / 'ca.pem'}")
    certificate, key = authority.client("web-1").write(tmp_path, "client")
    exporter = _exporter(start, tmp_path, apis, f"--push.cert-file={certificate}", f"--push.key-file={key}")
    wait_for(lambda: all(_stored(exporter, api) >= 1 for api in apis), "samples arrive at both APIs", 90)
    assert [0, 0] == servers.stop()


def test_without_a_client_certificate_nothing_is_taken(
    start: Start, servers: Servers, tmp_path: Path, authority: Authority
) -> None:
    apis = servers.start(authority.server(), f"--web.tls-client-ca-file={tmp_path / 'ca.pem'}")
    exporter = _exporter(start, tmp_path, apis)
    wait_for(lambda: all(_unanswered(exporter, api) >= 1 for api in apis), "both APIs were tried", 90)
    assert [0.0, 0.0] == [_stored(exporter, api) for api in apis]


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_certificate_is_named_and_nothing_is_lost(
    start: Start, servers: Servers, tmp_path: Path, authority: Authority, fault: str
) -> None:
    make, reason = WRONG[fault]
    apis = servers.start(make(authority))
    exporter = _exporter(start, tmp_path, apis)
    wait_for(lambda: all(_unanswered(exporter, api) >= 1 for api in apis), "both APIs were tried", 90)
    wait_for(lambda: reason in exporter.log(), f"the log says {reason}", 30)
    assert [0.0, 0.0] == [_stored(exporter, api) for api in apis]
    servers.stop()
    mended = servers.start(authority.server(), ports=[api.port for api in apis])
    wait_for(lambda: all(_stored(exporter, api) >= 1 for api in mended), "samples arrive once it is right", 120)
    # From the first one on: what was sampled while nothing could be sent is there.
    with closing(Database(servers.dsn)) as view:
        wait_for(lambda: view.number("SELECT MIN(seq) FROM ram") == 1, "the first sample is there", 60)
        wait_for(lambda: view.number("SELECT MAX(seq) - COUNT(*) FROM ram") == 0, "none is missing between", 60)


def test_a_dead_letter_is_sent_again_over_https(
    servers: Servers, tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, _ = servers.start(authority.server())
    url = f"https://127.0.0.1:{raw.port}"
    path = tmp_path / "spool.sqlite"
    with closing(Spool(path, [url])) as spool:
        now = now_ms()
        sample = ram(spool.next_seq(Feed.RAM), sampled_at=now)
        spool.put(sample, None, None, facts={"boot_id": "7d0c1f9e-2f4b-4a51-9f64-0c6f1c1f0b11"})
        (stored,) = spool.pending(url, Feed.RAM, 1, 1 << 20)
        spool.bury(url, Feed.RAM, stored, Refusal(422, "{}"), now_ms=now)
        assert 1 == spool_command.retry([f"--spool.path={path}"])
        assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().err
        assert 0 == spool_command.retry([f"--spool.path={path}", f"--push.ca-file={tmp_path / 'ca.pem'}"])
        assert 0 == spool.depth().dead_letters


@pytest.mark.parametrize("api", APIS)
def test_files_that_make_no_tls_are_refused_at_the_start(tmp_path: Path, authority: Authority, api: str) -> None:
    certificate, _ = authority.server().write(tmp_path, "one")
    _, other = authority.server().write(tmp_path, "other")
    for flags, message in (
        ((f"--web.tls-cert-file={certificate}",), "--web.tls-cert-file needs --web.tls-key-file"),
        ((f"--web.tls-key-file={other}",), "--web.tls-key-file needs --web.tls-cert-file"),
        ((f"--web.tls-cert-file={certificate}", f"--web.tls-key-file={other}"), "do not form a pair"),
        ((f"--web.tls-cert-file={tmp_path / 'none'}", f"--web.tls-key-file={other}"), "cannot be read"),
    ):
        program = Program(("ingest", api), flags, {"LATIDO_DB_DSN": "mysql://root@127.0.0.1:1/none"}).start(ready="")
        wait_for(lambda program=program: not program.runs(), "it ends", 60)  # type: ignore[misc]  # bound at once
        assert message in program.log()
        assert "Traceback" not in program.log()
        program.close()
