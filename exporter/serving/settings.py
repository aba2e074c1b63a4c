"""What `latido exporter` takes about being reached; the flags are those of Prometheus's own exporters."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from latido.settings import Address, address, boolean, integer, path, setting


@dataclass(frozen=True)
class ServingSettings:
    """Where the exporter listens, whom it serves, and how many at once."""

    listen: tuple[Address, ...] = setting(
        "web.listen-address",
        address,
        "127.0.0.1:10110",
        "where /metrics is served; give it once for each address",
        metavar="HOST:PORT",
        repeated=True,
    )
    systemd_socket: bool = setting(
        "web.systemd-socket", boolean, "false", "serve on the sockets that systemd hands over, not on addresses"
    )
    config_file: Path | None = setting(
        "web.config.file",
        path,
        None,
        "TLS, client certificates and passwords, as a file of Prometheus's exporter-toolkit; re-read on change",
        metavar="FILE",
    )
    max_requests: int = setting(
        "web.max-requests",
        integer(1, 10_000),
        "40",
        "scrapes that run or wait at the same time; more are answered 503",
        metavar="N",
    )
    insecure: bool = setting("insecure", boolean, "false", "serve beyond loopback without authentication")
