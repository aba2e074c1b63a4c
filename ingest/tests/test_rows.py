"""What is pushed stands in the tables value by value, and the names of a process join to its numbers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from dev.program import Program
from ingest.contract import vectors
from ingest.contract.identity import identity
from ingest.contract.vectors import Json
from ingest.contract.wire import Feed
from ingest.tests.clients import Database, now_ms, push
from ingest.tests.conftest import APIS

Running = dict[tuple[str, bool], Program]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)

STORED = {"host_id", "api", "batch_id", "received_at"}


def moment(milliseconds: Json) -> datetime:
    assert isinstance(milliseconds, int)
    return EPOCH + timedelta(milliseconds=milliseconds)


def first_sample(body: dict[str, Json]) -> dict[str, Json]:
    samples = body["samples"]
    assert isinstance(samples, list)
    sample = samples[0]
    assert isinstance(sample, dict)
    return sample


def processes(sample: dict[str, Json], name: str) -> list[dict[str, Json]]:
    found = sample[name]
    assert isinstance(found, list)
    return [process for process in found if isinstance(process, dict)]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("feed", [Feed.RAM, Feed.CPU])
def test_a_sample_reads_back_as_it_was_sent(running: Running, database: Database, api: str, feed: Feed) -> None:
    database.clear()
    body = vectors.base(feed, now_ms())
    before = now_ms()
    assert push(running[(api, False)].port, feed, body).status == 201
    (row,) = database.rows(f"SELECT * FROM {feed.value}")  # noqa: S608 - a Feed
    sent = first_sample(body)
    expected: dict[str, object] = {**sent, "sampled_at": moment(sent["sampled_at"])}
    if feed is Feed.CPU:
        assert json.loads(str(row["cores"])) == expected.pop("cores")
        del row["cores"]
    assert {name: value for name, value in row.items() if name not in STORED} == expected
    assert row["api"] == api
    received = row["received_at"]
    assert isinstance(received, datetime)
    assert moment(before) - timedelta(seconds=1) <= received <= moment(now_ms()) + timedelta(seconds=1)
    (host,) = database.rows("SELECT name, stream, boot_id, kernel FROM hosts")
    assert host == {name: body[name] for name in ("stream", "boot_id", "kernel")} | {"name": body["host"]}


@pytest.mark.parametrize("api", APIS)
def test_processes_read_back_with_their_names(running: Running, database: Database, api: str) -> None:
    database.clear()
    body = vectors.base(Feed.PROCESOS, now_ms())
    sent = first_sample(body)
    hostile = ["'); DROP TABLE ram; -- %s", "\x00\x01\b\t\n\f\r\x1a\x1b[31m\"'\\\x7f", "😀" * 64, ""]
    one = processes(sent, "processes")[0]
    sent["processes"] = [
        one | {"pid": pid, "command": command, "cgroup": f"/{command}" if pid % 2 else None}
        for pid, command in enumerate(hostile, 1)
    ]
    assert push(running[(api, False)].port, "procesos", body).status == 201
    (row,) = database.rows("SELECT * FROM procesos")
    counts: dict[str, object] = {
        name: value for name, value in sent.items() if name not in {"processes", "exited", "sampled_at", "keyframe"}
    }
    counts |= {"processes_carried": 4, "exited_carried": 1, "keyframe": 1, "sampled_at": moment(sent["sampled_at"])}
    assert {name: value for name, value in row.items() if name not in STORED} == counts
    rows = database.rows(
        "SELECT s.*, p.command, p.uid, p.cgroup, p.ppid, p.started_at FROM process_samples s"
        " JOIN processes p ON p.host_id = s.host_id AND p.day = DATE(s.sampled_at) AND p.pid = s.pid"
        " AND p.start_ticks = s.start_ticks AND p.identity = s.identity ORDER BY s.pid"
    )
    optional = ("swap_bytes", "read_bytes", "written_bytes", "voluntary_switches", "involuntary_switches", "cgroup")
    expected = [
        dict.fromkeys(optional)
        | process
        | {
            "started_at": moment(process["started_at"]),
            "exited": exited,
            "seq": sent["seq"],
            "sampled_at": moment(sent["sampled_at"]),
        }
        for exited, name in ((0, "processes"), (1, "exited"))
        for process in processes(sent, name)
    ]
    assert [{k: v for k, v in row.items() if k not in {"host_id", "identity"}} for row in rows] == expected
    for row in rows:
        cgroup = row["cgroup"]
        assert row["identity"] == identity(
            str(row["command"]), int(str(row["uid"])), None if cgroup is None else str(cgroup), int(str(row["ppid"]))
        )


@pytest.mark.parametrize("api", APIS)
def test_an_earlier_name_that_returns_is_not_stored_again(running: Running, database: Database, api: str) -> None:
    """Run another program by exec and come back: two names in `processes`, and each sample joins to its own."""
    database.clear()
    port = running[(api, False)].port
    for seq, command in enumerate(["sh", "ls", "sh"], 1):
        body = vectors.base(Feed.PROCESOS, now_ms())
        sample = first_sample(body)
        sample |= {"seq": seq, "processes": [processes(sample, "processes")[0] | {"command": command}], "exited": []}
        body["samples"] = [sample]
        assert push(port, "procesos", body).json() == {"accepted": 1, "duplicates": 0}
    names = database.rows(
        "SELECT s.seq, p.command FROM process_samples s JOIN processes p USING (host_id, pid, start_ticks, identity)"
        " ORDER BY s.seq"
    )
    assert [row["command"] for row in names] == ["sh", "ls", "sh"]
    assert database.counts()["processes"] == 2


@pytest.mark.parametrize("api", APIS)
def test_a_host_keeps_its_newest_boot_and_kernel(running: Running, database: Database, api: str) -> None:
    database.clear()
    port = running[(api, False)].port
    boots = ["0b5f6a70-1c2d-4e3f-8a9b-000000000001", "0b5f6a70-1c2d-4e3f-8a9b-000000000002"]
    for seq, boot in enumerate(boots):
        body = vectors.base(Feed.RAM, now_ms()) | {"boot_id": boot, "kernel": f"6.{seq}"}
        first_sample(body)["seq"] = seq
        assert push(port, "ram", body).status == 201
    assert database.rows("SELECT boot_id, kernel FROM hosts") == [{"boot_id": boots[1], "kernel": "6.1"}]
    assert database.counts()["ram"] == 2


@pytest.mark.parametrize("api", APIS)
def test_two_hosts_of_one_name_are_two(running: Running, database: Database, api: str) -> None:
    database.clear()
    port = running[(api, False)].port
    body = vectors.base(Feed.RAM, now_ms())
    assert push(port, "ram", body).json() == {"accepted": 1, "duplicates": 0}
    other = body | {"stream": "ffffffff-9b7d-4c1e-8f20-5a6b7c8d9e0f"}
    assert push(port, "ram", other).json() == {"accepted": 1, "duplicates": 0}
    assert database.counts()["hosts"] == 2


@pytest.mark.parametrize("api", APIS)
def test_a_host_whose_row_was_deleted_comes_back_under_a_new_id(running: Running, database: Database, api: str) -> None:
    """An API may remember hosts, but no sample is stored under an id that is gone."""
    database.clear()
    port = running[(api, False)].port
    body = vectors.base(Feed.RAM, now_ms())
    for seq in (1, 2):
        assert push(port, "ram", _numbered(body, seq)).status == 201
    database.run("DELETE FROM hosts")
    for seq in (3, 4):
        assert push(port, "ram", _numbered(body, seq)).status == 201
    stored = database.rows(
        "SELECT seq, id IS NOT NULL AS has_host FROM ram LEFT JOIN hosts ON id = host_id ORDER BY seq"
    )
    assert stored == [{"seq": seq, "has_host": int(seq > 2)} for seq in (1, 2, 3, 4)]


def _numbered(body: dict[str, vectors.Json], seq: int) -> dict[str, vectors.Json]:
    samples = body["samples"]
    assert isinstance(samples, list)
    assert isinstance(samples[0], dict)
    return body | {"samples": [samples[0] | {"seq": seq}]}
