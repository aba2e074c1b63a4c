"""Grafana Live: the newest of each host and feed, pushed to a Grafana so that its panels move without polling.

`POST /api/live/push/:streamId` takes InfluxDB line protocol and a bearer token, and publishes each measurement to the
channel `stream/STREAM/MEASUREMENT` (Grafana's documentation, "Set up Grafana Live"; the line protocol is InfluxDB's,
"Line protocol reference"). Measurements are the feeds, the tag is the host. Not every process goes there: their counts
do. Fields are floats without exception: Grafana sends a new schema to each browser when a field's type changes.

Grafana keeps what it is sent only as long as somebody looks, so nothing is queued here but the newest of each host
and feed: what comes while Grafana is slow or away replaces what waits, and costs the live feed nothing.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from bridge_ws.protocol import AnySample, Key
from ingest.contract.wire import CpuSample, Feed, ProcesosSample, RamSample
from latido import logs, settings
from latido.settings import SettingsError, setting

if TYPE_CHECKING:
    import aiohttp

log = logs.get(__name__)

MAX_POINTS: Final = 30_000
"""Points that wait at most, and CPU samples that are kept to compare with: 10,000 hosts."""
MAX_BODY_BYTES: Final = 256 << 10
"""Of one request. Grafana names no limit for it; proxies before it often have one of 1 MiB."""
REQUEST_SECONDS: Final = 10.0
FIRST_DELAY: Final = 1.0
LONGEST_DELAY: Final = 60.0
TOKEN_FLAG: Final = "--grafana.token-file"  # noqa: S105 - the name of a flag

_STREAM: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MODES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_COUNTS: Final = (
    "total", "threads", "running", "sleeping", "disk_sleep", "stopped", "traced", "zombie", "dead", "idle", "parked",
    "other",
)  # fmt: skip


def stream_name(value: str) -> str:
    """Return the name of a stream: a part of a Live channel's name. A parser of settings."""
    if not _STREAM.fullmatch(value):
        raise ValueError(f"expected 1 to 64 letters, digits, '_' or '-', got {value!r}")
    return value


@dataclass(frozen=True)
class GrafanaSettings:
    """Where the feeds are pushed to, if anywhere."""

    url: str | None = setting(
        "grafana.url", settings.http_url, None, "push the feeds to this Grafana's Live channels", metavar="URL"
    )
    token_file: Path | None = setting(
        "grafana.token-file", settings.path, None, "file that holds a service account's token alone", metavar="FILE"
    )
    stream: str = setting(
        "grafana.stream", stream_name, "latido", "channels are stream/NAME/ram, …/cpu and …/procesos", metavar="NAME"
    )
    interval: float = setting(
        "grafana.interval", settings.positive_duration, "1s", "push at most so often", metavar="DURATION"
    )


# --- the line protocol: pure ---


def line(measurement: str, tags: Iterable[tuple[str, str]], fields: Iterable[tuple[str, float]], at_ms: int) -> str:
    """Return a point as a line of the protocol, without its end; its time in nanoseconds. There is a field."""
    names = "".join(f",{escape(name)}={escape(value)}" for name, value in tags if value)
    values = ",".join(f"{escape(name)}={value!r}" for name, value in fields)
    return f"{_ESCAPED_NAME.sub(_backslash, measurement)}{names} {values} {at_ms * 1_000_000}"


_ESCAPED: Final = re.compile(r"[,= ]")
_ESCAPED_NAME: Final = re.compile(r"[, ]")
_LINE_ENDS: Final = re.compile(r"[\r\n]")


def escape(text: str) -> str:
    """Return a tag's key or value, or a field's key, with what separates them escaped. A line's end has no escape."""
    # A backslash at the end would escape the separator after it.
    safe = _LINE_ENDS.sub(" ", text)
    safe = safe[:-1] + "/" if safe.endswith("\\") else safe
    return _ESCAPED.sub(_backslash, safe)


def _backslash(match: re.Match[str]) -> str:
    return "\\" + match[0]


