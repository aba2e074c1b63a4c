"""The programs of a campaign, and what a schedule may do to them.

Three simulated hosts with a real `latido exporter` each, both ingest APIs and a private MariaDB. Exporters reach the
APIs, and the APIs the database, through proxies. Hosts `a` and `c` have one name; `a` has a clock that can be stepped,
`b` a spool on a disk that can be filled, `c` a spool so small that an outage overflows it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dev.mariadb import Mariadb
from dev.ports import free_port
from dev.program import Program
from ingest.schema import upgrade
from tests.faults.hosts import Host
from tests.faults.ledger import Conversation, Ledger
from tests.faults.links import Link, Links
from tests.faults.schedule import APIS, BRIDGE, DATABASE, HOSTS, Fault

NAMES: Final = {"a": "web-1", "b": "web-2", "c": "web-1"}
SMALL_SPOOL: Final = "48KiB"
DISK_BYTES: Final = 24 << 20
TOKEN: Final = "campaign-token-0123456789"  # noqa: S105 - opens nothing but the campaign's own APIs
START_SECONDS: Final = 60.0
STEP_SECONDS: Final = 0.25
FILE_LIMIT: Final = 16 << 10
_WRAPPED: Final = (sys.executable, "-P", str(Path(__file__).with_name("wrapped.py")))

Rest = Callable[[float], None]


class Disturbances:
    """When what was disturbed, so that a check knows what must be true at a moment. For any thread."""

    def __init__(self) -> None:
        self._spans: dict[str, list[tuple[float, float]]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def of(self, *parts: str) -> Iterator[None]:
        """Note that parts are disturbed while the block runs."""
        begin = time.monotonic()
        with self._lock:
            for part in parts:
                self._spans.setdefault(part, []).append((begin, float("inf")))
        try:
            yield
        finally:
            with self._lock:
                for part in parts:
                    self._spans[part].remove((begin, float("inf")))
                    self._spans[part].append((begin, time.monotonic()))

    def any(self, parts: Sequence[str], since: float, until: float) -> bool:
        """Whether any of the parts was disturbed at any moment of a time."""
        with self._lock:
            return any(
                begin <= until and end >= since for part in parts for begin, end in list(self._spans.get(part, []))
            )

    def throughout(self, part: str, since: float, until: float) -> bool:
        """Whether a part was disturbed during all of a time."""
        with self._lock:
            return any(begin <= since and end >= until for begin, end in self._spans.get(part, []))


@dataclass
class Exporter:
    """One simulated host with its exporter."""

    host: Host
    program: Program
    spool: Path
    token: Path
    clock: Path
    moving: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Plan:
    """What a stack is made of, where it is not the campaign's full one."""

    apis: tuple[str, ...] = APIS
    hosts: tuple[str, ...] = HOSTS
    interval: str = "500ms"
    bridge: bool = True
    plants: Mapping[str, str] = field(default_factory=dict)
    """A program's name to the defect that it is started with."""


