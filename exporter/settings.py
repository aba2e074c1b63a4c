"""What `latido exporter` takes: where it listens, what it collects, whom it pushes to."""

from __future__ import annotations

import math
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.collectors.settings import CollectorSettings
from exporter.rules.settings import RuleSettings
from exporter.serving.settings import ServingSettings
from exporter.sources.choose import AUTO, SOURCES, source_name
from exporter.tools import ToolSettings
from ingest.contract import limits
from ingest.contract.wire import HOST_PATTERN
from latido.settings import (
    LogSettings,
    boolean,
    choice,
    duration,
    group,
    http_url,
    path,
    positive_duration,
    setting,
    size,
)

_HOST: Final = re.compile(HOST_PATTERN)


def host_name(value: str) -> str:
    """Return a host name as the contract takes it."""
    if not _HOST.match(value) or len(value) > limits.MAX_HOST_LENGTH:
        raise ValueError(f"expected letters, digits, dots, dashes and underscores, got {value!r}")
    return value


def rate(value: str) -> float:
    """Return a number a second, more than 0."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise ValueError(f"expected a number more than 0, got {value!r}")
    return number


def this_host() -> str:
    """Return the machine's own name, bent to the contract where it holds other characters."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[: limits.MAX_HOST_LENGTH]
    return plain or "localhost"


@dataclass(frozen=True)
class TlsSettings:
    """Whom an https URL of an API is believed, and what it is shown."""

    ca_file: Path | None = setting(
        "push.ca-file", path, None, "authorities to trust for https, PEM; default: the system's", metavar="FILE"
    )
    cert_file: Path | None = setting(
        "push.cert-file", path, None, "certificate chain to show to the APIs, PEM", metavar="FILE"
    )
    key_file: Path | None = setting(
        "push.key-file", path, None, "key of that certificate, PEM without password", metavar="FILE"
    )


@dataclass(frozen=True)
class PushSettings:
    """Where samples go, how often, and what is kept until they have arrived."""

    urls: tuple[str, ...] = setting(
        "push.url",
        http_url,
        None,
        "ingest API to push every sample to; give it once for each; none: no push",
        metavar="URL",
        repeated=True,
    )
    mode: str = setting(
        "push.mode",
        choice("mirror", "failover", "split"),
        "mirror",
        "every sample to every API, to the first that answers, or alternating",
        metavar="MODE",
    )
    backlog_rate: float = setting(
        "push.backlog-rate",
        rate,
        "20",
        "samples a second at which what an outage left behind drains beside live samples",
        metavar="NUMBER",
    )
    interval: float = setting("push.interval", positive_duration, "5s", "time between two samples", metavar="TIME")
    keyframe_interval: float = setting(
        "push.keyframe-interval",
        positive_duration,
        "5m",
        "time between two samples that carry every process, not only those that changed",
        metavar="TIME",
    )
    timeout: float = setting(
        "push.timeout", positive_duration, "15s", "how long an API may take to answer", metavar="TIME"
    )
    token_file: Path | None = setting(
        "push.token-file", path, None, "file that holds the bearer token alone; re-read when used", metavar="FILE"
    )
    tls: TlsSettings = group(TlsSettings)
    host: str | None = setting(
        "push.host", host_name, None, "name to store samples under; default: this machine's", metavar="NAME"
    )
    spool_path: Path = setting(
        "spool.path", path, "latido-spool.sqlite", "file in which samples wait for the APIs", metavar="FILE"
    )
    spool_max_bytes: int = setting(
        "spool.max-bytes", size, "1GiB", "size of waiting samples beyond which the oldest go", metavar="SIZE"
    )
    spool_max_age: float = setting(
        "spool.max-age", duration, "7d", "age beyond which waiting samples go", metavar="TIME"
    )


@dataclass(frozen=True)
class ExporterSettings:
    """Everything that `latido exporter` takes."""

    serving: ServingSettings = group(ServingSettings)
    source: str = setting(
        "source",
        source_name,
        AUTO,
        f"how the kernel is read: {', '.join(SOURCES)}, or {AUTO}: the first of them that works",
        metavar="NAME",
    )
    enable_lifecycle: bool = setting(
        "web.enable-lifecycle", boolean, "false", "read group rules again on POST /-/reload, as on SIGHUP"
    )
    collectors: CollectorSettings = group(CollectorSettings)
    rules: RuleSettings = group(RuleSettings)
    tools: ToolSettings = group(ToolSettings)
    push: PushSettings = group(PushSettings)
    log: LogSettings = group(LogSettings)
