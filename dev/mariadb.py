"""A private MariaDB: its own folder, its own port on loopback, run as the invoking user, ended with its owner.

Needs Debian's `mariadb-server-core` and `mariadb-client-core`, which start no service.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pymysql

from dev.ports import free_port

START_SECONDS: Final = 60
STOP_SECONDS: Final = 30


class MariadbError(Exception):
    """The server cannot be found or does not start; the message says why and where its log is."""


@dataclass
class Mariadb:
    """A server over `folder`. `start` makes the data on first use; `stop` ends the process and keeps the data.

    With a `password`, root needs it from before the first connection on; without, anyone on this machine is root
    (the tests' servers, which live for a minute and hold nothing).
    """

    folder: Path
    port: int = 0
    options: tuple[str, ...] = ()
    password: str = field(default="", repr=False)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers. Raises MariadbError."""
        server, install = _find("mariadbd"), _find("mariadb-install-db")
        self.folder.mkdir(parents=True, exist_ok=True)
        data = self.folder / "data"
        # Its own: a server clears its temporary folder of files like a neighbour's when it starts.
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        user = ["--user=root"] if os.geteuid() == 0 else []
        if not (data / "mysql").is_dir():
            command = [install, "--no-defaults", f"--datadir={data}", f"--tmpdir={temporary}", *user]
            command += ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MariadbError(f"mariadb-install-db failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        self.port = self.port or free_port()
        options = [*self.options]
        if self.password:
            options.append(f"--init-file={self._write_init_file()}")
        self._process = subprocess.Popen(
            [
                # Should its owner be killed, the server ends too.
                *(_find("setpriv"), "--pdeathsig", "TERM", server),
                "--no-defaults",
                f"--datadir={data}",
                f"--tmpdir={temporary}",
                # Relative to the data folder, which can be anywhere: a socket's path holds 107 bytes (sun_path).
                "--socket=latido.sock",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                f"--pid-file={self.folder / 'pid'}",
                f"--log-error={self.log}",
                "--skip-log-bin",
                "--skip-name-resolve",
                "--max-allowed-packet=64M",
                *options,
                *user,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the stack, which ends the database last
        )
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise MariadbError(
                    f"mariadbd did not start on port {self.port}; the end of {self.log}:\n{self._tail()}"
                )
            time.sleep(0.05)  # between two tries to connect: the server announces readiness in no other way

    def stop(self) -> None:
        """End the server cleanly and wait for it; a no-op if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _write_init_file(self) -> Path:
        """Write what the server runs before it accepts its first connection: every root gets the password."""
        path = self.folder / "init.sql"
        path.touch(mode=0o600)
        quoted = self.password.replace("\\", "\\\\").replace("'", "''")
        users = ("localhost", "127.0.0.1", "::1")
        path.write_text(
            "".join(f"CREATE OR REPLACE USER root@'{host}' IDENTIFIED BY '{quoted}';\n" for host in users)
            + "".join(f"GRANT ALL ON *.* TO root@'{host}' WITH GRANT OPTION;\n" for host in users)
        )
        return path

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    @property
    def log(self) -> Path:
        """The server's error log."""
        return self.folder / "error.log"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None else None

    def answers(self) -> bool:
        """Whether it accepts a connection now."""
        try:
            self.connect().close()
        except pymysql.MySQLError:
            return False
        return True

    def connect(self, database: str | None = None) -> pymysql.Connection[pymysql.cursors.Cursor]:
        """Return a connection as root, with autocommit and UTC."""
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="root",
            password=self.password,
            database=database,
            autocommit=True,
            connect_timeout=2,
            init_command="SET time_zone = '+00:00'",
        )

    def dsn(self, database: str) -> str:
        """Return the DSN of one of its databases, as `--db.dsn` takes it."""
        password = f":{quote(self.password, safe='')}" if self.password else ""
        return f"mysql://root{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create an empty database if it is not there, and return its DSN."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE IF NOT EXISTS `{name}` CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        return self.dsn(name)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "(no log)"


def _find(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise MariadbError(
            f"{name} is missing: `apt-get install --no-install-recommends mariadb-server-core mariadb-client-core`"
        )
    return found
