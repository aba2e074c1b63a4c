"""Samples and process tables read from the database: what the feed, a backfill and a resume have in common."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final, NamedTuple

from bridge_ws import rows
from bridge_ws.cursor import RowKey
from bridge_ws.database import Database
from bridge_ws.metrics import Metrics
from bridge_ws.protocol import Key
from bridge_ws.rows import Cell, RowError, Stored
from bridge_ws.tables import ProcessTable, rebuild
from ingest.contract.wire import Feed, ProcesosSample, Process
from latido import logs

log = logs.get(__name__)

CHUNK: Final[dict[Feed, int]] = {Feed.RAM: 200, Feed.CPU: 50, Feed.PROCESOS: 20}
"""Samples read by one statement: a few MiB at most but for the largest tables."""
MAX_HOST_NAMES: Final = 10_000
"""Names of hosts that are kept; beyond, they are read again."""


class Host(NamedTuple):
    """A host's name and stream."""

    name: str
    stream: str

    def key(self, feed: Feed) -> Key:
        """Return the key of its samples."""
        return Key(feed, self.name, self.stream)


class Reader:
    """What reads samples by key. It keeps the names of hosts, which never change, over connections."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._hosts: dict[int, Host] = {}

    async def hosts(self, database: Database, keys: Iterable[RowKey]) -> dict[int, Host]:
        """Return the hosts of some rows by `host_id`. One that is not there was deleted: its rows are nobody's."""
        wanted = {key.host_id for key in keys}
        found = {host_id: self._hosts[host_id] for host_id in wanted & self._hosts.keys()}
        unknown: list[Cell] = list(wanted - found.keys())
        if unknown:
            statement = rows.HOSTS.format(ids=", ".join(["%s"] * len(unknown)))
            for host_id, name, stream in await database.rows(statement, unknown):
                if isinstance(host_id, int):
                    found[host_id] = Host(str(name), str(stream))
            if len(self._hosts) + len(found) > MAX_HOST_NAMES:
                self._hosts.clear()
            self._hosts.update(found)
        return found

    async def table(self, database: Database, host_id: int, newest_seq: int) -> ProcessTable | None:
        """Return a stream's process table at `newest_seq`, from the last keyframe up to it; None without a keyframe."""
        last = await database.rows(rows.LAST_KEYFRAME, [host_id, newest_seq])
        if not last:
            return None
        sampled_at, keyframe_seq = last[0]
        arguments: list[Cell] = [host_id, keyframe_seq, newest_seq, sampled_at]
        keys = [rows.row_key(row) for row in await database.rows(rows.SINCE_KEYFRAME, arguments)]
        samples = [stored.sample async for stored in self.load(database, Feed.PROCESOS, keys)]
        return rebuild(sample for sample in samples if isinstance(sample, ProcesosSample))

    async def load(
        self, database: Database, feed: Feed, keys: Sequence[RowKey], *, processes: bool = True
    ) -> AsyncIterator[Stored]:
        """Yield the samples of some keys in their order; what does not match the contract is logged and left out.

        Without `processes` those of `procesos` have none.
        """
        for start in range(0, len(keys), CHUNK[feed]):
            chunk = keys[start : start + CHUNK[feed]]
            found = {
                rows.sample_key(feed, row): row
                for row in await database.rows(rows.select_samples(feed, len(chunk)), rows.key_arguments(chunk))
            }
            carried = await self._load_processes(database, chunk) if feed is Feed.PROCESOS and processes else {}
            for key in chunk:
                if key not in found:
                    continue  # retention dropped its partition since its key was read
                try:
                    yield rows.to_stored(feed, found[key], *carried.get(key, ((), ())))
                except RowError as error:
                    self._report(feed, key, error)

    async def _load_processes(
        self, database: Database, keys: Sequence[RowKey]
    ) -> dict[RowKey, tuple[list[Process], list[Process]]]:
        result: dict[RowKey, tuple[list[Process], list[Process]]] = {key: ([], []) for key in keys}
        for day, of_day in rows.by_day(keys).items():
            statement = rows.select_processes(len(of_day))
            for row in await database.rows(statement, [day, *rows.key_arguments(of_day)]):
                try:
                    key, exited, process = rows.to_process(row)
                except RowError as error:
                    self._report(Feed.PROCESOS, rows.row_key(row), error)
                else:
                    result[key][exited].append(process)
        return result

    def _report(self, feed: Feed, key: RowKey, error: RowError) -> None:
        self._metrics.invalid.labels(feed).inc()
        log.warning("a row does not match the contract", feed=feed, host_id=key.host_id, seq=key.seq, reason=str(error))