class Stack:
    """The whole, under `folder`. `start`, then faults by `strike`, then `settle` and `stop`; `close` in any case.

    Programs end with the thread that starts them: whoever calls `start` and `strike` must outlive the stack.
    """

    def __init__(self, folder: Path, seed: int, plan: Plan = Plan()) -> None:
        self.folder = folder
        self.plan = plan
        self.ledger = Ledger()
        self.disturbed = Disturbances()
        self.database = Mariadb(folder / "mariadb", options=("--innodb-buffer-pool-size=128M",))
        self.apis: dict[str, Program] = {}
        self.exporters: dict[str, Exporter] = {}
        self.bridges: dict[str, Program] = {}
        self.links: dict[str, Link] = {}
        self.disk: Path | None = None
        self._seed = seed
        self._links = Links()
        self._moving = threading.Event()
        self._mover: threading.Thread | None = None

    def start(self) -> None:
        """Start everything and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.database.start()
        self.dsn = self.database.create_database("latido")
        if upgrade.main([f"--db.dsn={self.dsn}"]):
            raise RuntimeError("the tables could not be made")
        tokens = _write(self.folder / "tokens", f"{TOKEN}\n")
        for name in self.plan.apis:
            program = Program(
                ("ingest", name),
                (f"--auth.token-file={tokens}",),
                {"LATIDO_DB_DSN": self._linked(name)},
                free_port(),
                launcher=self._launcher(name),
            )
            self.apis[name] = program.start(ready="")
        if self.plan.bridge:
            program = Program(("bridge",), (), {"LATIDO_DB_DSN": self._linked(BRIDGE)}, free_port())
            self.bridges[BRIDGE] = program.start(ready="")
        if "b" in self.plan.hosts:
            self.disk = _mount(self.folder / "disk")
        for number, name in enumerate(self.plan.hosts):
            self.exporters[name] = self._exporter(name, self._seed * 10 + number)
        self._mover = threading.Thread(target=self._move, name="hosts")
        self._mover.start()
        for exporter in self.exporters.values():
            exporter.program.start(ready="")
        for program in self.programs().values():
            program.wait_ready(seconds=START_SECONDS)

    def _linked(self, name: str) -> str:
        """Open a program's link to the database; return the DSN that goes over it."""
        link = self.links[f"{name}>{DATABASE}"] = self._links.open(f"{name}>{DATABASE}", self.database.port)
        return self.dsn.replace(f":{self.database.port}/", f":{link.port}/")

    def programs(self) -> dict[str, Program]:
        """Return every program of ours by its name."""
        exporters = {name: exporter.program for name, exporter in self.exporters.items()}
        return {**self.apis, **exporters, **self.bridges}

    def _exporter(self, name: str, seed: int) -> Exporter:
        place = self.folder / name
        host = Host(place / "proc", seed)
        spool = (self.disk if name == "b" and self.disk is not None else place) / "spool.sqlite"
        token, clock = _write(place / "token", f"{TOKEN}\n"), place / "clock"
        clock.write_bytes(struct.pack("d", 0.0))
        flags = [
            "--source=procfs",
            f"--path.procfs={host.root}",
            f"--push.host={NAMES[name]}",
            f"--push.interval={self.plan.interval}",
            "--push.keyframe-interval=20s",
            "--push.timeout=5s",
            f"--push.token-file={token}",
            f"--spool.path={spool}",
        ]
        if name == "c":
            flags.append(f"--spool.max-bytes={SMALL_SPOOL}")
        for api, program in self.apis.items():
            link = self._links.open(f"{name}>{api}", program.port, lambda api=api: Conversation(api, self.ledger))  # type: ignore[misc] # bound now
            self.links[link.name] = link
            flags.append(f"--push.url=http://127.0.0.1:{link.port}")
        launcher = self._launcher(name, f"--clock={clock}")
        return Exporter(host, Program(("exporter",), flags, {}, free_port(), launcher=launcher), spool, token, clock)

    def _launcher(self, name: str, *flags: str) -> tuple[str, ...]:
        plant = self.plan.plants.get(name)
        if plant is not None:
            flags = (*flags, f"--plant={plant}")
        return (*_WRAPPED, *flags) if flags else ()

    def _move(self) -> None:
        while not self._moving.wait(STEP_SECONDS):
            for exporter in self.exporters.values():
                with exporter.moving:
                    exporter.host.step()

    # --- the faults: each returns when what it struck runs again ---

    def strike(self, fault: Fault, rest: Rest) -> None:
        """Do what a fault says. `rest` waits so many seconds, or less when the campaign is called off."""
        _FAULTS[fault.kind](self, fault, rest)

    def kill(self, fault: Fault, rest: Rest) -> None:
        """SIGKILL, and the start that a supervisor makes."""
        program = self.programs()[fault.target]
        with self.disturbed.of(fault.target):
            program.kill()
            rest(fault.seconds)
            self._restart(program)

    def reboot_host(self, fault: Fault, rest: Rest) -> None:
        """SIGKILL, and a start in another boot with other processes."""
        exporter = self.exporters[fault.target]
        with self.disturbed.of(fault.target):
            exporter.program.kill()
            with exporter.moving:
                exporter.host.reboot()
            rest(fault.seconds)
            self._restart(exporter.program)

    def kill_database(self, fault: Fault, rest: Rest) -> None:
        """SIGKILL; the server recovers from its logs."""
        with self.disturbed.of(DATABASE):
            self.database.kill()
            with self.disturbed.of("database is dead"):
                rest(fault.seconds)
            self.database.start()

    def stop_database(self, fault: Fault, rest: Rest) -> None:
        """SIGTERM, as an upgrade of the server would."""
        with self.disturbed.of(DATABASE):
            self.database.stop()
            with self.disturbed.of("database is dead"):
                rest(fault.seconds)
            self.database.start()

    def freeze_database(self, fault: Fault, rest: Rest) -> None:
        """SIGSTOP for a while."""
        pid = self.database.pid
        if pid is None:
            raise ProcessLookupError("the database does not run")
        with self.disturbed.of(DATABASE):
            os.kill(pid, signal.SIGSTOP)
            with self.disturbed.of("database is dead"):
                rest(fault.seconds)
            os.kill(pid, signal.SIGCONT)

    def freeze(self, fault: Fault, rest: Rest) -> None:
        """SIGSTOP for a while."""
        program = self.programs()[fault.target]
        with self.disturbed.of(fault.target):
            os.kill(program.pid, signal.SIGSTOP)
            rest(fault.seconds)
            os.kill(program.pid, signal.SIGCONT)

    def cut_link(self, fault: Fault, rest: Rest) -> None:
        """Reset every connection, and every new one."""
        link = self.links[fault.target]
        with self.disturbed.of(fault.target):
            link.is_cut = True
            self._links.reset(link)
            with self.disturbed.of(f"{fault.target} is cut"):
                rest(fault.seconds)
            link.is_cut = False

    def delay_link(self, fault: Fault, rest: Rest) -> None:
        """Let every piece wait on its way."""
        link = self.links[fault.target]
        with self.disturbed.of(fault.target):
            link.delay = fault.amount
            rest(fault.seconds)
            link.delay = 0.0

    def reset_link(self, fault: Fault, rest: Rest) -> None:
        """Reset what stands again and again, wherever in a request or an answer it is."""
        link = self.links[fault.target]
        with self.disturbed.of(fault.target):
            end = time.monotonic() + fault.seconds
            while True:
                self._links.reset(link)
                left = end - time.monotonic()
                if left <= 0:
                    return
                rest(min(left, 0.13))

    def disk_full(self, fault: Fault, rest: Rest) -> None:
        """Fill the disk under the spool to its last page."""
        if self.disk is None:
            raise RuntimeError("no disk of our own: mounting one needs root")
        ballast = self.disk / "ballast"
        with self.disturbed.of(fault.target):
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            rest(fault.seconds)
            ballast.unlink()

    def file_limit(self, fault: Fault, rest: Rest) -> None:
        """No file of the exporter may grow beyond a few pages (RLIMIT_FSIZE): each write there fails, as EFBIG."""
        with self.disturbed.of(fault.target):
            self._limited(self.exporters[fault.target].program.pid, resource.RLIMIT_FSIZE, FILE_LIMIT, fault, rest)

    def exhaust_descriptors(self, fault: Fault, rest: Rest) -> None:
        """No descriptor can be opened (RLIMIT_NOFILE): no connection taken or made, no file opened."""
        program = self.programs()[fault.target]
        with self.disturbed.of(fault.target):
            used = {int(name) for name in os.listdir(f"/proc/{program.pid}/fd")}  # noqa: PTH208 - names alone
            lowest = next(number for number in range(len(used) + 1) if number not in used)
            self._limited(program.pid, resource.RLIMIT_NOFILE, lowest, fault, rest)

    def exhaust_memory(self, fault: Fault, rest: Rest) -> None:
        """No more memory can be had (RLIMIT_AS). Who ends of it is started again; who lives on must work as before."""
        program = self.programs()[fault.target]
        with self.disturbed.of(fault.target):
            pages = int(Path(f"/proc/{program.pid}/statm").read_text(encoding="ascii").split()[0])
            limit = pages * os.sysconf("SC_PAGESIZE") + int(fault.amount * (1 << 20))
            with contextlib.suppress(ProcessLookupError):
                self._limited(program.pid, resource.RLIMIT_AS, limit, fault, rest)
            if program.status == 0:
                raise ChildProcessError("it ended with status 0: no supervisor would start it again")
            if program.status is not None:
                self._restart(program)

    def _limited(self, pid: int, what: int, limit: int, fault: Fault, rest: Rest) -> None:
        soft, hard = resource.prlimit(pid, what)
        resource.prlimit(pid, what, (limit, hard))
        rest(fault.seconds)
        resource.prlimit(pid, what, (soft, hard))

    def step_clock(self, fault: Fault, _: Rest) -> None:
        """Step the host's clock, never further than an hour from the true time."""
        path = self.exporters[fault.target].clock
        with path.open("r+b") as file:
            (offset,) = struct.unpack("d", file.read(8))
            moved = offset + fault.amount
            file.seek(0)
            file.write(struct.pack("d", moved if abs(moved) <= abs(fault.amount) else 0.0))

    def wrong_token(self, fault: Fault, rest: Rest) -> None:
        """Put another token where the exporter reads its own."""
        exporter = self.exporters[fault.target]
        with self.disturbed.of(fault.target):
            _write(exporter.token, "another-token-9876543210\n")
            rest(fault.seconds)
            _write(exporter.token, f"{TOKEN}\n")

    def restart_all(self, fault: Fault, rest: Rest) -> None:
        """SIGKILL everything, then start everything at once."""
        programs = self.programs()
        with self.disturbed.of(DATABASE, *programs):
            for program in programs.values():
                program.kill()
            self.database.kill()
            rest(fault.seconds)
            for program in programs.values():
                program.start(ready="")
            self.database.start()
            for program in programs.values():
                program.wait_ready("/-/healthy", START_SECONDS)

    def _restart(self, program: Program) -> None:
        # What it answers at /-/ready depends on others; that it answers, on itself.
        program.start(ready="").wait_ready("/-/healthy", START_SECONDS)

    # --- the end ---

    def freeze_hosts(self) -> None:
        """Let nothing more happen on the hosts, so that what they used is known."""
        self._moving.set()
        if self._mover is not None:
            self._mover.join()

    def stop(self) -> dict[str, int]:
        """End every program of ours by SIGTERM, the exporters first; return their exit statuses."""
        exporters = {name: exporter.program.stop() for name, exporter in self.exporters.items()}
        return exporters | {name: program.stop() for name, program in {**self.apis, **self.bridges}.items()}

    def close(self) -> None:
        """End whatever still runs, and unmount the disk."""
        self.freeze_hosts()
        for name, program in self.programs().items():
            if program.runs():
                os.kill(program.pid, signal.SIGCONT)
                program.kill()
            (self.folder / f"{name}.log").write_text(program.log(), encoding="utf-8")
            program.close()
        if self.database.pid is not None:
            os.kill(self.database.pid, signal.SIGCONT)
        self.database.stop()
        self._links.close()
        if self.disk is not None:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)


