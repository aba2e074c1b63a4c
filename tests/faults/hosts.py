"""A host whose processes the campaign knows to the tick: a /proc tree (proc(5)) that a real exporter reads.

Each file is replaced whole (rename(2)), so a reader sees a process before or after a step, never between. CPU time
only grows while a process is there, and `cpu_ns` is what the exporter must have told once it has read the last step.
"""

from __future__ import annotations

import random
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TICK_NS: Final = 10_000_000
RESIDENTS: Final = 12
"""Processes that stay as long as the boot does: their CPU time is known at the end."""
VISITORS: Final = 6
"""Processes that come and go beside them, at most so many at a time."""
BOOT_TIME: Final = 1_700_000_000

_STATUS: Final = """Name:\t{command}
State:\tS (sleeping)
Tgid:\t{pid}
Pid:\t{pid}
PPid:\t1
Uid:\t{uid}\t{uid}\t{uid}\t{uid}
VmSize:\t   14688 kB
VmRSS:\t    {rss} kB
VmSwap:\t     128 kB
Threads:\t1
voluntary_ctxt_switches:\t{switches}
nonvoluntary_ctxt_switches:\t0
"""
_IO: Final = """rchar: 0
wchar: 1
syscr: 0
syscw: 1
read_bytes: 4096
write_bytes: 8192
cancelled_write_bytes: 0
"""
_MEMINFO: Final = """MemTotal:       24684084 kB
MemFree:        {free} kB
MemAvailable:   24182860 kB
Buffers:           13732 kB
Cached:           598168 kB
SwapTotal:       1048572 kB
SwapFree:        1048444 kB
Shmem:              8872 kB
Slab:             420468 kB
"""


@dataclass
class _Process:
    pid: int
    start_ticks: int
    command: str
    user: int = 0
    system: int = 0
    switches: int = 0


class Host:
    """A simulated host under `root`. Not for two threads at once."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self._draw = random.Random(seed)  # noqa: S311 - a simulation that can be repeated
        self._ticks = 1000
        self._switches = 0
        self._next_pid = 100
        self._residents: list[_Process] = []
        self._visitors: list[_Process] = []
        root.mkdir(parents=True)
        self.reboot()

    def reboot(self) -> None:
        """Begin a new boot, with processes of its own that have used some CPU already."""
        for process in [*self._residents, *self._visitors]:
            self._remove(process)
        self._write("sys/kernel/random/boot_id", f"{uuid.UUID(int=self._draw.getrandbits(128), version=4)}\n")
        self._ticks = 1000
        self._visitors = []
        self._residents = [self._new(f"resident-{number}") for number in range(RESIDENTS)]
        self.step()

    def step(self) -> None:
        """Let the host do something: CPU is used, processes come and go, the machine's counters move on."""
        self._ticks += 50
        for process in [*self._residents, *self._visitors]:
            if self._draw.random() < 0.5:
                self._run(process)
        if len(self._visitors) == VISITORS or (self._visitors and self._draw.random() < 0.3):
            self._remove(self._visitors.pop(0))
        if len(self._visitors) < VISITORS and self._draw.random() < 0.4:
            self._visitors.append(self._new("visitor"))
        self._switches += self._draw.randrange(1, 1000)
        busy = sum(process.user for process in self._residents)
        cpu = f"{busy} 0 {busy // 2} {self._ticks * 2} 0 0 0 0 0 0"
        self._write(
            "stat",
            f"cpu  {cpu}\ncpu0 {cpu}\nctxt {self._switches}\nbtime {BOOT_TIME}\nprocesses {self._next_pid}\n"
            "procs_running 1\nprocs_blocked 0\n",
        )
        self._write("loadavg", "0.13 0.22 0.34 1/142 11243\n")
        self._write("meminfo", _MEMINFO.format(free=20_000_000 + self._draw.randrange(1_000_000)))

    @property
    def cpu_ns(self) -> dict[tuple[int, int], int]:
        """CPU time of each process that is there now, by (pid, start_ticks)."""
        return {
            (process.pid, process.start_ticks): (process.user + process.system) * TICK_NS
            for process in [*self._residents, *self._visitors]
        }

    def _new(self, command: str) -> _Process:
        self._next_pid += 1
        process = _Process(self._next_pid, self._ticks, command)
        hidden = self.root / f"new-{process.pid}"
        hidden.mkdir()
        self._files(process, hidden)
        hidden.rename(self.root / str(process.pid))
        self._run(process)
        return process

    def _run(self, process: _Process) -> None:
        process.user += self._draw.randrange(0, 40)
        process.system += self._draw.randrange(0, 10)
        process.switches += 1
        self._files(process, self.root / str(process.pid))

    def _files(self, process: _Process, folder: Path) -> None:
        stat = (
            f"{process.pid} ({process.command}) S 1 1 1 0 -1 4194368 252 0 0 0 {process.user} {process.system}"
            f" 0 0 20 0 1 0 {process.start_ticks} 15040512 2289 18446744073709551615" + " 0" * 27
        )
        # status first: a reader takes stat first, and a row of new counts with old times would look changed for nothing
        self._replace(
            folder / "status",
            _STATUS.format(
                command=process.command,
                pid=process.pid,
                uid=process.pid % 3,
                rss=9000 + process.switches,
                switches=process.switches,
            ),
        )
        self._replace(folder / "stat", stat + "\n")
        if not (folder / "cgroup").exists():
            self._replace(folder / "cgroup", f"0::/system.slice/{process.command}.service\n")
            self._replace(folder / "io", _IO)

    def _remove(self, process: _Process) -> None:
        gone = self.root / f"gone-{process.pid}"
        (self.root / str(process.pid)).rename(gone)
        shutil.rmtree(gone)

    def _write(self, name: str, text: str) -> None:
        self._replace(self.root / name, text)

    def _replace(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden = self.root / "being-written"
        hidden.write_text(text, encoding="ascii")
        hidden.rename(path)