def fields(sample: AnySample, before: CpuSample | None) -> list[tuple[str, float]]:
    """Return what is published of a sample; nothing of the first CPU sample, whose shares nobody can know."""
    if isinstance(sample, RamSample):
        return list(_ram(sample))
    if isinstance(sample, ProcesosSample):
        return [(name, float(getattr(sample, name))) for name in _COUNTS]
    return list(_cpu(sample, before)) if before is not None else []


def _ram(sample: RamSample) -> Iterator[tuple[str, float]]:
    for name in RamSample.__struct_fields__:
        value = getattr(sample, name)
        if name.endswith("_bytes") and value is not None:
            yield name, float(value)
    if sample.total_bytes:
        yield "used_percent", 100 * (1 - sample.available_bytes / sample.total_bytes)


def _cpu(sample: CpuSample, before: CpuSample) -> Iterator[tuple[str, float]]:
    spent = {mode: max(0, getattr(sample, f"{mode}_ns") - getattr(before, f"{mode}_ns")) for mode in _MODES}
    whole = sum(spent.values())
    if whole:
        for mode, time in spent.items():
            yield f"{mode}_percent", 100 * time / whole
        yield "busy_percent", 100 * (whole - spent["idle"] - spent["iowait"]) / whole
    for name in ("load1", "load5", "load15"):
        yield name, getattr(sample, f"{name}_milli") / 1000


# --- what waits, and who sends it ---


