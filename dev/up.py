"""`make up`: the whole stack on this machine, until Ctrl-C.

A private MariaDB in `.run/` (or the database that LATIDO_DB_DSN names) is started and brought to this version's
tables; honcho runs the Procfile; when data has gone the whole way, where to look is printed. The database ends last,
so that what the programs still hold is stored.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, NoReturn

from dev.mariadb import Mariadb, MariadbError
from dev.ports import taken
from dev.prometheus import BINARIES, PORTS, ROOT, port_of

FLOW_SECONDS: Final = 60
"""From the programs' start until every reader has data; more means that something is wrong, and it is said."""
HONCHO_SECONDS: Final = 15
"""honcho gives its programs five seconds before it kills them (honcho.manager.KILL_WAIT)."""


class UpError(Exception):
    """The stack cannot start; the message says what to do."""


@dataclass(frozen=True)
class Stack:
    """Where the stack keeps its files, and the environment that its programs share."""

    folder: Path
    environ: Mapping[str, str]

    @property
    def with_prometheus(self) -> bool:
        """Whether there is a Prometheus to run."""
        return (BINARIES / "prometheus").exists()

    def url(self, program: str) -> str:
        """Return the base URL of a program."""
        return f"http://127.0.0.1:{port_of(program, self.environ)}"


def main() -> int:
    """Run the stack, or with --status ask the running one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--status", action="store_true", help="show how the running stack is doing")
    parser.add_argument(
        "--latido", nargs=argparse.REMAINDER, help="run a latido command on the running stack's database"
    )
    given = parser.parse_args()
    folder = Path(os.environ.get("LATIDO_RUN") or ROOT / ".run").resolve()
    try:
        if given.status:
            flags = [f"--{name.replace(' ', '-')}.url={url}" for name, url in _running_urls(folder).items()]
            run_latido(folder, ["status", *flags])
        if given.latido is not None:
            run_latido(folder, given.latido)
        return up(folder, os.environ)
    except (UpError, MariadbError) as error:
        print(f"make up: {error}", file=sys.stderr)
        return 1


def up(folder: Path, environ: Mapping[str, str]) -> int:
    """Start everything, follow the logs, and end everything on SIGINT or SIGTERM; return the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = _claim(folder)
    stack = Stack(folder, environ)
    _check_ports(stack)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    database: Mariadb | None = None
    honcho: subprocess.Popen[bytes] | None = None
    try:
        dsn = environ.get("LATIDO_DB_DSN")
        if not dsn:
            print("up: starting the private MariaDB", flush=True)
            database = Mariadb(
                folder / "mariadb",
                port=int(environ.get("MARIADB_PORT") or 0),
                password=_password(folder),
                options=("--innodb-buffer-pool-size=256M",),
            )
            database.start()
            dsn = database.create_database("latido")
        programs = {**environ, "LATIDO_DB_DSN": dsn, "LATIDO_RUN": str(folder), "PYTHONUNBUFFERED": "1"}
        if subprocess.run(["latido", "db", "upgrade"], env=programs, check=False).returncode:
            raise UpError("the database could not be brought to this version's tables; the line above says why")
        _write_environment(folder, programs)
        honcho = _start_honcho(stack, programs)
        threading.Thread(target=_announce, args=(stack, dsn, stop), daemon=True).start()
        while not stop.wait(0.2):
            if honcho.poll() is not None:
                print("up: a program ended, and with it the stack; its last lines above say why", file=sys.stderr)
                return 1
        print("\nup: ending all programs", flush=True)
        return 0
    finally:
        if honcho is not None:
            _end_honcho(honcho)
        if database is not None:
            database.stop()
        (folder / "stack.json").unlink(missing_ok=True)
        lock.close()


def run_latido(folder: Path, arguments: list[str]) -> NoReturn:
    """Become a latido command that reads the running stack's database: its help if none is given. Raises UpError."""
    environ = dict(os.environ)
    if arguments:
        environ["LATIDO_DB_DSN"] = _running(folder)["LATIDO_DB_DSN"]
    os.execvpe("latido", ["latido", *arguments], environ)  # noqa: S606 - our own command


def _running_urls(folder: Path) -> dict[str, str]:
    ports = _running(folder)
    return {name: f"http://127.0.0.1:{ports[variable]}" for name, (variable, _) in PORTS.items()}


