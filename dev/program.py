"""A program of ours as tests run it: a real process on a free port, waited for, ended by SIGTERM or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Protocol

from dev.ports import free_port
from dev.waiting import wait_for

STOP_SECONDS: Final = 15
_TIED: Final = ("setpriv", "--pdeathsig", "TERM")
"""Should the tests be killed, it ends too. (It ends with the thread that starts it: prctl(2), PR_SET_PDEATHSIG.)"""


class Start(Protocol):
    """A fixture that starts programs and ends them with the test."""

    def __call__(self, *command: str, ready: str = "/-/ready", flags: tuple[str, ...] = (), dsn: str = "") -> Program:
        """Start `latido COMMAND FLAGS`, with the database's DSN, and wait until it answers at `ready`."""


@dataclass
class Program:
    """`latido COMMAND FLAGS --web.listen-address=127.0.0.1:PORT`. Its log is kept in a temporary file."""

    command: Sequence[str]
    flags: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    bin: Path = Path(sys.executable).parent
    launcher: Sequence[str] = ()
    """What takes COMMAND and FLAGS in place of the installed `latido`."""
    _process: subprocess.Popen[bytes] | None = None
    _log: IO[bytes] = field(default_factory=tempfile.TemporaryFile)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id; it must run."""
        if self._process is None:
            raise ProcessLookupError(f"{' '.join(self.command)} does not run")
        return self._process.pid

    def start(self, ready: str = "/-/ready") -> Program:
        """Start it and wait until it answers 200 at `ready` ("" waits for nothing)."""
        self.port = self.port or free_port()
        listen = f"--web.listen-address=127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [*_TIED, *(self.launcher or (str(self.bin / "latido"),)), *self.command, listen, *self.flags],
            env={**_plain_environment(), **self.environ},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        if ready:
            self.wait_ready(ready)
        return self

    def wait_ready(self, path: str = "/-/ready", seconds: float = 30) -> None:
        """Wait until it answers 200 at `path`. Raises TimeoutError with the end of its log."""

        def answers() -> bool:
            if not self.runs():
                raise ProcessLookupError(f"{' '.join(self.command)} ended:\n{self.log()[-4000:]}")
            return self.get(path)[0] == 200  # noqa: PLR2004

        try:
            wait_for(answers, f"{' '.join(self.command)} answers {path}", seconds)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log()[-4000:]}") from None

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a GET; status 0 if nothing answers."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=10) as response:  # noqa: S310 - loopback
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, series: str) -> float:
        """Return the value of one series of its /metrics, written as there; 0 if it is absent."""
        for line in self.get("/metrics")[1].splitlines():
            if line.startswith(series + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def runs(self) -> bool:
        """Whether its process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def status(self) -> int | None:
        """With what it ended by itself; None while it runs."""
        return None if self._process is None else self._process.poll()

    def log(self) -> str:
        """Return all that it has logged, over restarts too."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode("utf-8", "replace")

    def stop(self) -> int:
        """End it by SIGTERM and return its exit status. Raises TimeoutExpired if it does not end."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Forget its log; the program must have ended."""
        self._log.close()

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _plain_environment() -> dict[str, str]:
    """Return this environment without settings of Latido: a test says what a program takes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LATIDO_")}
