"""Several processes behind one address: forked before anything runs in them, ended together, measured as one.

Each worker has a listening socket of its own on the address (SO_REUSEPORT, socket(7)), so that the kernel spreads
connections; a store, and connections to the database. None is started again: when one ends by itself the program
ends, for whoever supervises it to start it anew, and counters begin anew together.

Their metrics are added up here: prometheus-client's own way for several processes leaves out the process metrics and
info, and has to be chosen in the environment before the library is imported.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.utils import floatToGoString

from latido import logs

log = logs.get(__name__)

PEER_SECONDS: Final = 2.0
"""How long a worker may take to tell another its metrics."""
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
_LARGEST: Final = frozenset({"latido_ingest_build_info", "process_max_fds"})
"""Of these the largest value stands for all workers; of `process_start_time_seconds` the smallest; others add up."""


class PeerError(Exception):
    """Another worker did not tell its metrics."""


@dataclass(frozen=True)
class Worker:
    """One of the processes. `alone` if there is no other."""

    number: int
    count: int
    listener: socket.socket
    folder: Path = Path()
    """Where the workers' own sockets are."""
    parent: int = -1
    """A pipe that ends with the parent."""

    @property
    def alone(self) -> bool:
        """Whether it is the only one."""
        return self.count == 1

    def socket_path(self, number: int) -> Path:
        """Return where a worker tells its metrics."""
        return self.folder / f"{number}.sock"

    def watch(self, stop: asyncio.Event) -> None:
        """Set `stop` when the parent is gone, however it went. To be called when signals are handled.

        Until then they wait: one that met no handler would end the worker as a defect does.
        """
        if self.parent < 0:
            return
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.parent)
            stop.set()

        loop.add_reader(self.parent, gone)

    async def tell(self, own: Callable[[], bytes]) -> web.AppRunner:
        """Serve this worker's metrics to the others; the caller cleans up."""

        async def metrics(_request: web.Request) -> web.StreamResponse:
            return web.Response(body=own(), headers={"Content-Type": CONTENT_TYPE_LATEST})

        application = web.Application()
        application.router.add_get("/metrics", metrics)
        runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket_path(self.number))).start()
        return runner

    async def ask(self, own: bytes) -> bytes:
        """Return the metrics of all workers as one program's. Raises PeerError."""
        others = [self.socket_path(number) for number in range(self.count) if number != self.number]
        try:
            texts = await asyncio.gather(*(_fetch(path) for path in others))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise PeerError(f"a worker does not tell its metrics: {type(error).__name__}: {error}") from None
        return merge([own, *texts])


async def _fetch(path: Path) -> bytes:
    timeout = aiohttp.ClientTimeout(total=PEER_SECONDS)
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path)), timeout=timeout) as session,
        session.get("http://worker/metrics") as response,
    ):
        response.raise_for_status()
        return await response.read()


def merge(texts: Iterable[bytes]) -> bytes:
    """Return one exposition (Prometheus text format 0.0.4) of what several processes of a program say."""
    families: dict[str, tuple[list[str], dict[str, float]]] = {}
    for text in texts:
        name = ""
        for line in text.decode().splitlines():
            if line.startswith("# "):
                name = line.split()[2]
                heads, _ = families.setdefault(name, ([], {}))
                if line not in heads:
                    heads.append(line)
                continue
            series, _, value = line.rpartition(" ")
            values = families[name][1]
            found = float(value)
            if series in values:
                before = values[series]
                if name in _LARGEST:
                    found = max(before, found)
                elif name == "process_start_time_seconds":
                    found = min(before, found)
                else:
                    found += before
            values[series] = found
    lines: list[str] = []
    for heads, values in families.values():
        lines += heads
        lines += [f"{series} {_number(value)}" for series, value in values.items()]
    return "".join(f"{line}\n" for line in lines).encode()


def _number(value: float) -> str:
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]  # prometheus-client does not annotate it


def run(listeners: Sequence[socket.socket], serve: Callable[[Worker], None]) -> int:
    """Call `serve` in a process for each listener, and end them all when told to; return the exit status.

    With one listener nothing is forked. 1 if a worker ended by itself.
    """
    if len(listeners) == 1:
        serve(Worker(0, 1, listeners[0]))
        return 0
    with tempfile.TemporaryDirectory(prefix="latido-ingest-") as folder:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        reading, writing = os.pipe()
        children: set[int] = set()
        for number, listener in enumerate(listeners):
            child = os.fork()
            if not child:
                os.close(writing)
                for other in listeners:
                    if other is not listener:
                        other.close()
                _be(Worker(number, len(listeners), listener, Path(folder), reading), serve)
            children.add(child)
        for listener in listeners:
            listener.close()
        os.close(reading)
        return _supervise(children)


def _be(worker: Worker, serve: Callable[[Worker], None]) -> None:
    """Be a worker to the end of this process. Nothing of the parent's is unwound."""
    status = 1
    try:
        serve(worker)
        status = 0
    except BaseException:
        log.exception("a worker met a defect", worker=worker.number)
    finally:
        os._exit(status)


def _supervise(children: set[int]) -> int:
    status = 0
    stopping = False
    while children:
        told = signal.sigwait(_SIGNALS) != signal.SIGCHLD
        ended = _reap(children)
        if any(ended.values()) or (ended and not (stopping or told)):
            log.error("a worker ended by itself; so does the program", statuses=" ".join(map(str, ended.values())))
            status = 1
        if (told or ended) and not stopping:
            stopping = True
            for child in children:
                os.kill(child, signal.SIGTERM)
    return status


def _reap(children: set[int]) -> dict[int, int]:
    """Take the children that have ended off `children`; return their statuses."""
    ended: dict[int, int] = {}
    for child in sorted(children):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            ended[pid] = os.waitstatus_to_exitcode(status)
    children.difference_update(ended)
    return ended
