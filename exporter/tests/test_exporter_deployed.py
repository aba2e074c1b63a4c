"""The exporter as it is deployed: scraped by a real Prometheus, started as systemd starts it, and its unit files."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
import yaml

from dev.ports import free_port, taken
from dev.program import Program
from dev.prometheus import BINARIES
from dev.waiting import wait_for
from exporter.tests.certificates import Authority

LATIDO = Path(sys.executable).parent / "latido"
CAPABILITIES = "CAP_SYS_PTRACE CAP_DAC_READ_SEARCH CAP_BPF CAP_PERFMON"


@pytest.fixture
def running() -> Iterator[list[Program]]:
    """Programs that end with the test."""
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.stop()
        program.close()


def exporter(running: list[Program], *flags: str) -> Program:
    program = Program(("exporter",), flags).start(ready="")
    running.append(program)
    return program


# --- Prometheus ---


def test_prometheus_scrapes_plain_with_a_password_and_over_mutual_tls(tmp_path: Path, running: list[Program]) -> None:
    """One Prometheus, with who is let in beside who is not: the refusals are of the same exporters that serve."""
    authority = Authority()
    server = authority.server().write(tmp_path, "server")
    good = authority.client("prometheus.example").write(tmp_path, "good")
    bad = authority.client("grafana.example").write(tmp_path, "bad")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    tls = {"cert_file": str(server[0]), "key_file": str(server[1])}
    users = {"prometheus": bcrypt.hashpw(b"secret", bcrypt.gensalt(10)).decode()}
    files = {
        "password": {"basic_auth_users": users},
        "mtls": {
            "tls_server_config": {
                **tls,
                "client_auth_type": "RequireAndVerifyClientCert",
                "client_ca_file": "ca.crt",
                "client_allowed_sans": ["prometheus.example"],
            }
        },
    }
    ports = {"plain": exporter(running).port}
    for name, document in files.items():
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(document))
        ports[name] = exporter(running, f"--web.config.file={path}").port

    def job(name: str, target: str, **more: object) -> dict[str, object]:
        return {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{ports[target]}"]}], **more}

    def with_tls(pair: tuple[Path, Path] | None) -> dict[str, object]:
        own = {"cert_file": str(pair[0]), "key_file": str(pair[1])} if pair else {}
        return {"scheme": "https", "tls_config": {"ca_file": str(tmp_path / "ca.crt"), **own}}

    def password(text: str) -> dict[str, object]:
        return {"basic_auth": {"username": "prometheus", "password": text}}

    jobs = [
        job("plain", "plain"),
        job("password", "password", **password("secret")),
        job("mtls", "mtls", **with_tls(good)),
        job("wrong password", "password", **password("wrong")),
        job("no password", "password"),
        job("no certificate", "mtls", **with_tls(None)),
        job("name not allowed", "mtls", **with_tls(bad)),
        job("no tls", "mtls"),
    ]
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    port = free_port()
    with (tmp_path / "prometheus.log").open("wb") as log:
        prometheus = subprocess.Popen(
            [
                BINARIES / "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                f"--web.console.templates={tmp_path}",
                f"--web.console.libraries={tmp_path}",
            ],
            stdout=log,
            stderr=log,
        )

    def health() -> dict[str, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/targets?state=active", timeout=10) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
        except OSError:
            return {}  # not up yet
        return {target["labels"]["job"]: target["health"] for target in targets}

    served = {"plain", "password", "mtls"}
    expected = {str(item["job_name"]): "up" if item["job_name"] in served else "down" for item in jobs}
    try:
        wait_for(lambda: health() == expected, f"targets are {expected}", 60)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; they are {health()}\n{(tmp_path / 'prometheus.log').read_text()}") from None
    finally:
        prometheus.terminate()
        prometheus.wait(30)


# --- as systemd starts it ---


def systemd_starts(listener: socket.socket, environ: dict[str, str], *flags: str) -> subprocess.Popen[bytes]:
    """Start the exporter with descriptor 3 and LISTEN_PID its own, as systemd does (exec keeps the pid)."""
    script = 'exec 3<&"$0"; export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@"'
    return subprocess.Popen(
        ["/bin/bash", "-c", script, str(listener.fileno()), LATIDO, "exporter", "--web.systemd-socket", *flags],
        env={**os.environ, **environ},
        pass_fds=[listener.fileno()],
        stderr=subprocess.PIPE,
    )


def test_exporter_serves_systemds_socket_and_says_when_it_is_ready_and_ends(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(30)
        program = systemd_starts(listener, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        try:
            assert told.recv(100) == b"READY=1"
            with urllib.request.urlopen(f"http://127.0.0.1:{listener.getsockname()[1]}/-/ready") as answer:
                assert answer.read() == b"ready\n"
            program.send_signal(signal.SIGTERM)
            assert told.recv(100) == b"STOPPING=1"
            assert program.wait(15) == 0
        finally:
            program.kill()
            program.communicate()


def test_socket_that_other_machines_reach_wants_authentication_too() -> None:
    with socket.create_server(("0.0.0.0", 0)) as listener:
        program = systemd_starts(listener, {})
        _, errors = program.communicate(timeout=30)
    assert program.returncode == 2
    assert b"--web.systemd-socket: 0.0.0.0:" in errors
    assert b"--web.config.file" in errors


@pytest.mark.parametrize("pid", ["", "1"])
def test_without_a_socket_of_its_own_systemds_flag_is_a_mistake(pid: str) -> None:
    result = subprocess.run(
        [LATIDO, "exporter", "--web.systemd-socket"],
        env={**os.environ, "LISTEN_PID": pid, "LISTEN_FDS": "1"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.count(b"\n") == 1
    assert b"systemd handed over no socket" in result.stderr


def test_several_addresses_of_both_families(running: list[Program]) -> None:
    port = free_port()
    program = exporter(running, f"--web.listen-address=[::1]:{port}")
    for host in (f"127.0.0.1:{program.port}", f"[::1]:{port}"):
        program.wait_ready()
        with urllib.request.urlopen(f"http://{host}/-/healthy") as answer:
            assert answer.read() == b"healthy\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--web.listen-address=[::]:0"], b"--web.listen-address: [::]:0 is reachable from other machines"),
        (["--web.listen-address=127.0.0.1:TAKEN"], b"is taken by another program; choose another with --web.listen"),
        (["--web.config.file=/nonexistent"], b"--web.config.file: /nonexistent cannot be read"),
        (["--insecure", "--web.listen-address=host.invalid:0"], b"host.invalid:0 cannot be used: "),
        (["--insecure", "--web.listen-address=192.0.2.1:0"], b"192.0.2.1:0 cannot be used: Cannot assign"),
        (["--web.listen-address=127.0.0.1:80a"], b"--web.listen-address: expected HOST:PORT"),
        (["--web.max-requests=0"], b"--web.max-requests: expected a whole number from 1"),
    ],
)
def test_mistake_is_one_line_and_exit_2(flags: list[str], expected: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        given = [flag.replace("TAKEN", str(taken.getsockname()[1])) for flag in flags]
        result = subprocess.run([LATIDO, "exporter", *given], capture_output=True, timeout=30, check=False)
    assert result.returncode == 2
    assert expected in result.stderr
    assert result.stderr.count(b"\n") == 1


def test_tls_without_a_caller_to_show_who_they_are_is_not_enough_beyond_loopback(tmp_path: Path) -> None:
    Authority().server().write(tmp_path, "server")
    file = tmp_path / "web.yml"
    file.write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
    result = subprocess.run(
        [LATIDO, "exporter", "--web.listen-address=0.0.0.0:0", f"--web.config.file={file}"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 2
    assert b"reachable from other machines" in result.stderr


# --- the unit files ---


def unit(repository: Path, name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep the case of keys
    parser.read_string((repository / "packaging" / "systemd" / name).read_text())
    return parser


def test_unit_gives_what_reading_processes_needs_and_not_more(repository: Path) -> None:
    service = unit(repository, "latido-exporter.service")["Service"]
    assert service["Type"] == "notify"
    assert service["DynamicUser"] == "yes"
    assert service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == CAPABILITIES
    # What would hide processes, or end capabilities at the border of a namespace.
    assert (service["ProtectProc"], service["ProcSubset"], service["PrivateUsers"]) == ("default", "all", "no")
    assert "PrivatePIDs" not in service
    assert service["NoNewPrivileges"] == service["MemoryDenyWriteExecute"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["Environment"] == "LATIDO_SPOOL_PATH=%S/latido/spool.sqlite"
    assert service["StateDirectory"] == "latido"
    assert unit(repository, "latido-exporter.socket")["Socket"]["ListenStream"] == "127.0.0.1:10110"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_finds_nothing_wrong_with_the_units(repository: Path, tmp_path: Path) -> None:
    for name in ("latido-exporter.service", "latido-exporter.socket"):
        text = (repository / "packaging" / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/latido", str(LATIDO)))
        result = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", tmp_path / name], capture_output=True, timeout=60, check=False
        )
        assert (result.returncode, result.stderr) == (0, b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give capabilities away")
@pytest.mark.parametrize(
    ("given", "known"), [("+sys_ptrace,+dac_read_search", True), ("+dac_read_search", False)], ids=["unit's", "fewer"]
)
def test_unit_s_capabilities_are_enough_to_read_other_users_processes_and_fewer_are_not(
    given: str,
    known: bool,  # noqa: FBT001 - a table's column
) -> None:
    """An unprivileged user with them reads what a process of root read from disk, which /proc tells few people."""
    script = (
        "import sys\n"
        "from contextlib import closing\n"
        "from exporter.sources.procfs import ProcfsSource\n"
        "with closing(ProcfsSource()) as source:\n"
        "    records = source.processes().records\n"
        "print(int(records['read_bytes'][records['pid'] == int(sys.argv[1])][0]) >= 0)\n"
    )
    capabilities = [f"--{name}=-all,{given}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]
    result = subprocess.run(
        [*user, *capabilities, sys.executable, "-c", script, str(os.getpid())],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout == f"{known}\n".encode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give capabilities away")
@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd-socket-activate is not installed")
@pytest.mark.skipif(not Path("/sys/kernel/btf/vmlinux").exists(), reason="this kernel has no BTF")
def test_nobody_with_the_unit_s_capabilities_reads_by_bpf_on_a_socket_of_systemd() -> None:
    """What `systemctl start` of the socket does, as far as it goes without systemd as process 1."""
    port = free_port()
    held = ",".join(name.removeprefix("CAP_").lower() for name in CAPABILITIES.split())
    capabilities = [
        f"--{name}=-all,+{held.replace(',', ',+')}" for name in ("inh-caps", "ambient-caps", "bounding-set")
    ]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", "--pdeathsig=TERM"]
    waiting = ["systemd-socket-activate", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(
        [*user, *capabilities, *waiting, LATIDO, "exporter", "--web.systemd-socket"],
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("LATIDO_")},
    ) as program:
        try:
            wait_for(lambda: taken(port), "systemd-socket-activate listens")
            # The first connection starts it; the request waits in the socket until it answers.
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                scrape = answer.read().decode()
            (status,) = Path(f"/proc/{program.pid}/status").read_text().split("Uid:")[1].splitlines()[:1]
        finally:
            program.terminate()
            _, log = program.communicate(timeout=30)
    assert {"65534"} == set(status.split())
    assert 'latido_source_info{source="bpf"} 1.0\n' in scrape, log.decode()
    assert 'latido_collector_success{collector="processes"} 1.0\n' in scrape
    assert 0 == program.returncode
