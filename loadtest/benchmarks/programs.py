"""The programs that benchmarks compare: ours, and Debian's builds of the alternatives, unpacked and not installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

START_SECONDS: Final = 60
ROOT: Final = Path(__file__).parents[2] / ".run" / "tools"


class UnavailableError(Exception):
    """A contender cannot be had here; the message says why."""


@dataclass(frozen=True)
class Server:
    """A program that serves metrics."""

    pid: int
    url: str

    def scrape(self) -> bytes:
        """Fetch the metrics, uncompressed."""
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity"})  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310 - loopback
            body: bytes = response.read()
            return body

    def cpu_seconds(self) -> float:
        """Return the CPU time of its living threads, in the scheduler's nanoseconds (schedstat's first field)."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                continue  # a thread that ended between the two reads
        return total / 1e9

    def resident_mib(self) -> float:
        """Return its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str], url: str, environ: dict[str, str] | None = None, within: float = START_SECONDS
) -> Iterator[Server]:
    """Run a program until its metrics answer, for so many seconds at the most, and end it afterwards."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environ)  # noqa: S603 - our own list
        try:
            server = Server(process.pid, url)
            deadline = time.monotonic() + within
            while not _answers(server):
                if process.poll() is not None or time.monotonic() > deadline:
                    output.seek(0)
                    raise UnavailableError(
                        f"{command[0]} does not serve: {output.read()[-1500:].decode(errors='replace')}"
                    )
                time.sleep(0.1)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(server: Server) -> bool:
    try:
        return bool(server.scrape())
    except OSError:
        return False


def debian(package: str, binary: str) -> Path:
    """Return a binary of a Debian package: installed, or downloaded and unpacked beside the other tools.

    Raises UnavailableError.
    """
    found = shutil.which(binary)
    if found is not None:
        return Path(found)
    folder = ROOT / package
    path = folder / "usr" / "bin" / binary
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "-qq", package]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own list
        archives = list(folder.glob("*.deb"))
        if done.returncode or not archives:
            raise UnavailableError(f"{package}: `apt-get download` says {done.stderr.strip()}")
        subprocess.run(["dpkg", "-x", archives[0], folder], check=True)  # noqa: S603, S607 - our own list
        archives[0].unlink()
    return path


@contextmanager
def sleepers(count: int, command: Callable[[int], Sequence[str]] | None = None) -> Iterator[None]:
    """Run so many processes that do nothing, until the context ends: `sleep infinity`, or what `command(i)` says."""
    binary = shutil.which("sleep") or "/bin/sleep"
    pids: list[int] = []
    try:
        for number in range(count):
            arguments = list(command(number)) if command else [binary, "infinity"]
            pids.append(os.posix_spawn(arguments[0], arguments, os.environ))
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


_FLEET = """
import os, signal, sys, threading, time
count, threads, files, churners = map(int, sys.argv[1:])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def live(number):
    held = [open("/dev/null") for _ in range(files)]
    for _ in range(threads - 1):
        threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
    while True:
        time.sleep(0.05)
        if number < churners and not os.fork():
            os._exit(0)
for number in range(count):
    if not os.fork():
        try:
            with open("/proc/self/comm", "w") as name:
                name.write(f"worker-{number % 40}")
            live(number)
        finally:
            os._exit(1)
print(flush=True)
sys.stdin.read()
"""
BUSY_THREADS: Final = 10
BUSY_FILES: Final = 200
BUSY_CHURNERS: Final = 20
"""Of the fleet, so many start a process each time they wake: some hundred births and deaths a second."""


@contextmanager
def busy_fleet(count: int) -> Iterator[None]:
    """Run so many processes of BUSY_THREADS threads and BUSY_FILES open files, which wake 20 times a second."""
    arguments = [str(number) for number in (count, BUSY_THREADS, BUSY_FILES, BUSY_CHURNERS)]
    with subprocess.Popen(  # noqa: S603 - our own script
        [sys.executable, "-c", _FLEET, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101 - for the type checker: it is a pipe
            process.stdout.readline()
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
