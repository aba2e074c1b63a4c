"""`fanout`: one frame to every WebSocket client, against one prebuilt frame written to each transport.

The bridge without its database sends process tables of about 1 KB and 20 KB to loopback clients in a process of their
own, which parse, inflate and compare every message. `limit` writes prebuilt frames to the transports of the same
clients, `broadcast` is that of `websockets`, `ws` and `socketio` are Node's; all take turns. A message is sent when
all clients have the one before. With more clients than the first number, theirs are measured without compression alone.
CPU is the sending process's, kernel included. `slow` asks whether ten clients that never read and ten that read slowly
are felt by the others. Memory is the sending process's resident growth a client; the kernel's sockets are not in it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Final, cast

from bridge_ws.protocol import encode_sample
from loadtest.benchmarks.fanout_server import KEY, sample
from loadtest.benchmarks.measure import Ratio, Result, installed, interleave, ratio
from loadtest.benchmarks.programs import ROOT, UnavailableError

SIZES: Final[Mapping[str, int]] = {"1k": 1_000, "20k": 20_000}
BAR: Final = 0.85
IDLE_BAR_KIB: Final = 16.0
COMPRESSED_BAR: Final = 1.3
SLOW_BAR: Final = 1.5
LEAST_MESSAGES: Final = 5
SLOW_BUFFER_KIB: Final = 128
WARM_CLIENTS: Final = 50
NODE_PACKAGES: Final = ("ws@8.23.0", "socket.io@4.8.4")
THEIRS: Final = {"broadcast": "python", "ws": "node", "socketio": "node"}
"""What ours is compared with, beside the limit, and what it runs on."""
Answer = dict[str, object]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--clients", type=int, nargs="+", default=[1_000, 5_000], help="how many at once, in turn")
    parser.add_argument("--messages", type=int, default=20, help="of each contender in each round")
    parser.add_argument("--runs", type=int, default=7, help="rounds (at least 7)")


def run(given: argparse.Namespace) -> Result:
    """Measure; the ratios' keys without a number of clients are of the first."""
    ratios: dict[str, Ratio] = {}
    raw: dict[str, object] = {}
    for clients in given.clients:
        suffix = "" if clients == given.clients[0] else f"_{clients}_clients"
        for name, size in SIZES.items():
            theirs = _theirs()
            # A compressor for each client and message takes them minutes.
            plain, deflated = _measured(given, clients, size, theirs, theirs if suffix == "" else ())
            raw[f"{clients}_clients_{name}"] = {"plain": plain.figures(), "compressed": deflated.figures()}
            ratios[f"fanout.over_limit_{name}{suffix}"] = ratio(plain.cpu["limit"], plain.cpu["ours"], BAR)
            ratios[f"fanout.compressed_over_plain_cpu_{name}{suffix}"] = _smaller(
                [mine / theirs for mine, theirs in zip(deflated.cpu["ours"], plain.cpu["ours"], strict=True)],
                COMPRESSED_BAR,
            )
            for form, found in (("plain", plain), ("compressed", deflated)):
                sys.stdout.write(f"{clients} clients, {name}, {form}: {found.described()}\n")
    count = given.clients[0]
    idle = [idle_kib("ours", count) for _ in range(given.runs)]
    others = {name: idle_kib(name, count) for name in _theirs()}
    ratios["fanout.idle_client_kib"] = _smaller(idle, IDLE_BAR_KIB)
    slow = slow_clients(count, given.messages, given.runs)
    ratios["fanout.p99_with_slow_clients"] = _smaller(cast(list[float], slow["ratios"]), SLOW_BAR)
    ratios["fanout.slow_clients_memory_of_bound"] = _smaller(cast(list[float], slow["memory"]), 1.0)
    told = [int(str(one["told"])) / int(str(one["late"])) for one in cast(list[Answer], slow["told"])]
    ratios["fanout.slow_clients_told"] = Ratio(statistics.median(told), min(told), max(told), len(told), 1.0)
    raw |= {"idle_kib": idle, "idle_kib_of_others": others, "slow": slow}
    sys.stdout.write(f"an idle client, KiB: {json.dumps({'ours': statistics.median(idle), **others})}\n")
    sys.stdout.write(f"slow clients: {json.dumps(slow['told'])}\n")
    return Result("fanout", ratios, raw, installed("websockets", "msgspec"))