class GrafanaMetrics:
    """The publisher's own metrics, on the bridge's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.points = Counter("latido_bridge_grafana_points", "Points that Grafana took.", ["feed"], registry=registry)
        self.replaced = Counter(
            "latido_bridge_grafana_replaced_points",
            "Points not sent: a newer one of the host and feed came first, or Grafana refused them.",
            ["feed"],
            registry=registry,
        )
        self.waiting = Gauge("latido_bridge_grafana_waiting_points", "Points that wait to be sent.", registry=registry)
        self.requests = Counter(
            "latido_bridge_grafana_requests",
            "Pushes to Grafana by its answer's HTTP status; 0 is no answer.",
            ["status"],
            registry=registry,
        )
        self.up = Gauge("latido_bridge_grafana_up", "Whether Grafana took the last push.", registry=registry)
        for feed in Feed:
            self.points.labels(feed)
            self.replaced.labels(feed)
        for status in ("0", "200"):
            self.requests.labels(status)


class GrafanaLive:
    """Takes samples from the feed without ever waiting, and pushes the newest of each host and feed."""

    def __init__(self, url: str, given: GrafanaSettings, metrics: GrafanaMetrics) -> None:
        self._push_url = f"{url}/api/live/push/{given.stream}"
        self._given, self._metrics = given, metrics
        self._waiting: OrderedDict[tuple[Feed, str], str] = OrderedDict()
        self._before: OrderedDict[Key, CpuSample] = OrderedDict()
        self._offered = asyncio.Event()
        self._trouble: str | None = None
        if given.token_file is not None:
            settings.read_secret(given.token_file, TOKEN_FLAG)  # a mistake is told at the start

    @classmethod
    def build(cls, given: GrafanaSettings, registry: CollectorRegistry) -> GrafanaLive | None:
        """Return the publisher that the settings ask for, if any. Raises SettingsError."""
        if given.url is not None:
            return cls(given.url, given, GrafanaMetrics(registry))
        if given.token_file is not None:
            raise SettingsError(f"{TOKEN_FLAG}: there is nowhere to push to; give --grafana.url too")
        return None

    def offer(self, key: Key, sample: AnySample) -> None:
        """Take the newest sample of a key: it replaces what waits of its host and feed."""
        before = None
        if isinstance(sample, CpuSample):
            before = self._before.pop(key, None)
            self._before[key] = sample
            if len(self._before) > MAX_POINTS:
                self._before.popitem(last=False)
        values = fields(sample, before)
        if not values:
            return
        place = (key.feed, key.host)
        if self._waiting.pop(place, None) is not None:
            self._metrics.replaced.labels(key.feed).inc()
        self._waiting[place] = line(key.feed, [("host", key.host)], values, sample.sampled_at)
        if len(self._waiting) > MAX_POINTS:
            (feed, _), _ = self._waiting.popitem(last=False)
            self._metrics.replaced.labels(feed).inc()
        self._metrics.waiting.set(len(self._waiting))
        self._offered.set()

    async def run(self) -> None:
        """Push until cancelled, one request at a time."""
        import aiohttp  # noqa: PLC0415 - only a bridge that pushes pays for it

        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        failures = 0
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._offered.wait()
                delay = self._given.interval
                try:
                    taken = await self._push(session)
                except Exception:  # a defect here must not be silence there
                    log.exception("a push to Grafana failed", url=self._push_url)
                    taken = False
                if taken:
                    failures = 0
                else:
                    failures += 1
                    delay = max(delay, random.uniform(0, min(FIRST_DELAY * 2.0 ** min(failures, 16), LONGEST_DELAY)))  # noqa: S311
                await asyncio.sleep(delay)

    async def _push(self, session: aiohttp.ClientSession) -> bool:
        """Send all that waits, in as many requests as it needs; return whether Grafana took it."""
        while batch := self._batch():
            reason, status = await self._post(session, "\n".join(batch.values()) + "\n")
            self._metrics.requests.labels(str(status)).inc()
            if reason is not None:
                self._failed(batch, reason, keep=status not in _REFUSED_POINTS)
                return False
            for feed, _ in batch:
                self._metrics.points.labels(feed).inc()
        self._offered.clear()
        self._metrics.up.set(1)
        if self._trouble is not None:
            log.info("Grafana takes the feeds again", url=self._push_url)
            self._trouble = None
        return True

    def _batch(self) -> dict[tuple[Feed, str], str]:
        batch: dict[tuple[Feed, str], str] = {}
        size = 0
        while self._waiting:
            place, text = self._waiting.popitem(last=False)
            size += len(text) + 1
            if batch and size > MAX_BODY_BYTES:
                self._waiting[place] = text
                self._waiting.move_to_end(place, last=False)
                break
            batch[place] = text
        self._metrics.waiting.set(len(self._waiting))
        return batch

    async def _post(self, session: aiohttp.ClientSession, body: str) -> tuple[str | None, int]:
        """Return why Grafana did not take it (None: it did), and the status, 0 where there was no answer."""
        import aiohttp  # noqa: PLC0415 - as above

        headers = {"Content-Type": "text/plain; charset=utf-8"}
        try:
            if self._given.token_file is not None:  # read anew: a token that was changed is taken up
                headers["Authorization"] = f"Bearer {settings.read_secret(self._given.token_file, TOKEN_FLAG)}"
            # A redirect could carry the token elsewhere.
            async with session.post(
                self._push_url, data=body.encode(), headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except SettingsError as error:
            return str(error), 0
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return str(error) or type(error).__name__, 0
        if status in {200, 204}:
            return None, status
        return _REASONS.get(status, f"it answers {status}"), status

    def _failed(self, batch: dict[tuple[Feed, str], str], reason: str, *, keep: bool) -> None:
        for place, text in batch.items():
            if keep and place not in self._waiting:
                self._waiting[place] = text
            else:
                self._metrics.replaced.labels(place[0]).inc()
        self._metrics.waiting.set(len(self._waiting))
        if not self._waiting:
            self._offered.clear()
        self._metrics.up.set(0)
        if reason != self._trouble:  # once: it may be away for days
            log.warning("Grafana does not take the feeds", url=self._push_url, reason=reason)
            self._trouble = reason


_REFUSED_POINTS: Final = frozenset({400, 413, 500})
"""Bad Request, Content Too Large, and what Grafana answers where it cannot parse a line: sending them again is vain."""
_REASONS: Final = {
    401: f"it does not take the token (401); see {TOKEN_FLAG}",
    403: "the token's service account may not push (403); give it the role Admin",
    404: "there is no Live push endpoint (404): not a Grafana of version 8 or newer, or --grafana.url lacks its path",
}
