"""Locust's processes of one run: one alone, or a master and its workers, on this machine's loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loadtest import plan

STOP_SECONDS: Final = 20
"""For users to finish the request that they are in: longer than a request may take."""
END_SECONDS: Final = 60.0
"""For Locust to end once it was asked to."""
_FILE: Final = Path(__file__).with_name("locustfile.py")


@dataclass
class Swarm:
    """The processes by name; `main` is the one that ends when the run is over."""

    processes: dict[str, subprocess.Popen[bytes]]
    log: Path

    @property
    def main(self) -> subprocess.Popen[bytes]:
        """Locust alone, or the master."""
        return next(iter(self.processes.values()))

    def wait(self) -> None:
        """Let workers finish what they write once the master has ended; they may take a while, and no longer."""
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)

    def end(self) -> None:
        """Ask all of them to end, and see that they do."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def faults(self) -> list[str]:
        """Return which ended by other than having finished, in words; all have ended."""
        found = {name: process.wait() for name, process in self.processes.items()}
        return [f"{name} ended with status {status}" for name, status in found.items() if status]


@contextmanager
def swarm(folder: Path, *, workers: int, web: tuple[str, int] | None, tags: Sequence[str]) -> Iterator[Swarm]:
    """Start Locust over the plan in `folder`, and end all of it with the block."""
    log = folder / "locust.log"
    common = ["--stop-timeout", str(STOP_SECONDS), "--exit-code-on-error", "0", "--loglevel", "WARNING"]
    if tags:
        common += ["--tags", *tags]
    face = ["--headless", "--only-summary"]
    if web is not None:
        face = ["--web-host", web[0], "--web-port", str(web[1]), "--autostart", "--autoquit", "1"]
    port = _free_port()
    roles = {"locust": [*face, *common]}
    if workers:
        master = ["--master", "--expect-workers", str(workers), "--expect-workers-max-wait", "60"]
        roles = {
            "master": [*master, "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port), *face, *common]
        }
        for number in range(1, workers + 1):
            roles[f"worker {number}"] = ["--worker", "--master-host", "127.0.0.1", "--master-port", str(port), *common]
    with log.open("ab") as output:
        running = Swarm({}, log)
        try:
            for name, flags in roles.items():
                running.processes[name] = subprocess.Popen(  # noqa: S603 - our own interpreter and files
                    [*_tied(), sys.executable, "-m", "locust", "-f", str(_FILE), *flags],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=folder,  # Locust reads files of settings from where it is started
                    env=_environment(folder),
                    start_new_session=True,  # Ctrl-C reaches the run alone, which ends them in order
                )
            yield running
        finally:
            running.end()


def _tied() -> list[str]:
    """Return what starts a command so that it ends should its owner be killed (util-linux; not everywhere)."""
    found = next((path for path in ("/usr/bin/setpriv", "/bin/setpriv") if Path(path).exists()), None)
    return [found, "--pdeathsig", "TERM"] if found else []


def _environment(folder: Path) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("LOCUST_", "LATIDO_"))}
    # Where Latido is a checkout that is not installed, the users import it from there all the same.
    paths = [str(_FILE.parent.parent), *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(paths), plan.FOLDER_VARIABLE: str(folder)}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