_FAULTS: Final[Mapping[str, Callable[[Stack, Fault, Rest], None]]] = {
    "kill_api": Stack.kill,
    "kill_exporter": Stack.kill,
    "kill_bridge": Stack.kill,
    "kill_database": Stack.kill_database,
    "stop_database": Stack.stop_database,
    "freeze_database": Stack.freeze_database,
    "freeze_api": Stack.freeze,
    "freeze_bridge": Stack.freeze,
    "cut_link": Stack.cut_link,
    "delay_link": Stack.delay_link,
    "reset_link": Stack.reset_link,
    "disk_full": Stack.disk_full,
    "file_limit": Stack.file_limit,
    "step_clock": Stack.step_clock,
    "wrong_token": Stack.wrong_token,
    "exhaust_descriptors": Stack.exhaust_descriptors,
    "exhaust_memory": Stack.exhaust_memory,
    "reboot_host": Stack.reboot_host,
    "restart_all": Stack.restart_all,
}


def can_mount(folder: Path) -> bool:
    """Whether a disk of our own can be had: it takes root, and a container may take that away."""
    disk = _mount(folder / "try")
    if disk is None:
        return False
    subprocess.run(["umount", str(disk)], check=True)
    return True


def _mount(path: Path) -> Path | None:
    path.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(path)]
    return path if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None


def _write(path: Path, text: str) -> Path:
    """Replace a private file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="ascii")
    new.rename(path)
    return path
