"""`latido top` on a real terminal, with a real exporter, API, database and bridge behind it, and a hostile name."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.program import Program, Start
from dev.waiting import wait_for
from tests.pty_screen import Terminal

LATIDO = str(Path(sys.executable).parent / "latido")
HOSTILE = b"\x1b[2J\x1b]0;x\x07\xff"
ESCAPED = r"\x1b[2J\x1b]0;x\x07"
TOKEN = "a-token-of-the-test-0123456789abcdef"  # noqa: S105 - it is of this test alone

Stack = tuple[Program, Program]


@pytest.fixture
def stack(database: str, start: Start, tmp_path: Path) -> Stack:
    """Return an exporter of web-1 and the bridge that shows it."""
    api = start("ingest", "raw", dsn=database)
    bridge = start("bridge", dsn=database)
    flags = (f"--push.url={api.url}", "--push.interval=500ms", f"--spool.path={tmp_path}/spool.sqlite")
    return start("exporter", flags=(*flags, "--push.host=web-1")), bridge


@pytest.fixture
def hostile() -> Iterator[int]:
    """Run a process whose name clears a screen and sets a title; return its pid."""
    script = f"open('/proc/self/comm', 'wb').write({HOSTILE!r}); print('named', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"named\n" == process.stdout.readline()
        yield process.pid
        process.kill()


def websocket(bridge: Program) -> str:
    return f"--url=ws://127.0.0.1:{bridge.port}/ws"


def test_a_session_from_the_fleet_to_a_hostile_name_and_through_a_restart_of_the_bridge(
    stack: Stack, hostile: int
) -> None:
    exporter, bridge = stack
    terminal = Terminal([LATIDO, "top", websocket(bridge)])
    try:
        terminal.wait(lambda shown: "web-1" in shown and "live" in shown, "the fleet")
        assert terminal.alternate
        assert terminal.hidden
        terminal.type("\r")
        terminal.wait(lambda shown: "COMMAND" in shown and "processes" in shown, "the host's processes")
        terminal.type("/" + ESCAPED[4:7])  # what is typed is looked for in the name itself: [2J
        terminal.wait(lambda shown: ESCAPED in shown and str(hostile) in shown, "the hostile name, escaped")
        terminal.type("\x1b")
        terminal.wait(lambda shown: "/ filter" in shown, "the filter is over")
        terminal.type("N")
        shown = terminal.wait(lambda shown: "PID↑" in shown, "processes by pid")
        table = shown.partition("COMMAND")[2].splitlines()[1:-1]
        pids = [int(line.split()[0]) for line in table if line.strip()]
        assert len(pids) > 1
        assert sorted(pids) == pids
        terminal.resize(60, 12)
        terminal.wait(lambda shown: len(shown.splitlines()) == 12 and "UNIT" not in shown, "a narrow page")

        assert 0 == bridge.stop()
        terminal.wait(lambda shown: "no connection" in shown, "that the bridge is away")
        bridge.start()
        terminal.wait(lambda shown: "live" in shown.splitlines()[-1], "the feed again")
        terminal.type("\x1b")
        terminal.wait(lambda shown: "NEWEST" in shown, "the fleet again")
        terminal.type("q")
        assert 0 == terminal.end()
        assert terminal.restored()
        assert b"\x1b]" not in terminal.sent
    finally:
        terminal.close()
    assert exporter.runs()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals) -> None:
    terminal = Terminal([LATIDO, "top", "--url=ws://127.0.0.1:1/ws"])
    try:
        terminal.wait(lambda shown: "no connection: connection refused" in shown, "that nothing answers")
        terminal.signal(number)
        assert 0 == terminal.end()
        assert terminal.restored()
    finally:
        terminal.close()


def test_tables_are_plain_where_no_terminal_is_and_end_when_told(stack: Stack, hostile: int) -> None:
    _, bridge = stack
    command = [LATIDO, "top", websocket(bridge), "--host=web-1", "--limit=0", "--timeout=60s"]
    done = subprocess.run([*command, "-n2"], capture_output=True, text=True, timeout=120, check=True)
    tables = done.stdout.split("\n\n")
    assert 2 == len(tables)
    for table in tables:
        assert table.startswith("web-1  ")
        assert f"{os.getpid()} " in table
        (line,) = [line for line in table.splitlines() if line.split()[0] == str(hostile)]
        assert ESCAPED in line
        assert "\x1b" not in table

    fleet = subprocess.run([LATIDO, "top", websocket(bridge), "--once"], capture_output=True, text=True, check=True)
    assert ["latido", "HOST", "web-1"] == [line.split()[0] for line in fleet.stdout.splitlines()]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as endless:
        assert endless.stdout is not None
        wait_for(endless.stdout.readline, "a line of a table")
        endless.terminate()
        endless.stdout.read()
        assert 128 + signal.SIGTERM == endless.wait(30)


def test_a_bridge_that_wants_a_token_gets_it_from_a_file(database: str, start: Start, tmp_path: Path) -> None:
    tokens, token = tmp_path / "tokens", tmp_path / "token"
    tokens.write_text(f"{TOKEN}\n")
    token.write_text(f"{TOKEN}\n")
    (tmp_path / "other").write_text("not-the-token-0123456789abcdef01234567\n")
    for path in (tokens, token, tmp_path / "other"):
        path.chmod(0o600)
    bridge = start("bridge", dsn=database, flags=(f"--auth.token-file={tokens}",))

    def once(*flags: str) -> tuple[int, str]:
        command = [LATIDO, "top", websocket(bridge), "--once", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    url = websocket(bridge).removeprefix("--url=")
    assert (1, f"latido top: {url}: the bridge wants a token; give it with --token-file\n") == once()
    wrong = f"latido top: {url}: the bridge does not take this token; see --token-file\n"
    assert (1, wrong) == once(f"--token-file={tmp_path / 'other'}")
    # taken: but nothing was ever stored
    assert (1, "latido top: no sample\n") == once(f"--token-file={token}", "--timeout=3s")


def test_nothing_answers_is_told_in_one_line() -> None:
    command = [LATIDO, "top", "--url=http://127.0.0.1:1", "--once", "--timeout=1s"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == done.returncode
    assert done.stderr.startswith("latido top: no connection: connection refused; next try in ")
    assert 1 == len(done.stderr.splitlines())
