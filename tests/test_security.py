"""What docs/security.md promises of all programs together.

Secrets stay secret, tokens change without a lost sample, and what nobody should send harms nobody.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import bcrypt
import psutil
import pytest

from bridge_ws.tests.rig import Client, Frame, Writer, client, now_ms, seq_of
from bridge_ws.tests.samples import ram
from dev.mariadb import Mariadb
from dev.program import Program, Start
from dev.waiting import wait_for
from ingest.contract import vectors
from ingest.contract.wire import Feed
from ingest.tests.clients import push, send
from latido import settings
from tests import history

FEEDS = ("ram", "cpu", "procesos")
NAMES = ("exporter", "ingest raw", "ingest orm", "bridge")
JSON = {"Content-Type": "application/json"}
DAY_MS = 86_400_000
CONNECTIONS = 100


@dataclass(frozen=True)
class Secrets:
    """What must be told to nobody."""

    push: str
    stale: str
    watch: str
    scrape: str
    database: str

    def everything(self) -> list[str]:
        return [self.push, self.stale, self.watch, self.scrape, self.database]


@dataclass(frozen=True)
class Guarded:
    """The four programs with everything that they authenticate by, logging all that they can."""

    programs: dict[str, Program]
    secrets: Secrets
    dsn: str


@pytest.fixture
def guarded(mariadb: Mariadb, database: str, start: Start, tmp_path: Path) -> Guarded:
    """Run all with tokens, a password to scrape by, and a database user with a password."""
    hidden = Secrets(*(secrets.token_urlsafe(24) for _ in range(5)))
    admin = settings.dsn(database)
    with closing(mariadb.connect(admin.database)) as connection, connection.cursor() as cursor:
        user = f"guarded_{secrets.token_hex(4)}"
        cursor.execute(f"CREATE USER {user} IDENTIFIED BY '{hidden.database}'")
        cursor.execute(f"GRANT ALL ON {admin.database}.* TO {user}")
    dsn = f"mysql://{user}@{admin.host}:{admin.port}/{admin.database}"
    password = private(tmp_path / "password", hidden.database)
    push_token = private(tmp_path / "push", hidden.push)
    watch_tokens = private(tmp_path / "watch", f"{hidden.watch}\n")
    crypted = bcrypt.hashpw(hidden.scrape.encode(), bcrypt.gensalt(4)).decode()
    web = private(tmp_path / "web.yml", f"basic_auth_users:\n  prometheus: {crypted}\n")
    common = ("--log.level=debug", "--log.format=json")
    reader = (*common, f"--db.dsn={dsn}", f"--db.password-file={password}")
    apis = {
        f"ingest {api}": start("ingest", api, flags=(*reader, f"--auth.token-file={push_token}"))
        for api in ("raw", "orm")
    }
    bridge = start("bridge", flags=(*reader, f"--auth.token-file={watch_tokens}"))
    urls = [f"--push.url={api.url}" for api in apis.values()]
    spool = f"--spool.path={tmp_path / 'spool.sqlite'}"
    pushing = ("--push.interval=200ms", "--push.host=web-1", f"--push.token-file={push_token}", spool)
    exporter = start("exporter", flags=(*common, *urls, *pushing, f"--web.config.file={web}"), ready="")
    wait_for(lambda: "exporter runs" in exporter.log(), "the exporter runs")
    wait_for(lambda: len(history.seqs(database, "ram")) > 3, "samples are stored", 60)
    return Guarded({"exporter": exporter, **apis, "bridge": bridge}, hidden, dsn)


def private(path: Path, text: str) -> Path:
    """Write a file that its owner alone may read, or put a new one in its place: nobody reads half of it."""
    beside = path.with_suffix(".new")
    beside.touch(0o600)
    beside.write_text(text, encoding="utf-8")
    return beside.replace(path)


async def test_no_secret_is_in_a_log_an_answer_a_metric_or_an_argument(guarded: Guarded, tmp_path: Path) -> None:
    """Those that are right, and one that is wrong: a token is a secret somewhere even where it is refused."""
    hidden, told = guarded.secrets, []
    wrong = {"Authorization": f"Bearer {hidden.stale}"}
    for program in guarded.programs.values():
        for path in ("/metrics", "/api/ram", "/", f"/{hidden.stale}"):
            for method in ("GET", "POST"):
                request = f"{method} {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {hidden.stale}\r\n\r\n"
                told.append(exchanged(program.port, request.encode()).decode("utf-8", "replace"))
    for api in ("ingest raw", "ingest orm"):
        answer = push(guarded.programs[api].port, "ram", vectors.base(Feed.RAM, now_ms()), {**JSON, **wrong})
        assert answer.status == 401
        told.append(answer.body.decode())
    told.append(await asyncio.to_thread(scraped, guarded.programs["exporter"].port, hidden.scrape))
    for token in (hidden.stale, hidden.watch):
        async with client(guarded.programs["bridge"].url) as reader:
            await reader.send({"type": "authenticate", "token": token})
            told += await frames(reader)
    told += [program.log() for program in guarded.programs.values()]
    told += [" ".join(psutil.Process(program.pid).cmdline()) for program in guarded.programs.values()]
    # Of a database that refuses the password, too.
    told += await asyncio.to_thread(status, guarded.dsn, private(tmp_path / "wrong", hidden.stale))
    assert any("latido_build_info" in one for one in told)
    for text in told:
        for secret in hidden.everything():
            # The path that was asked for may be echoed; it is the asker's own.
            assert secret not in text.replace(f"/{hidden.stale}", ""), text[:500]


def scraped(port: int, password: str) -> str:
    """Return the exporter's metrics, asked for as its user."""
    credentials = b64encode(f"prometheus:{password}".encode()).decode()
    answer = send(port, "GET", "/metrics", {"Authorization": f"Basic {credentials}"}, b"")
    assert answer.status == 200
    return answer.body.decode()


