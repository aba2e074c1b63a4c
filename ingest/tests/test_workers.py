"""`--web.workers`: several processes of raw behind one address are one program to whoever pushes, scrapes or ends."""

from __future__ import annotations

import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from dev.program import Program, Start
from dev.waiting import wait_for
from ingest.contract import vectors
from ingest.contract.wire import Feed
from ingest.raw.workers import merge
from ingest.tests.clients import Database, now_ms, push
from latido import settings

WORKERS = 3
FLAGS = (f"--web.workers={WORKERS}",)
CONNECTIONS = 60
"""Of which the kernel gives each of three workers some: that one gets none has a probability of 1e-10."""


def _children(program: Program) -> list[int]:
    pid = program.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _sockets(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd")
    found = 0
    for name in folder.iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += str(name.readlink()).startswith("socket:")
    return found


def _body(seq: int) -> dict[str, vectors.Json]:
    body = vectors.base(Feed.RAM, now_ms())
    samples = body["samples"]
    assert isinstance(samples, list)
    assert isinstance(samples[0], dict)
    samples[0]["seq"] = seq
    return body


def test_connections_are_spread_and_counted_as_one_program_s(start: Start, tables: str) -> None:
    program = start("ingest", "raw", flags=FLAGS, dsn=tables)
    children = _children(program)
    assert len(children) == WORKERS
    before = {child: _sockets(child) for child in children}
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", program.port), timeout=30))
        wait_for(lambda: all(_sockets(child) > before[child] for child in children), "each worker has connections", 60)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seq: push(program.port, "ram", _body(seq)).status, range(1, CONNECTIONS + 1)))
    assert [201] * CONNECTIONS == answers
    view = Database(settings.dsn(tables))
    assert view.number("SELECT COUNT(*) FROM ram") == CONNECTIONS
    view.close()
    # Whichever worker answers a scrape, it answers for all.
    expected = {
        'latido_ingest_requests_total{feed="ram",status="201"}': CONNECTIONS,
        'latido_ingest_samples_total{feed="ram"}': CONNECTIONS,
        'latido_ingest_stage_seconds_count{stage="decode"}': CONNECTIONS,
        "latido_ingest_connections_max": 2 * WORKERS,
        f'latido_ingest_build_info{{api="raw",version="{settings.version()}"}}': 1,
    }
    for _ in range(2 * WORKERS):
        assert expected == {series: program.metric(series) for series in expected}


def test_a_worker_that_ends_by_itself_ends_the_program(tables: str) -> None:
    program = Program(("ingest", "raw"), FLAGS, {"LATIDO_DB_DSN": tables}).start()
    children = _children(program)
    os.kill(children[1], signal.SIGKILL)
    wait_for(lambda: not program.runs(), "the program ends", 60)
    assert "a worker ended by itself" in program.log()
    assert program.stop() == 1
    assert [False] * WORKERS == [_runs(child) for child in children]
    program.close()


def test_workers_end_with_their_parent_however_it_ends(tables: str) -> None:
    program = Program(("ingest", "raw"), FLAGS, {"LATIDO_DB_DSN": tables}).start()
    children = _children(program)
    program.kill()
    wait_for(lambda: not any(_runs(child) for child in children), "the workers end", 60)
    program.close()


def test_an_address_that_is_taken_is_refused_as_with_one_process(start: Start, tables: str) -> None:
    first = start("ingest", "raw", flags=FLAGS, dsn=tables)
    second = Program(("ingest", "raw"), FLAGS, {"LATIDO_DB_DSN": tables}, port=first.port).start(ready="")
    wait_for(lambda: not second.runs(), "the second one refuses", 60)
    assert second.stop() == 2
    assert re.search(r"is taken by another program; choose another with --web\.listen-address", second.log())
    second.close()


def test_expositions_add_up_series_by_series() -> None:
    one = b"""# HELP a_total A.
# TYPE a_total counter
a_total{s="201"} 3.0
# HELP process_start_time_seconds B.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79e+09
# HELP latido_ingest_build_info C.
# TYPE latido_ingest_build_info gauge
latido_ingest_build_info{version="1 2"} 1.0
"""
    other = one.replace(b"1.79e", b"1.78e").replace(
        b'a_total{s="201"} 3.0', b'a_total{s="201"} 4.0\na_total{s="429"} 1.0'
    )
    expected = b"""# HELP a_total A.
# TYPE a_total counter
a_total{s="201"} 7.0
a_total{s="429"} 1.0
# HELP process_start_time_seconds B.
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.78e+09
# HELP latido_ingest_build_info C.
# TYPE latido_ingest_build_info gauge
latido_ingest_build_info{version="1 2"} 1.0
"""
    assert expected == merge([one, other])
