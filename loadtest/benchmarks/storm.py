"""A storm of short-lived processes that burns CPU time and says exactly how much, for `exits`.

Run as a program of its own, which needs nothing but the standard library. It speaks in lines: `ready`; it is told `go`
and storms; it says (JSON) how many processes it has waited for; it holds its zombies until it is told `end`, and
then says (JSON) its CPU seconds by getrusage(2): its own and those of every process that it has waited for, which the
kernel takes from the scheduler's clock, not from ticks.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

PREFIX: Final = "st-"
"""What the command of every process of the storm begins with."""
SHELL_LOOP: Final = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done"
BRIEF_SECONDS: Final = 0.003
THREADS: Final = 8

_PR_SET_NAME: Final = 15
_LIBC: Final = ctypes.CDLL(None)


def main() -> NoReturn:
    """Wait for `go`, storm, hold, and end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, required=True, help="of 14 processes each, one of them a zombie")
    parser.add_argument("--uid", type=int, help="become this user")
    parser.add_argument("--cgroup", type=Path, help="enter this cgroup (its folder)")
    parser.add_argument("--shells", type=Path, required=True, help="a folder that holds st-execd and st-late: shells")
    given = parser.parse_args()
    if given.cgroup is not None:
        (given.cgroup / "cgroup.procs").write_text("0")
    name_this("parent")
    if given.uid is not None:
        os.setgroups([])
        os.setresgid(given.uid, given.uid, given.uid)
        os.setresuid(given.uid, given.uid, given.uid)
    before = used(resource.RUSAGE_SELF)  # a scrape may come as soon as it is ready: what is in doubt counts as burnt
    say("ready")
    sys.stdin.readline()
    waited, zombies = storm(given.rounds, given.shells)
    say(json.dumps({"waited": waited, "zombies": len(zombies)}))
    sys.stdin.readline()
    own = used(resource.RUSAGE_SELF) - before
    for pid in zombies:
        os.waitpid(pid, 0)
    say(json.dumps({"cpu_seconds": own + used(resource.RUSAGE_CHILDREN)}))
    os._exit(0)  # the interpreter's own end would burn time that nobody asked about


def storm(rounds: int, shells: Path) -> tuple[int, list[int]]:
    """Run it: half a round's processes at once. Return how many were waited for, and the pids of zombies."""
    waited = 0
    zombies: list[int] = []
    for _ in range(rounds):
        for kinds in ([brief] * 6, [brief] * 4 + [lambda: execs(shells), threaded, lambda: late(shells)]):
            pids = [child(work) for work in kinds]
            for pid in pids:
                if os.waitpid(pid, 0)[1]:
                    raise ChildProcessError(f"a process of the storm failed ({pid})")
            waited += len(pids)
        zombies.append(child(zombie))
    for pid in zombies:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return waited, zombies


def child(work: Callable[[], None]) -> int:
    """Fork a process that does `work` and ends; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def brief() -> None:
    """Live as long as its CPU time lasts."""
    name_this("brief")
    burn(BRIEF_SECONDS)


def zombie() -> None:
    """Burn, and be waited for only at the end."""
    name_this("zombie")
    burn(BRIEF_SECONDS)


def execs(shells: Path) -> None:
    """Burn under one name, then as another program under another."""
    name_this("exec")
    burn(BRIEF_SECONDS)
    os.execv(shells / "st-execd", ["st-execd", "-c", SHELL_LOOP])  # noqa: S606 - a shell by another name


def threaded() -> None:
    """Burn in threads, all of which have ended before the process does."""
    name_this("threads")
    threads = [threading.Thread(target=burn, args=(BRIEF_SECONDS / THREADS,)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def late(shells: Path) -> None:
    """Exec from a thread that is not the leader: the leader's time must not be lost."""
    name_this("leader")
    burn(BRIEF_SECONDS)

    def exec_here() -> None:
        burn(BRIEF_SECONDS)
        os.execv(shells / "st-late", ["st-late", "-c", SHELL_LOOP])  # noqa: S606 - a shell by another name

    threading.Thread(target=exec_here).start()
    while True:  # the exec ends this thread
        time.sleep(1)


def burn(seconds: float) -> None:
    """Use so much CPU time of this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def used(whose: int) -> float:
    """Return CPU seconds."""
    usage = resource.getrusage(whose)
    return usage.ru_utime + usage.ru_stime


def name_this(name: str) -> None:
    """Name this process; /proc/self/comm is not its own any more once it has changed its user."""
    _LIBC.prctl(_PR_SET_NAME, f"{PREFIX}{name}".encode(), 0, 0, 0)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
