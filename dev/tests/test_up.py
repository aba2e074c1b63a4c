"""`make up` as a person meets it: a taken port, a second run, and the end of everything on Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import psutil
import pytest
import yaml

from dev import prometheus
from dev.ports import free_port
from dev.waiting import wait_for


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the stack keeps to a folder and ports of its own."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LATIDO_")}
    ports = {variable: str(free_port()) for variable, _ in prometheus.PORTS.values()}
    binaries = f"{Path(sys.executable).parent}:{plain['PATH']}"
    return {**plain, **ports, "LATIDO_RUN": str(tmp_path / "run"), "PATH": binaries}


@pytest.fixture
def stack(environ: dict[str, str], tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the stack; its output goes to a file."""
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "dev.up"], env=environ, stdout=file, stderr=file)
        try:
            yield process, output
        finally:
            process.terminate()
            process.wait(60)


def up(environ: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "dev.up", *flags]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_a_taken_port_is_named_with_what_moves_it(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(environ["ORM_PORT"]))):
        done = up(environ)
    assert done.returncode == 1
    assert f"port {environ['ORM_PORT']}, where ingest orm would listen, is taken" in done.stderr
    assert "make up ORM_PORT=PORT" in done.stderr


def test_status_without_a_stack_says_so(environ: dict[str, str]) -> None:
    done = up(environ, "--status")
    assert (1, "make up: no stack runs here; `make up` starts one\n") == (done.returncode, done.stderr)


def test_no_command_of_latido_shows_them_all(environ: dict[str, str]) -> None:
    done = up(environ, "--latido")
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("usage: latido COMMAND")


def test_it_needs_no_library_that_it_does_not_set_up(repository: Path) -> None:
    """`make up` installs less than what tests run in, so a missing library would show on a new machine alone."""
    code = "import sys; had = {*sys.modules}; import dev.up, dev.prometheus; print(*{*sys.modules} - had)"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True, timeout=60).stdout
    owners = packages_distributions()
    needed = {re.sub(r"[-_.]+", "-", owner).lower() for module in modules.split() for owner in owners.get(module, ())}
    texts = [(repository / folder / "requirements.txt").read_text() for folder in ("packaging/container", "dev")]
    pinned = {line.partition("==")[0] for text in texts for line in text.splitlines() if "==" in line}
    assert "pymysql" in needed
    assert set() == needed - pinned - {"latido"}


def test_it_shows_live_data_refuses_a_twin_and_ends_everything(
    stack: tuple[subprocess.Popen[bytes], Path], environ: dict[str, str]
) -> None:
    process, output = stack

    def shown() -> str:
        assert process.poll() is None, output.read_text()
        return output.read_text()

    wait_for(lambda: "Latido runs" in shown(), "the stack shows where to look", 90)
    assert f"http://127.0.0.1:{environ['BRIDGE_PORT']}/" in shown()

    # what it tells a person to open can be opened
    shown_urls = re.findall(r"^  .+ (http://\S+)$", shown(), flags=re.MULTILINE)
    assert len(shown_urls) == 3
    for url in shown_urls:
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.status == 200, url

    twin = up(environ)
    assert twin.returncode == 1
    assert f"it runs already (process {process.pid})" in twin.stderr

    status = up(environ, "--status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert 5 == status.stdout.count(" ready\n")

    history = up(environ, "--latido", "history", "--window", "1m", "--limit", "5")
    assert history.returncode == 0, history.stdout + history.stderr
    assert "COMMAND" in history.stdout

    # whoever is not the owner cannot enter the database, nor read how
    run = Path(environ["LATIDO_RUN"])
    for secret in ("mariadb-password", "stack.json", "mariadb/init.sql", "spool.sqlite"):
        assert 0 == (run / secret).stat().st_mode & 0o077, secret
    assert json.loads((run / "stack.json").read_text())["LATIDO_DB_DSN"].startswith("mysql://root:")

    children = psutil.Process(process.pid).children(recursive=True)
    names = {child.name() for child in children}
    assert {"mariadbd", "prometheus", "latido", "honcho"} <= names
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [] == alive


def test_targets_move_with_the_ports() -> None:
    text = prometheus.configuration(prometheus.CONFIG.read_text(), {"ORM_PORT": "20112"})
    targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in yaml.safe_load(text)["scrape_configs"]}
    expected = {
        "latido-exporter": ["127.0.0.1:10110"],
        "latido-ingest-raw": ["127.0.0.1:10111"],
        "latido-ingest-orm": ["127.0.0.1:20112"],
        "latido-bridge": ["127.0.0.1:10113"],
    }
    assert expected == targets


def test_promtool_finds_the_configuration_clean(promtool: Path) -> None:
    done = subprocess.run([promtool, "check", "config", prometheus.CONFIG], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
