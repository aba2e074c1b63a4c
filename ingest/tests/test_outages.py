"""A database that is late, away, stuck or without tables costs answers of 503, never a sample; and the way down."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from dev.mariadb import Mariadb
from dev.ports import free_port
from dev.program import Program, Start
from dev.waiting import wait_for
from ingest.contract import limits, vectors
from ingest.contract.metrics import Metrics
from ingest.contract.problems import Problem, ProblemType
from ingest.contract.wire import Feed, RamPush
from ingest.raw.store import Store
from ingest.schema import upgrade
from ingest.tests.clients import JSON, Answer, Database, now_ms, push, send
from ingest.tests.conftest import APIS, make_tables
from latido import settings


@pytest.fixture
def own_mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mariadb]:
    """Run a server that the test may stop and start."""
    server = Mariadb(tmp_path_factory.mktemp("own"), options=("--innodb-buffer-pool-size=64M",))
    server.start()
    yield server
    server.stop()


def _body(seq: int) -> dict[str, vectors.Json]:
    body = vectors.base(Feed.PROCESOS, now_ms())
    samples = body["samples"]
    assert isinstance(samples, list)
    sample = samples[0]
    assert isinstance(sample, dict)
    return body | {"samples": [sample | {"seq": seq}]}


def _assert_unavailable(answer: Answer) -> None:
    assert (503, "urn:latido:problem:unavailable") == (answer.status, answer.json()["type"])
    lowered = {name.lower(): value for name, value in answer.headers.items()}
    assert int(lowered["retry-after"]) >= 1


def test_programs_start_before_the_database_and_its_tables(own_mariadb: Mariadb, start: Start) -> None:
    dsn = own_mariadb.create_database("late")
    own_mariadb.stop()
    programs = [start("ingest", api, ready="/-/healthy", dsn=dsn) for api in APIS]
    for program in programs:
        assert program.get("/-/ready")[0] == 503
        assert program.get("/api/health")[0] == 503
        _assert_unavailable(push(program.port, "procesos", _body(1)))
    own_mariadb.start()
    for program in programs:
        _assert_unavailable(push(program.port, "procesos", _body(1)))  # the database is there, its tables are not
    make_tables(dsn)
    for program in programs:
        program.wait_ready()
    answers = [push(program.port, "procesos", _body(1)).json() for program in programs]
    # Two pushes of one seq at two times: sampled_at is part of the key.
    assert answers == [{"accepted": 1, "duplicates": 0}] * 2


def test_a_database_that_goes_for_5_seconds_under_load_loses_and_doubles_nothing(
    own_mariadb: Mariadb, start: Start
) -> None:
    dsn = own_mariadb.create_database("away")
    make_tables(dsn)
    programs = {api: start("ingest", api, dsn=dsn) for api in APIS}
    stop = threading.Event()
    seen: dict[str, list[int]] = {api: [] for api in APIS}
    sent: list[int] = []
    bodies: dict[int, dict[str, vectors.Json]] = {}

    def send_all(api: str) -> None:
        """Send sample after sample as an exporter does: each again and again until it is acknowledged."""
        seq = 0
        while not stop.is_set():
            seq += 1
            body = bodies.setdefault(seq, _body(seq))
            status = 0
            while status != 201:
                status = push(programs[api].port, "procesos", body).status
                seen[api].append(status)
                if status != 201:
                    time.sleep(0.05)  # a sender's pause between tries
        sent.append(seq)

    threads = [threading.Thread(target=send_all, args=(api,)) for api in APIS]
    for thread in threads:
        thread.start()
    wait_for(lambda: all(len(seen[api]) > 5 for api in APIS), "pushes arrive")
    own_mariadb.kill()
    wait_for(lambda: all(503 in seen[api] for api in APIS), "both APIs answer 503")
    time.sleep(5)  # the outage that the test is about
    own_mariadb.start()
    marks = {api: len(seen[api]) for api in APIS}
    wait_for(lambda: all(201 in seen[api][marks[api] :] for api in APIS), "both APIs store again")
    stop.set()
    for thread in threads:
        thread.join()
    view = Database(settings.dsn(dsn))
    try:
        assert view.counts()["procesos"] == max(sent)
        assert view.counts()["process_samples"] == 3 * max(sent)
        # Nothing but what the contract says of a database that is away.
        assert {status for statuses in seen.values() for status in statuses} == {201, 503}
    finally:
        view.close()


def test_a_row_that_is_locked_too_long_is_a_503_within_the_limit(start: Start, tables: str) -> None:
    ports = [start("ingest", api, dsn=tables).port for api in APIS]
    body = _body(1)
    holder = Database(settings.dsn(tables))
    try:
        assert push(ports[0], "procesos", body).status == 201
        holder.run("START TRANSACTION")
        holder.run("UPDATE procesos SET total = total + 1")
        started = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            for answer in pool.map(lambda port: push(port, "procesos", body), ports):
                _assert_unavailable(answer)
        assert time.monotonic() - started < limits.TRANSACTION_SECONDS + 2
        holder.run("ROLLBACK")
        for port in ports:
            assert push(port, "procesos", body).json() == {"accepted": 0, "duplicates": 1}
    finally:
        holder.close()


def test_a_stuck_server_is_given_up_and_left_within_4_seconds(own_mariadb: Mariadb, start: Start) -> None:
    """SIGSTOP: connections stand, nothing answers. Neither a push nor SIGTERM may wait for it.

    `make up` kills what takes longer than 5 s to end. Others may keep this machine busy: one try of three has to hold.
    """
    dsn = own_mariadb.create_database("stuck")
    make_tables(dsn)
    tries: list[tuple[float, float]] = []
    while len(tries) < 3 and not (tries and _within_limits(*tries[-1])):
        tries.append(_give_up_and_leave(own_mariadb, start, dsn))
    assert _within_limits(*tries[-1]), tries


def _within_limits(giving_up: float, leaving: float) -> bool:
    return giving_up < limits.TRANSACTION_SECONDS + 2 and leaving < 4


def _give_up_and_leave(mariadb: Mariadb, start: Start, dsn: str) -> tuple[float, float]:
    """Return how long both APIs take to answer while the server is stopped, and then to end, in seconds."""
    programs = [start("ingest", api, dsn=dsn) for api in APIS]
    for program in programs:
        assert push(program.port, "procesos", _body(1)).status == 201
    pid = mariadb.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            started = time.monotonic()
            for answer in pool.map(lambda program: push(program.port, "procesos", _body(2)), programs):
                _assert_unavailable(answer)
            giving_up = time.monotonic() - started
            last = [pool.submit(_push_into_the_end, program.port) for program in programs]
            for program in programs:
                wait_for(
                    lambda metric=program.metric: metric("latido_ingest_requests_in_flight") == 1,  # type: ignore[misc] # bound now
                    "a push waits for the database",
                )
            started = time.monotonic()
            assert list(pool.map(Program.stop, programs)) == [0, 0]
            leaving = time.monotonic() - started
            for future in last:
                future.result()
    finally:
        os.kill(pid, signal.SIGCONT)
    return giving_up, leaving


def _push_into_the_end(port: int) -> None:
    try:
        assert push(port, "procesos", _body(3)).status == 503
    except ConnectionError:
        return  # cut off with the program


def test_a_partition_made_later_is_seen_before_a_refusal(start: Start, tables: str) -> None:
    programs = [start("ingest", api, dsn=tables) for api in APIS]
    body = _body(1)
    samples = body["samples"]
    assert isinstance(samples, list)
    sample = samples[0]
    assert isinstance(sample, dict)
    later = body | {"samples": [sample | {"sampled_at": now_ms() + 9 * 86_400_000}]}
    for program in programs:
        assert push(program.port, "procesos", later).json()["type"] == "urn:latido:problem:outside-partitions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LATIDO_DB_DSN", tables)
        assert upgrade.main(["--ahead=12"]) == 0
    answers = [push(program.port, "procesos", later).json() for program in programs]
    assert answers == [{"accepted": 1, "duplicates": 0}, {"accepted": 0, "duplicates": 1}]


@pytest.mark.parametrize("api", APIS)
def test_connections_that_the_server_ended_cost_no_answer(start: Start, tables: str, api: str) -> None:
    program = start("ingest", api, dsn=tables)
    assert push(program.port, "procesos", _body(1)).status == 201
    view = Database(settings.dsn(tables))
    try:
        name = settings.dsn(tables).database
        others = view.rows(
            "SELECT id FROM information_schema.processlist"  # noqa: S608 - a name of ours
            f" WHERE db = '{name}' AND id <> CONNECTION_ID()"
        )
        assert others
        time.sleep(1.1)  # until the connections count as idle: the server ends them after hours of it (wait_timeout)
        for row in others:
            (number,) = row.values()
            view.run(f"KILL {number}")
        assert push(program.port, "procesos", _body(2)).status == 201
    finally:
        view.close()


@pytest.mark.parametrize("api", APIS)
def test_a_body_that_does_not_come_is_408_and_its_place_is_free_again(start: Start, tables: str, api: str) -> None:
    flags = ("--web.read-timeout=300ms", "--web.max-requests=1")
    program = start("ingest", api, flags=flags, dsn=tables)
    head = b"POST /api/ram HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", program.port), timeout=10) as slow:
        slow.sendall(head)
        wait_for(lambda: program.metric("latido_ingest_requests_in_flight") == 1, "the slow push is in")
        busy = push(program.port, "ram", {})
        assert (429, "urn:latido:problem:overloaded") == (busy.status, busy.json()["type"])
        assert "1" in {busy.headers.get("Retry-After"), busy.headers.get("retry-after")}
        answer = b"".join(iter(lambda: slow.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"urn:latido:problem:request-timeout" in answer
    assert push(program.port, "ram", vectors.base(Feed.RAM, now_ms())).status == 201


@pytest.mark.parametrize("api", APIS)
def test_a_sender_that_goes_away_is_no_defect(start: Start, tables: str, api: str) -> None:
    program = start("ingest", api, dsn=tables)
    head = b"POST /api/ram HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", program.port), timeout=10) as gone:
        gone.sendall(head)
        wait_for(lambda: program.metric("latido_ingest_requests_in_flight") == 1, "the push is in")
    wait_for(lambda: program.metric("latido_ingest_requests_in_flight") == 0, "its place is free")
    assert push(program.port, "ram", vectors.base(Feed.RAM, now_ms())).status == 201
    assert "Traceback" not in program.log()
    assert "defect" not in program.log()


@pytest.mark.parametrize("api", APIS)
def test_a_push_without_memory_is_sent_again(start: Start, tables: str, api: str) -> None:
    """The kernel gives 16 MiB more; the body inflates to 48. It is refused as in any overload, and no defect."""
    program = start("ingest", api, dsn=tables)
    good = vectors.base(Feed.RAM, now_ms())
    assert push(program.port, "ram", good).status == 201
    large = gzip.compress(json.dumps(good).encode() + b" " * (48 << 20), 1)
    pages = int(Path(f"/proc/{program.pid}/statm").read_text(encoding="ascii").split()[0])
    before = resource.prlimit(program.pid, resource.RLIMIT_AS)
    limit = pages * os.sysconf("SC_PAGESIZE") + (16 << 20)
    resource.prlimit(program.pid, resource.RLIMIT_AS, (limit, before[1]))
    answer = send(program.port, "POST", "/api/ram", {**JSON, "Content-Encoding": "gzip"}, large)
    resource.prlimit(program.pid, resource.RLIMIT_AS, before)
    assert (429, "urn:latido:problem:overloaded") == (answer.status, answer.json()["type"])
    assert "1" in {answer.headers.get("Retry-After"), answer.headers.get("retry-after")}
    assert "defect" not in program.log()
    again = send(program.port, "POST", "/api/ram", {**JSON, "Content-Encoding": "gzip"}, large)
    assert (201, {"accepted": 0, "duplicates": 1}) == (again.status, again.json())


async def test_a_batch_without_memory_is_sent_again(tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of raw, whose batches are nobody's request. When an allocation fails there is chance, so here it is told to."""

    async def fails(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Store, "_write_batch", fails)
    store = Store(settings.dsn(tables), Metrics(CollectorRegistry(), "raw", "test"), writers=1)
    store.start()
    try:
        with pytest.raises(Problem) as told:
            await store.store(Feed.RAM, msgspec.convert(vectors.base(Feed.RAM, now_ms()), RamPush))
    finally:
        await store.close()
    assert (ProblemType.OVERLOADED, 1) == (told.value.type, told.value.retry_after)


