"""Debian's Prometheus with the repository's `prometheus.yml`, its targets moved where this stack listens.

`python -m dev.prometheus --port P --folder F` becomes Prometheus (execve), so that signals reach it directly.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from exporter.settings import this_host

ROOT: Final = Path(__file__).parent.parent
BINARIES: Final = ROOT / ".run" / "tools" / "prometheus" / "usr" / "bin"
CONFIG: Final = ROOT / "prometheus" / "prometheus.yml"

PORTS: Final[Mapping[str, tuple[str, int]]] = {
    "exporter": ("EXPORTER_PORT", 10110),
    "ingest raw": ("RAW_PORT", 10111),
    "ingest orm": ("ORM_PORT", 10112),
    "bridge": ("BRIDGE_PORT", 10113),
    "prometheus": ("PROMETHEUS_PORT", 9090),
}
"""Program to the variable that moves its port in the local stack, and the port it has otherwise."""


def port_of(program: str, environ: Mapping[str, str]) -> int:
    """Return where a program of the local stack listens."""
    variable, default = PORTS[program]
    return int(environ.get(variable) or default)


def configuration(text: str, environ: Mapping[str, str]) -> str:
    """Return `prometheus.yml` for this stack: ports as the environment names them, rules by their full path.

    The exporter's target gets the name that the exporter stores samples under, as `host`.
    """
    document = yaml.safe_load(text)
    document["rule_files"] = [str(CONFIG.parent / pattern) for pattern in document["rule_files"]]
    moved = {f"127.0.0.1:{default}": port_of(name, environ) for name, (_, default) in PORTS.items()}
    for job in document["scrape_configs"]:
        for static in job["static_configs"]:
            static["targets"] = [f"127.0.0.1:{moved[target]}" for target in static["targets"]]
            if job["job_name"] == "latido-exporter":
                static["labels"] = {"host": environ.get("LATIDO_PUSH_HOST") or this_host()}
    return str(yaml.safe_dump(document, sort_keys=False))


def command(port: int, folder: Path, environ: Mapping[str, str]) -> list[str]:
    """Write the configuration into `folder` and return the command line of a Prometheus over it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "prometheus.yml"
    config.write_text(configuration(CONFIG.read_text(encoding="utf-8"), environ), encoding="utf-8")
    return [
        str(BINARIES / "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=2d",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
        # Debian's package keeps these where dpkg -x does not put them.
        f"--web.console.templates={folder}",
        f"--web.console.libraries={folder}",
    ]


def main() -> int:
    """Become Prometheus."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    arguments = command(given.port, given.folder, os.environ)
    sys.stdout.flush()
    os.execv(arguments[0], arguments)  # noqa: S606 - our own binary, no shell


if __name__ == "__main__":
    sys.exit(main())
