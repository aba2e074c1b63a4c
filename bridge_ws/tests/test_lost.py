"""After longer away than the bridge catches up, clients are told of a gap that nobody can count, and start anew."""

from __future__ import annotations

from datetime import timedelta

from prometheus_client import CollectorRegistry

from bridge_ws import cursor
from bridge_ws.database import connect
from bridge_ws.feed import LiveFeed
from bridge_ws.hub import Client, Hub
from bridge_ws.live import Live
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import everything
from bridge_ws.recent import Recent
from bridge_ws.tests.rig import Recorder, Writer, now_ms, seq_of
from bridge_ws.tests.samples import ram
from dev.waiting import wait_until
from latido.settings import Dsn


async def test_a_cursor_that_is_lost_starts_anew_with_a_gap(database: Dsn) -> None:
    """The database and the feed are real; the cursor is put where ten minutes of absence would leave it."""
    live, metrics = Live(), Metrics(CollectorRegistry())
    recent, recorder = Recent(1 << 20), Recorder()
    hub = Hub(live, recent, metrics, limit=1 << 20)
    feed = LiveFeed(
        database, None, live, hub, recent, metrics, poll_interval=0.05, idle_interval=0.05, host_timeout=3600
    )
    writer, at = Writer(database), now_ms()
    writer.commit(ram(1, at))
    hub.attach(Client(recorder.write, everything()))
    async with connect(database, None) as open_database:
        await feed._poll(open_database)
        writer.commit(ram(2, at + 1000), ram(3, at + 2000))
        assert feed._cursor is not None
        feed._cursor.start -= cursor.MAX_CATCH_UP + timedelta(minutes=5)
        await feed._poll(open_database)
        await wait_until(lambda: len(recorder.frames) == 3, "snapshot, gap and snapshot")
        writer.commit(ram(4, at + 3000))
        await feed._poll(open_database)
        await wait_until(lambda: len(recorder.frames) == 4, "the next sample")
    writer.close()
    first, gap, second, sample = recorder.frames
    assert (first["type"], seq_of(first)) == ("snapshot", 1)
    assert [gap[name] for name in ("type", "feed", "missed", "first_seq")] == ["gap", "ram", None, None]
    assert (second["type"], seq_of(second)) == ("snapshot", 3)
    assert (sample["type"], seq_of(sample)) == ("sample", 4)