def status(dsn: str, password: Path) -> list[str]:
    """Return what `latido status` prints."""
    latido = Path(sys.executable).parent / "latido"
    environ = {"LATIDO_DB_PASSWORD_FILE": str(password)}
    done = subprocess.run(
        [latido, "status", f"--db.dsn={dsn}"], env=environ, capture_output=True, text=True, check=False
    )
    assert "Access denied" in done.stdout + done.stderr
    return [done.stdout, done.stderr]


async def frames(reader: Client) -> list[str]:
    """Return what a client is told until it has seen a sample or is sent away."""
    told: list[str] = []
    try:
        async with asyncio.timeout(30):
            while True:
                text = await reader.connection.recv()
                told.append(str(text))
                if '"type":"sample"' in told[-1]:
                    return told
    except Exception as error:  # noqa: BLE001 - closed, in whatever way: what it says is told, too
        return [*told, repr(error)]


def test_a_token_is_rotated_without_a_lost_sample(database: str, start: Start, tmp_path: Path) -> None:
    """The APIs learn the new one beside the old, then the exporter changes, then the old one is forgotten."""
    old, new = (secrets.token_urlsafe(24) for _ in range(2))
    known, used = private(tmp_path / "known", f"{old}\n"), private(tmp_path / "used", old)
    apis = [start("ingest", api, dsn=database, flags=(f"--auth.token-file={known}",)) for api in ("raw", "orm")]
    exporter = start(
        "exporter",
        flags=(
            *(f"--push.url={api.url}" for api in apis),
            *("--push.interval=500ms", f"--push.token-file={used}", f"--spool.path={tmp_path / 'spool.sqlite'}"),
        ),
    )

    def flows() -> None:
        series = [f'latido_push_samples_total{{api="{api.url}",feed="ram"}}' for api in apis]
        before = [exporter.metric(one) for one in series]
        wait_for(
            lambda: all(exporter.metric(one) >= was + 3 for one, was in zip(series, before, strict=True)),
            "both take samples",
            60,
        )

    flows()
    for tokens in (f"{old}\n{new}\n", f"{new}\n"):
        private(known, tokens)
        for api in apis:
            assert api.stop() == 0
            api.start()
        flows()
        private(used, new)
        flows()
    pending = [f'latido_spool_pending_samples{{api="{api.url}",feed="{feed}"}}' for api in apis for feed in FEEDS]
    wait_for(lambda: all(exporter.metric(series) <= 1 for series in pending), "the backlog is gone", 300)
    refused = [exporter.metric(f'latido_push_requests_total{{api="{api.url}",status="401"}}') for api in apis]
    assert refused == [0.0, 0.0]
    assert exporter.stop() == 0
    for feed in FEEDS:
        stored = history.seqs(database, feed)
        assert list(range(1, len(stored) + 1)) == stored


