"""`make loadtest`: a load test of both APIs on a private stack of its own, which ends with it.

Flags go on to `latido loadtest run`. `--write-questions` writes what its dashboards ask instead
(`loadtest/data/questions.json`, from `ingest.schema.questions`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec

from dev.mariadb import Mariadb, MariadbError
from dev.program import Program
from ingest.schema import questions

ROOT: Final = Path(__file__).parent.parent
QUESTIONS: Final = ROOT / "loadtest" / "data" / "questions.json"
ASKED: Final = ("TOP_PROCESSES", "TOP_COMMANDS", "TABLE_AT", "FLEET_COMMANDS")
OUTPUT: Final = ROOT / ".run" / "loadtest"
OPTIONS: Final = (
    "--innodb-flush-log-at-trx-commit=1",
    "--innodb-buffer-pool-size=512M",
    "--innodb-log-file-size=512M",
)
"""Durable: an acknowledged sample survives a power cut."""


def main(arguments: list[str]) -> int:
    """Run; return the exit status of the load test, 2 if the stack does not start."""
    if arguments == ["--write-questions"]:
        QUESTIONS.write_bytes(document())
        return 0
    try:
        return run(arguments)
    except (MariadbError, TimeoutError, ProcessLookupError) as error:
        print(f"make loadtest: {error}", file=sys.stderr)
        return 2


def document() -> bytes:
    """Return the questions by name, as the file holds them."""
    asked = {name.lower(): getattr(questions, name) for name in ASKED}
    return msgspec.json.format(msgspec.json.encode(asked), indent=2) + b"\n"


def run(arguments: list[str]) -> int:
    """Start the stack, run the load test on it, and end all of it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latido-loadtest-stack-")))
        print("loadtest: starting a private MariaDB and both APIs", flush=True)
        database = Mariadb(folder / "mariadb", options=OPTIONS)
        stack.callback(database.stop)
        database.start()
        environ = {"LATIDO_DB_DSN": database.create_database("latido"), "LATIDO_LOG_LEVEL": "warning"}
        latido = str(Path(sys.executable).parent / "latido")
        programs = {**os.environ, **environ}
        if subprocess.run([latido, "db", "upgrade"], env=programs, check=False).returncode:
            return 2
        apis = {}
        for api in ("raw", "orm"):
            apis[api] = Program(("ingest", api), (), environ)
            stack.callback(apis[api].close)
            stack.callback(apis[api].stop)
            apis[api].start()
        flags = [f"--{name}.url={api.url}" for name, api in apis.items()]
        flags += [f"--program=mariadb={database.pid}", f"--output={OUTPUT}", *arguments]
        with subprocess.Popen([latido, "loadtest", "run", *flags], env=programs) as process:
            # Ctrl-C reaches it too, SIGTERM only us: it says how far it came, and then the stack ends.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda *_: process.terminate())
            return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
