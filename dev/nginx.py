"""Debian's nginx, unpacked and not installed: before replicas of the bridge, and as the gateway of `compose.yaml`."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from dev.ports import free_port
from dev.waiting import wait_for

ROOT: Final = Path(__file__).parent.parent
BINARY: Final = ROOT / ".run" / "tools" / "nginx" / "usr" / "sbin" / "nginx"
GATEWAY: Final = ROOT / "packaging" / "gateway" / "nginx.conf"
CONFIG: Final = """
daemon off;
{user}
pid {folder}/pid;
error_log stderr warn;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream bridges {{ {servers} }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://bridges;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $http_connection;
            proxy_set_header Host $http_host;
            proxy_next_upstream error timeout http_503;
            proxy_read_timeout 75s;
        }}
    }}
}}
"""


@contextmanager
def before(ports: Sequence[int], folder: Path) -> Iterator[str]:
    """Run nginx before programs on these ports of loopback, taking turns, and yield its URL.

    Raises FileNotFoundError where `dev/setup.sh test` has not unpacked it.
    """
    port = free_port()
    servers = " ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=2s;" for each in ports)
    user = "user root;" if os.geteuid() == 0 else ""
    with _running(CONFIG.format(user=user, folder=folder, servers=servers, port=port), port, folder) as url:
        yield url


@contextmanager
def gateway(ports: Mapping[str, int], weights: Mapping[str, int], folder: Path) -> Iterator[str]:
    """Run nginx by the gateway's own file and yield its URL: only addresses, paths and weights are others.

    `ports` and `weights` name `ingest-raw` and `ingest-orm`. Raises ValueError if the file has not the lines that
    it takes them to have, and FileNotFoundError as `before` does.
    """
    port = free_port()
    changes = [(r"listen 8080;", f"listen 127.0.0.1:{port};"), (r"/tmp/", f"{folder}/")]  # noqa: S108 - the file's own
    for name, own in ports.items():
        changes.append((rf"server {name}:\d+ weight=1 ", f"server 127.0.0.1:{own} weight={weights[name]} "))
    text = GATEWAY.read_text(encoding="utf-8")
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text)
        if count == 0:
            raise ValueError(f"{GATEWAY} has no line like {pattern!r}")
    # As the service's command line has it; who is root here keeps reading the test's folder.
    head = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    with _running(f"{head}\n{text}", port, folder) as url:
        yield url


@contextmanager
def _running(config: str, port: int, folder: Path) -> Iterator[str]:
    if not BINARY.exists():
        raise FileNotFoundError(f"{BINARY} is missing: `dev/setup.sh test` puts it there")
    path = folder / "nginx.conf"
    path.write_text(config, encoding="utf-8")
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen([BINARY, "-e", "stderr", "-p", folder, "-c", path], stdout=log, stderr=log)
        try:
            wait_for(lambda: _listens(port) or process.poll() is not None, "nginx listens")
            if process.poll() is not None:
                raise RuntimeError(f"nginx ended: {(folder / 'nginx.log').read_text(encoding='utf-8')}")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