async def test_a_clock_that_is_a_day_off_is_that_hosts_matter_alone(database: str, start: Start) -> None:
    """Its samples are stored under its own times; the feed shows them, and no other host's are late or missing."""
    apis = [start("ingest", api, dsn=database) for api in ("raw", "orm")]
    bridge = start("bridge", dsn=database)
    now = now_ms()
    clocks = {"today": now, "tomorrow": now + DAY_MS, "yesterday": now - DAY_MS}
    async with client(bridge.url) as reader:
        for seq in (1, 2, 3):
            for host, at in clocks.items():
                body = vectors.base(Feed.RAM, at + 1000 * seq)
                samples = cast(list[dict[str, vectors.Json]], body["samples"])
                document: vectors.Json = {**body, "host": host, "samples": [{**samples[0], "seq": seq}]}
                answer = await asyncio.to_thread(push, apis[seq % 2].port, "ram", document)
                assert (answer.status, answer.json()) == (201, {"accepted": 1, "duplicates": 0})
        seen: dict[str, list[int]] = {}
        while not all(3 in seen.get(host, []) for host in clocks):
            frame = await reader.next()
            if frame.get("feed") == "ram":
                assert not frame.get("late"), frame
                seen.setdefault(cast(str, frame["host"]), []).append(seq_of(frame))
        assert all(sorted(seqs) == seqs for seqs in seen.values())
    async with client(bridge.url) as reader:  # and whoever comes later finds all of them
        newest: dict[object, int] = {}
        while len(newest) < len(clocks):
            frame = await reader.next()
            if frame["type"] == "snapshot":
                newest[frame["host"]] = sampled_at(frame)
        assert newest == {host: at + 3000 for host, at in clocks.items()}
    # Weeks off, no partition would take it: it is refused by name, and a fleet's other samples go on.
    for api in apis:
        answer = push(api.port, "ram", vectors.base(Feed.RAM, now + 400 * DAY_MS))
        assert (answer.status, answer.json()["type"]) == (422, "urn:latido:problem:outside-partitions")


def sampled_at(frame: Frame) -> int:
    """Return when the sample in a frame was taken."""
    return cast(int, cast(Frame, frame["sample"])["sampled_at"])


@pytest.fixture
def programs(database: str, start: Start) -> dict[str, Program]:
    """Run the four programs as they come, on loopback."""
    with closing(Writer(settings.dsn(database))) as writer:
        writer.commit(ram(1, now_ms()))
    return {name: start(*name.split(), dsn="" if name == "exporter" else database) for name in NAMES}


ODD: Final = {
    "a header of a mebibyte": b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
    "a line of a mebibyte": b"GET /" + b"x" * (1 << 20) + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "ten thousand headers": b"GET / HTTP/1.1\r\n" + b"X-%d: y\r\n" * 10_000 + b"\r\n",
    "two lengths": b"POST /api/ram HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": (
        b"POST /api/ram HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a line end in a header": b"GET /\rX-Injected:1 HTTP/1.1\r\nHost: a\rX-Injected: 1\r\n\r\n",
    "no HTTP": bytes(range(256)) * 64,
}
PATHS: Final = ("a%0d%0aX-Injected:%201", "%00", "..%2f..%2fetc%2fpasswd", "../../../../etc/passwd")


def test_what_no_client_should_send_is_refused_and_costs_nothing(programs: dict[str, Program]) -> None:
    for name, program in programs.items():
        for what, request in ODD.items():
            before = psutil.Process(program.pid).memory_info().rss
            for _ in range(20):
                head = exchanged(program.port, request).partition(b"\r\n\r\n")[0]
                assert not [line for line in head.split(b"\n") if line.startswith(b"X-Injected")], (name, what, head)
            assert program.get("/-/healthy")[0] == 200
            assert psutil.Process(program.pid).memory_info().rss - before < 48 << 20, (name, what)
        assert "Traceback" not in program.log(), program.log()
        for path in PATHS:
            answer = send(program.port, "GET", f"/{path}", {}, b"")
            assert answer.status in {400, 404}, (name, answer)
            assert "X-Injected" not in answer.headers
            assert b"root:" not in answer.body


def exchanged(port: int, request: bytes) -> bytes:
    """Return what a server answers to a request, until it ends the connection or we do."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while some := connection.recv(1 << 16):
                answer += some
        except OSError:  # reset, or silent for as long as we wait: either is an end
            return answer
        return answer


@pytest.fixture
def slow(programs: dict[str, Program]) -> Iterator[dict[str, Program]]:
    """Hold connections open to each program that have sent a part of a header and send no more."""
    with ExitStack() as stack:
        for program in programs.values():
            for _ in range(CONNECTIONS):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", program.port), timeout=30))
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        yield programs


def test_slow_headers_hold_nobody_up(slow: dict[str, Program]) -> None:
    """Many connections that never finish their request: everyone else is served."""
    for program in slow.values():
        for path in ("/metrics", "/-/healthy", "/-/ready"):
            assert program.get(path)[0] == 200, path
    for api in ("ingest raw", "ingest orm"):
        assert push(slow[api].port, "ram", vectors.base(Feed.RAM, now_ms())).status == 201