def _running(folder: Path) -> dict[str, str]:
    """Return what the running stack left of its ports and database. Raises UpError if none runs."""
    try:
        found: dict[str, str] = json.loads((folder / "stack.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UpError("no stack runs here; `make up` starts one") from None
    return found


def _claim(folder: Path) -> IO[str]:
    """Hold the folder for this run. Raises UpError naming who has it."""
    file = (folder / "up.lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UpError(
            f"it runs already (process {file.read().strip()}); Ctrl-C there ends it, `make status` shows it"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _check_ports(stack: Stack) -> None:
    for program, (variable, _) in PORTS.items():
        port = port_of(program, stack.environ)
        if taken(port) and (program != "prometheus" or stack.with_prometheus):
            raise UpError(
                f"port {port}, where {program} would listen, is taken; free it, or say `make up {variable}=PORT`"
            )


def _password(folder: Path) -> str:
    """Return the private database's password, made on first use and readable by its owner alone."""
    path = folder / "mariadb-password"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(16))
    return path.read_text(encoding="ascii").strip()


def _write_environment(folder: Path, environ: Mapping[str, str]) -> None:
    """Leave what `make status` needs: the ports and the DSN, for the owner alone."""
    path = folder / "stack.json"
    path.unlink(missing_ok=True)
    content = {variable: port_of(name, environ) for name, (variable, _) in PORTS.items()}
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({**content, "LATIDO_DB_DSN": environ["LATIDO_DB_DSN"]}, file)


def _start_honcho(stack: Stack, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    names = ["exporter", "ingest-raw", "ingest-orm", "bridge", "retain"]
    if stack.with_prometheus:
        names.append("prometheus")
    # A session of its own: Ctrl-C reaches this process alone, which ends the parts in order.
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", "honcho", "start", "-f", str(ROOT / "Procfile"), *names],
        env=dict(environ),
        cwd=ROOT,
        start_new_session=True,
    )


def _end_honcho(honcho: subprocess.Popen[bytes]) -> None:
    if honcho.poll() is None:
        honcho.terminate()
        try:
            honcho.wait(HONCHO_SECONDS)
        except subprocess.TimeoutExpired:
            honcho.kill()
            honcho.wait()


def _announce(stack: Stack, dsn: str, stop: threading.Event) -> None:
    """Wait until data has gone the whole way, then say where to look."""
    waiting = list(_checks(stack))
    deadline = time.monotonic() + FLOW_SECONDS
    while waiting and not stop.wait(0.5):
        waiting = [name for name in waiting if not _flows(stack, name)]
        if waiting and time.monotonic() > deadline:
            print(f"up: after {FLOW_SECONDS} s still nothing from: {', '.join(waiting)}; its lines above say why")
            deadline += FLOW_SECONDS
    if not stop.is_set():
        print(_directions(stack, dsn), flush=True)


def _checks(stack: Stack) -> list[str]:
    names = ["exporter", "ingest raw", "ingest orm", "bridge"]
    return [*names, "prometheus"] if stack.with_prometheus else names


def _flows(stack: Stack, name: str) -> bool:
    """Whether a program has data to show: the exporter and the bridge by readiness, an API by samples it took."""
    if name == "prometheus":
        query = urllib.parse.urlencode({"query": "sum(latido_group_processes) and on() (sum(up) == 4)"})
        body = _get(f"{stack.url(name)}/api/v1/query?{query}")
        return body is not None and bool(json.loads(body)["data"]["result"])
    if name.startswith("ingest"):
        body = _get(f"{stack.url(name)}/metrics")
        lines = (body or b"").decode().splitlines()
        seen = [line for line in lines if line.startswith(("latido_ingest_samples_", "latido_ingest_duplicates_"))]
        return any(float(line.rsplit(" ", 1)[1]) > 0 for line in seen if "_created" not in line)
    return _get(f"{stack.url(name)}/-/ready") is not None


def _get(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=4) as response:  # noqa: S310 - http to loopback, built above
            body: bytes = response.read(16 << 20)
            return body
    except (OSError, urllib.error.URLError):
        return None


def _directions(stack: Stack, dsn: str) -> str:
    parts = urllib.parse.urlsplit(dsn)
    client = f"mariadb -h {parts.hostname} -P {parts.port or 3306} -u {parts.username}"
    if not stack.environ.get("LATIDO_DB_DSN"):
        client += f" -p$(cat {stack.folder / 'mariadb-password'})"
    lines = [
        "",
        "  Latido runs: this machine's processes are on their way to every reader.",
        "",
        f"  live page       {stack.url('bridge')}/",
        f"  metrics         {stack.url('exporter')}/metrics",
        f"  WebSocket       {stack.url('bridge').replace('http', 'ws')}/ws",
    ]
    if stack.with_prometheus:
        # Its API: the pages of Debian's build lie where only an installed package puts them.
        query = urllib.parse.urlencode({"query": "topk(5, latido_group_resident_memory_bytes)"})
        lines.append(f"  Prometheus      {stack.url('prometheus')}/api/v1/query?{query}")
    lines += [
        f"  history in SQL  {client} {parts.path.lstrip('/')}",
        "  state           make status   (in another terminal)",
        "  history         make latido ARGS='history --window 1m'",
        "",
        "  Ctrl-C ends everything; what was stored stays for the next `make up`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