def _smaller(values: list[float], bar: float) -> Ratio:
    return Ratio(statistics.median(values), min(values), max(values), len(values), bar, "smaller")


# --- two processes ---


class Process:
    """A side of the benchmark: a command a line in, an answer a line out."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own modules

    def say(self, command: Mapping[str, object]) -> None:
        """Send a command."""
        if self._process.stdin is None:
            raise UnavailableError("no pipe")
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Answer:
        """Return the next answer. Raises UnavailableError if the process ended."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise UnavailableError("a side of the benchmark ended; its error is above")
        return cast(Answer, json.loads(line))

    def ask(self, **command: object) -> Answer:
        """Send a command and return its answer."""
        self.say(command)
        return self.hear()

    def end(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@cache
def _node() -> Path | None:
    """Return a folder in which Node finds the packages of `fanout_node.mjs`; None where they cannot be had."""
    npm, folder = shutil.which("npm"), ROOT / "fanout-node"
    if npm is None or shutil.which("node") is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    command = [npm, "install", "--save-exact", "--no-fund", "--no-audit", "--no-package-lock", *NODE_PACKAGES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - as above
    if done.returncode:
        sys.stdout.write(f"without Node's contenders: npm install failed: {done.stderr[-500:]}\n")
        return None
    shutil.copy(Path(__file__).parent / "fanout_node.mjs", folder)
    return folder


def _theirs() -> tuple[str, ...]:
    """Return the contenders that can run here."""
    return tuple(name for name, runs_on in THEIRS.items() if runs_on == "python" or _node() is not None)


def _server(name: str, *flags: str, compressed: bool = False) -> Process:
    given = json.dumps({"flags": flags, "compressed": compressed})
    if THEIRS.get(name) == "node" and (folder := _node()) is not None:
        return Process("node", str(folder / "fanout_node.mjs"), given)
    return Process(sys.executable, "-m", "loadtest.benchmarks.fanout_server", given)


@contextmanager
def sides(name: str, *flags: str, compressed: bool = False) -> Iterator[tuple[Process, Process, Answer]]:
    """Yield a contender's server, clients that are not connected yet, and the server's ports."""
    server = _server(name, *flags, compressed=compressed)
    clients = Process(sys.executable, "-m", "loadtest.benchmarks.fanout_clients")
    try:
        yield server, clients, server.hear()
    finally:
        clients.end()
        server.end()


def send(server: Process, clients: Process, contender: str, count: int, size: int) -> Answer:
    """Let a contender send messages; return its CPU seconds, wall seconds and every latency in seconds."""
    with _frames(count, size) as frames:
        clients.ask(do="expect", count=count)
        clients.say({"do": "receive", "count": count})
        sent = server.ask(do="send", contender=contender, count=count, size=size, frames=frames)
    arrived = cast(list[list[float]], clients.hear()["arrived"])
    starts = cast(list[float], sent["sent"])
    latencies = sorted(at - start for start, column in zip(starts, arrived, strict=True) for at in column)
    return {"cpu": sent["cpu"], "wall": sent["wall"], "latencies": latencies}


@contextmanager
def _frames(count: int, size: int) -> Iterator[str]:
    """Yield the name of a file with the frames as JSON, for who cannot make them."""
    with tempfile.NamedTemporaryFile("wb", suffix=".json") as file:
        texts = [encode_sample(KEY, sample(seq, size), "raw", late=False).text for seq in range(1, count + 1)]
        file.write(b"[" + b",".join(texts) + b"]")
        file.flush()
        yield file.name


# --- what is measured ---


class _Measured:
    """One size and form: by contender, the CPU seconds of each round, and what else is known of each."""

    def __init__(self, clients: int, messages: int) -> None:
        self.deliveries = clients * messages
        self.cpu: dict[str, list[float]] = {}
        self.rounds: dict[str, list[dict[str, float]]] = {}

    def note(self, contender: str, answer: Answer) -> float:
        latencies = cast(list[float], answer["latencies"])
        cpu, wall = float(str(answer["cpu"])), float(str(answer["wall"]))
        self.rounds.setdefault(contender, []).append(
            {
                "messages_per_second": self.deliveries / wall,
                "cpu_us_per_message": 1e6 * cpu / self.deliveries,
                "p50_ms": 1e3 * latencies[len(latencies) // 2],
                "p99_ms": 1e3 * latencies[int(len(latencies) * 0.99)],
            }
        )
        return cpu

    def figures(self) -> dict[str, object]:
        return {name: rounds[1:] for name, rounds in self.rounds.items()}  # the first warms up

    def described(self) -> str:
        return "; ".join(
            f"{name} " + " ".join(f"{key}={statistics.median(one[key] for one in rounds[1:]):.4g}" for key in rounds[0])
            for name, rounds in self.rounds.items()
        )


def _measured(
    given: argparse.Namespace, clients: int, size: int, plain: Sequence[str], compressed: Sequence[str]
) -> tuple[_Measured, _Measured]:
    """Measure both forms, each with so many of theirs; all take turns, since the forms are compared too."""
    messages = max(LEAST_MESSAGES, given.messages * given.clients[0] // clients)
    forms = _Measured(clients, messages), _Measured(clients, messages)
    with ExitStack() as stack:
        contenders: dict[tuple[bool, str], Callable[[], float]] = {}
        for deflated, theirs in ((False, plain), (True, compressed)):
            for names in (("limit", "ours"), *((name,) for name in theirs)):
                server, near, ports = stack.enter_context(sides(names[-1], compressed=deflated))
                connect(near, names[-1], ports, clients, compressed=deflated)
                for name in names:
                    contenders[deflated, name] = partial(
                        _round, forms[deflated], server, near, name, messages=messages, size=size
                    )
        for (deflated, name), column in interleave(contenders, given.runs).items():
            forms[deflated].cpu[name] = column
    return forms


def _round(found: _Measured, server: Process, clients: Process, name: str, *, messages: int, size: int) -> float:
    return found.note(name, send(server, clients, name, messages, size))


def connect(clients: Process, name: str, ports: Answer, count: int, **more: object) -> None:
    """Connect so many clients to a contender's server."""
    clients.ask(do="connect", contender=name, port=ports[name], control=ports["control"], count=count, **more)


def idle_kib(name: str, clients: int) -> float:
    """Return what a client that is sent nothing costs, in KiB of resident memory, in a new process."""
    with sides(name) as (server, near, ports):
        # The first ones pay for code and pools that all share.
        connect(near, name, ports, WARM_CLIENTS)
        before = float(str(server.ask(do="memory")["resident_kib"]))
        connect(near, name, ports, clients)
        after = server.ask(do="memory")
    if after["clients"] != clients + WARM_CLIENTS:
        raise UnavailableError(f"{after['clients']} clients are served, expected {clients + WARM_CLIENTS}")
    return (float(str(after["resident_kib"])) - before) / clients


def slow_clients(clients: int, messages: int, runs: int, each: int = 10) -> Answer:
    """Return the p99 of quick clients with `each` deaf and slow ones over that without, and what those were told."""
    flags = (f"--bridge.client-buffer={SLOW_BUFFER_KIB}KiB", "--bridge.send-timeout=10s")
    ratios, told, growth = [], [], []
    for _ in range(runs):
        p99 = {}
        for name, late in (("without", 0), ("with", each)):
            with sides("ours", *flags) as (server, near, ports):
                connect(near, "ours", ports, clients + 2 * late, deaf=late, slow=late)
                send(server, near, "ours", messages, SIZES["20k"])  # warms up, and fills who does not read
                before = float(str(server.ask(do="memory")["resident_kib"]))
                latencies = cast(list[float], send(server, near, "ours", 2 * messages, SIZES["20k"])["latencies"])
                p99[name] = latencies[int(len(latencies) * 0.99)]
                if late:
                    growth.append(float(str(server.ask(do="memory")["resident_kib"])) - before)
                    told.append(near.ask(do="finish"))
        ratios.append(p99["with"] / p99["without"])
    bound = 2 * each * SLOW_BUFFER_KIB
    return {"ratios": ratios, "told": told, "growth_kib": growth, "memory": [max(0.0, one) / bound for one in growth]}
