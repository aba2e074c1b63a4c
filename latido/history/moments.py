"""The moment that a person means: ISO 8601 forms, a time of day, `now`, `5m ago`. Pure: the clock is an argument.

A local time may not exist, or exist twice, when clocks change (PEP 495): neither is guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from latido import settings

FORMS: Final = "'2026-11-23 03:12', '03:12', 'yesterday 03:12', '2026-11-23T03:12:30Z', 'now' or '5m ago'"

_CLOCK: Final = re.compile(r"(?:(today|yesterday) +)?(\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d{1,6})?))?")
_AGO: Final = re.compile(r"(\S+) +ago")


def timezone(name: str) -> tzinfo | None:
    """Return a zone by its IANA name; None for `local`, this machine's. Raises ValueError."""
    if name.lower() == "local":
        return None
    if name.upper() in {"UTC", "Z"}:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            f"expected local, UTC or a name of the time zone database such as Europe/Madrid, got {name!r}"
        ) from None


def localize(moment: datetime, zone: tzinfo | None) -> datetime:
    """Return an aware moment in a zone, this machine's for None."""
    return moment.astimezone(zone)


def parse(text: str, now: datetime, zone: tzinfo | None) -> datetime:
    """Return the moment in UTC, to the millisecond. `now` is aware. Raises ValueError saying what was expected."""
    stripped = text.strip()
    moment = _parse(stripped, now, zone).astimezone(UTC)
    if moment > now:
        raise ValueError(f"{text!r} is in the future: it is {localize(now, zone):%Y-%m-%d %H:%M:%S %z} now")
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _parse(text: str, now: datetime, zone: tzinfo | None) -> datetime:
    if text.lower() == "now":
        return now
    ago = _AGO.fullmatch(text)
    if ago:
        return _back(now, settings.duration(ago[1]))
    clock = _CLOCK.fullmatch(text.lower())
    try:
        if clock:
            return _clock(clock, now, zone)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        if isinstance(error, _ClockChangeError):
            raise
        raise ValueError(f"expected a moment such as {FORMS}, got {text!r}") from None
    return moment if moment.tzinfo else _resolve(moment, zone)


def _back(now: datetime, seconds: float) -> datetime:
    try:
        return now - timedelta(seconds=seconds)
    except OverflowError:
        raise ValueError("that is before the first year that a calendar has") from None


def _clock(match: re.Match[str], now: datetime, zone: tzinfo | None) -> datetime:
    second = float(match[4] or 0)
    today = localize(now, zone).replace(tzinfo=None, fold=0)
    named = today.replace(hour=int(match[2]), minute=int(match[3]), second=int(second), microsecond=0)
    named += timedelta(microseconds=round(second % 1 * 1_000_000))
    # Alone, a time of day is the last one that has been.
    if match[1] == "yesterday" or (match[1] is None and named > today):
        named -= timedelta(days=1)
    return _resolve(named, zone)


class _ClockChangeError(ValueError):
    pass


def _resolve(naive: datetime, zone: tzinfo | None) -> datetime:
    attach: Callable[[datetime], datetime] = (
        (lambda local: local.replace(tzinfo=zone)) if zone is not None else (lambda local: local.astimezone())
    )
    meant = [
        found
        for fold in (0, 1)
        if (found := attach(naive.replace(fold=fold)).astimezone(UTC)).astimezone(zone).replace(tzinfo=None, fold=0)
        == naive
    ]
    if not meant:
        raise _ClockChangeError(
            f"{naive:%Y-%m-%d %H:%M:%S} did not exist: clocks went forward over it; say it in UTC, with a Z at its end"
        )
    first, last = meant[0], meant[-1]
    if first != last:
        forms = " or ".join(repr(localize(found, zone).isoformat(" ", "seconds")) for found in (first, last))
        raise _ClockChangeError(f"{naive:%Y-%m-%d %H:%M:%S} came twice, since clocks went back; say which: {forms}")
    return first