@pytest.mark.parametrize("api", APIS)
def test_a_push_in_flight_is_answered_before_the_end(start: Start, tables: str, api: str) -> None:
    """SIGTERM while a row lock holds a push: the lock goes, the push commits and is answered, then the program ends."""
    program = start("ingest", api, dsn=tables)
    body = _body(1)
    assert push(program.port, "procesos", body).status == 201
    holder = Database(settings.dsn(tables))
    answers: list[Answer] = []
    try:
        holder.run("START TRANSACTION")
        holder.run("UPDATE procesos SET total = total + 1")
        thread = threading.Thread(target=lambda: answers.append(push(program.port, "procesos", body)))
        thread.start()
        wait_for(lambda: program.metric("latido_ingest_requests_in_flight") == 1, "the push waits")
        os.kill(program.pid, signal.SIGTERM)
        # By its own word: a connection that is asked for at this moment can hang for longer than an end may take.
        wait_for(lambda: "stopping" in program.log(), "the program takes no more")
        holder.run("ROLLBACK")
        thread.join()
        wait_for(lambda: not program.runs(), "the program ends", 4)
        assert program.stop() == 0
    finally:
        holder.close()
    assert [(answer.status, answer.json()) for answer in answers] == [(201, {"accepted": 0, "duplicates": 1})]


