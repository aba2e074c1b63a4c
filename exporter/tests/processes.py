"""Real processes for tests: named, stopped, with threads, under the test's control until the block ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_SCRIPT = """
import ctypes, os, sys, threading, time
name, threads = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
if name:
    ctypes.CDLL(None).prctl(15, ctypes.c_char_p(name), 0, 0, 0)  # PR_SET_NAME (prctl(2))
spent, lock, stay = [], threading.Lock(), threading.Event()
def work(leaves):
    while time.thread_time() < 0.01:
        pass
    with lock:
        spent.append(time.thread_time() if leaves else 0.0)
    if not leaves:
        stay.wait()
workers = [threading.Thread(target=work, args=(number % 2 == 0,), daemon=True) for number in range(threads)]
for worker in workers:
    worker.start()
for worker in workers[::2]:
    worker.join()
# A thread that was joined still has some way to go in the kernel.
while len(spent) < threads or len(os.listdir("/proc/self/task")) > 1 + threads // 2:
    time.sleep(0.001)
print(sum(spent), flush=True)
sys.stdin.read()
"""


class Child:
    """A running process. `report` is what it printed when it was ready: CPU seconds of its ended threads."""

    def __init__(self, process: subprocess.Popen[bytes], report: float) -> None:
        self.process = process
        self.pid = process.pid
        self.report = report

    def stop(self) -> None:
        """Send SIGSTOP and return once it has stopped: from then on nothing about it changes."""
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def become_zombie(self) -> None:
        """End it and return when it has ended, unreaped."""
        self.process.kill()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@contextmanager
def child(name: bytes = b"", *, threads: int = 0) -> Iterator[Child]:
    """Start a process called `name`, with so many threads of which every other one works 10 ms and ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT, name.hex(), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        try:
            yield Child(process, float(process.stdout.readline()))
        finally:
            process.kill()