@pytest.mark.parametrize("api", APIS)
def test_a_program_that_is_held_for_a_while_goes_on(start: Start, tables: str, api: str) -> None:
    """SIGSTOP, as of a debugger or a freezer, longer than any look for signals takes."""
    program = start("ingest", api, dsn=tables)
    assert push(program.port, "procesos", _body(1)).status == 201
    os.kill(program.pid, signal.SIGSTOP)
    time.sleep(2.5)  # the hold that the test is about
    os.kill(program.pid, signal.SIGCONT)
    assert push(program.port, "procesos", _body(2)).status == 201
    assert "stopping" not in program.log()


@pytest.mark.parametrize("api", APIS)
def test_a_taken_port_is_one_line_and_status_2(tables: str, api: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = Program(("ingest", api), (), {"LATIDO_DB_DSN": tables}, port=port).start(ready="")
        wait_for(lambda: not program.runs(), "the program gives up")
        assert program.stop() == 2
    assert program.log().splitlines()[-1].startswith(f"latido ingest {api}: 127.0.0.1:{port} is taken")
    assert "--web.listen-address" in program.log()
    assert "Traceback" not in program.log()
    program.close()


@pytest.mark.parametrize("api", APIS)
def test_the_endpoints_beside_the_feeds(start: Start, tables: str, api: str) -> None:
    program = start("ingest", api, dsn=tables)
    status, health = program.get("/api/health")
    assert status == 200
    assert health.startswith('{"status":"ok","api":"' + api)
    assert program.get("/-/healthy") == (200, "healthy\n")
    assert send(program.port, "GET", "/openapi.json", {}, b"").json()["openapi"] == "3.1.0"
    body = _body(1) | {"zone": 1}
    assert push(program.port, "procesos", body).status == 201
    assert push(program.port, "procesos", body).status == 201
    assert send(program.port, "POST", "/api/procesos", JSON, b"{").status == 400
    assert program.get("/no/such/path")[0] == 404
    expected = {
        'latido_ingest_requests_total{feed="procesos",status="201"}': 2,
        'latido_ingest_requests_total{feed="procesos",status="400"}': 1,
        'latido_ingest_requests_total{feed="ram",status="201"}': 0,
        'latido_ingest_samples_total{feed="procesos"}': 1,
        'latido_ingest_duplicates_total{feed="procesos"}': 1,
        'latido_ingest_unknown_fields_total{feed="procesos"}': 2,
        'latido_ingest_rows_total{table="procesos"}': 1,
        'latido_ingest_rows_total{table="process_samples"}': 3,
        'latido_ingest_rows_total{table="processes"}': 3,
        'latido_ingest_stage_seconds_count{stage="decode"}': 3,
        'latido_ingest_stage_seconds_count{stage="commit"}': 2,
        'latido_ingest_stage_seconds_count{stage="insert"}': 2,
        'latido_ingest_stage_seconds_count{stage="queue"}': 2,
        "latido_ingest_batch_pushes_count": 2,
        "latido_ingest_batch_pushes_sum": 2,
        f'latido_ingest_build_info{{api="{api}",version="{settings.version()}"}}': 1,
    }
    assert {series: program.metric(series) for series in expected} == expected
    assert "no/such" not in program.get("/metrics")[1]


def test_beyond_loopback_without_a_token_is_refused() -> None:
    for api in APIS:
        flags = (f"--web.listen-address=0.0.0.0:{free_port()}",)
        program = Program(("ingest", api), flags).start(ready="")
        wait_for(lambda program=program: not program.runs(), "the program refuses")  # type: ignore[misc] # bound now
        assert program.stop() == 2
        assert "--insecure" in program.log()
        program.close()
