"""The pure parts: moments as people say them, owners of cgroups, what fits a terminal, coverage of a window."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latido.history import moments, reader, terminal
from latido.history.model import CpuTick, Tick
from latido.history.owner import Kind, Owner, owner
from latido.history.rebuild import HostCpu, host_cpu

MADRID = ZoneInfo("Europe/Madrid")
NOW = datetime(2026, 11, 23, 14, 30, 15, 250_999, UTC)
ID = "0123456789abcdef" * 4


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type,misc]  # year to microsecond, as datetime takes them


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("now", UTC, utc(2026, 11, 23, 14, 30, 15, 250_000)),
        ("5m ago", UTC, utc(2026, 11, 23, 14, 25, 15, 250_000)),
        ("1h30m ago", MADRID, utc(2026, 11, 23, 13, 0, 15, 250_000)),
        ("2026-11-23 03:12", UTC, utc(2026, 11, 23, 3, 12)),
        ("2026-11-23 03:12", MADRID, utc(2026, 11, 23, 2, 12)),
        ("2026-07-01T03:12:30.5", MADRID, utc(2026, 7, 1, 1, 12, 30, 500_000)),
        ("2026-11-23T03:12:30Z", MADRID, utc(2026, 11, 23, 3, 12, 30)),
        ("2026-11-23 03:12+05:30", UTC, utc(2026, 11, 22, 21, 42)),
        ("2026-11-22", MADRID, utc(2026, 11, 21, 23)),
        ("03:12", MADRID, utc(2026, 11, 23, 2, 12)),
        ("23:00", MADRID, utc(2026, 11, 22, 22)),  # not yet today: the last time that it was
        ("yesterday 23:00:01.25", UTC, utc(2026, 11, 22, 23, 0, 1, 250_000)),
        ("today 09:00", UTC, utc(2026, 11, 23, 9)),
        ("2026-10-25 02:30+01:00", MADRID, utc(2026, 10, 25, 1, 30)),
    ],
)
def test_moments_are_understood(text: str, zone: tzinfo, expected: datetime) -> None:
    assert expected == moments.parse(text, NOW, zone)


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-10-25 02:30", MADRID, "say which: '2026-10-25 02:30:00+02:00' or '2026-10-25 02:30:00+01:00'"),
        ("2026-03-29 02:30", MADRID, "did not exist"),
        ("2026-11-24", UTC, "is in the future: it is 2026-11-23 14:30:15 +0000 now"),
        ("today 23:00", UTC, "is in the future"),
        ("soon", UTC, "expected a moment such as"),
        ("25:00", UTC, "expected a moment such as"),
        ("x ago", UTC, "expected a duration"),
        ("999999d ago", UTC, "before the first year"),
        ("", UTC, "expected a moment such as"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(text: str, zone: tzinfo, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        moments.parse(text, NOW, zone)


def test_the_machines_own_zone_has_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    import time  # noqa: PLC0415 - tzset belongs to this test alone

    monkeypatch.setenv("TZ", "Europe/Madrid")
    time.tzset()
    try:
        for text in ("2026-07-01 03:12", "2026-11-23 03:12", "03:12", "2026-10-25 01:59"):
            assert moments.parse(text, NOW, MADRID) == moments.parse(text, NOW, None)
        for text in ("2026-10-25 02:30", "2026-03-29 02:30"):
            with pytest.raises(ValueError, match=r"came twice|did not exist"):
                moments.parse(text, NOW, None)
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=40))
def test_any_text_is_a_moment_or_a_value_error(text: str) -> None:
    try:
        assert moments.parse(text, NOW, MADRID) <= NOW
    except ValueError as error:
        assert str(error)  # noqa: PT017 - that nothing else escapes is what is shown


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (f"/system.slice/docker-{ID}.scope", Owner(Kind.CONTAINER, ID)),
        (f"/docker/{ID}", Owner(Kind.CONTAINER, ID)),
        (f"/docker/{ID}/system.slice/nginx.service", Owner(Kind.CONTAINER, ID)),
        (f"/kubepods.slice/kubepods-burstable.slice/cri-containerd-{ID}.scope", Owner(Kind.CONTAINER, ID)),
        (f"/kubepods/besteffort/pod0a1b/{ID}", Owner(Kind.CONTAINER, ID)),
        (f"/kubepods-pod0a1b.slice:cri-containerd:{ID}", Owner(Kind.CONTAINER, ID)),
        (f"/kubepods.slice/crio-{ID}.scope/container", Owner(Kind.CONTAINER, ID)),
        (f"/machine.slice/libpod-{ID}.scope", Owner(Kind.CONTAINER, ID)),
        (f"/machine.slice/libpod-conmon-{ID}.scope", Owner(Kind.UNIT, f"libpod-conmon-{ID}.scope")),
        (f"/docker/{'f' * 64}/docker/{ID}", Owner(Kind.CONTAINER, ID)),
        (f"/docker/{ID[:-1]}", Owner(Kind.CGROUP, f"/docker/{ID[:-1]}")),
        ("/system.slice/nginx.service", Owner(Kind.UNIT, "nginx.service")),
        ("/user.slice/user-1000.slice/session-3.scope", Owner(Kind.UNIT, "session-3.scope")),
        ("/system.slice/nginx.service/workers", Owner(Kind.UNIT, "nginx.service")),
        ("/user.slice", Owner(Kind.UNIT, "user.slice")),
        ("/", Owner(Kind.CGROUP, "/")),
        ("/custom/group", Owner(Kind.CGROUP, "/custom/group")),
        ("", Owner(Kind.CGROUP, "")),
        (None, Owner(Kind.NONE, "-")),
    ],
)
def test_a_cgroup_names_its_owner(cgroup: str | None, expected: Owner) -> None:
    assert expected == owner(cgroup)
    if expected.kind is Kind.CONTAINER:
        assert ID[:12] == expected.label


@given(st.text())
def test_escaped_text_is_printable_and_says_what_it_was(text: str) -> None:
    shown = terminal.escaped(text)
    assert shown.isprintable()
    if text.isascii() and text.isprintable() and "\\" not in text:
        assert text == shown


@given(st.text(), st.text())
def test_different_text_is_escaped_differently(first: str, second: str) -> None:
    assert (first == second) == (terminal.escaped(first) == terminal.escaped(second))


@given(st.text(), st.integers(0, 30))
def test_a_cut_fits(text: str, cells: int) -> None:
    shown = terminal.cut(terminal.escaped(text), cells)
    assert terminal.width(shown) <= cells


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102_400, "100 KiB"),
        (1 << 30, "1.0 GiB"),
        (1023 << 20, "1.0 GiB"),
        (2**63 - 1, "8.0 EiB"),
    ],
)
def test_sizes_are_short(count: int | None, expected: str) -> None:
    assert expected == terminal.size(count)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (2.1, "2.1 s"), (59, "59 s"), (60, "1 min"), (61.9, "1 min 1 s"), (7200, "2 h"), (90_061, "1 d 1 h")],
)
def test_spans_are_in_two_units(seconds: float, expected: str) -> None:
    assert expected == terminal.span(seconds)


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, "0"),
        (40_000, "0.0 ms"),
        (3_000_000, "3.0 ms"),
        (250_000_000, "250 ms"),
        (4_250_000_000, "4.2 s"),
        (75_000_000_000, "1 min 15 s"),
    ],
)
def test_cpu_time_keeps_what_matters(nanoseconds: int, expected: str) -> None:
    assert expected == terminal.cpu_time(nanoseconds)


def test_days_part_a_range_at_midnight_in_utc() -> None:
    first, last = datetime(2026, 11, 23, 0, 30, tzinfo=ZoneInfo("Europe/Madrid")), utc(2026, 11, 24)
    assert [
        (utc(2026, 11, 22).date(), utc(2026, 11, 22, 23, 30), utc(2026, 11, 22, 23, 59, 59, 999_000)),
        (utc(2026, 11, 23).date(), utc(2026, 11, 23), utc(2026, 11, 23, 23, 59, 59, 999_000)),
        (utc(2026, 11, 24).date(), utc(2026, 11, 24), utc(2026, 11, 24)),
    ] == list(reader.days(first, last))


def test_the_later_of_two_passes_is_the_newest_if_it_comes_as_near() -> None:
    at = utc(2026, 11, 23, 3, 12)

    def tick(seq: int, seconds: float) -> Tick:
        return Tick(seq, at - timedelta(seconds=seconds))

    assert reader.newest_of([], at) is None
    assert tick(2, 1) == reader.newest_of([tick(1, 6), tick(2, 1)], at)
    assert tick(8, 3) == reader.newest_of([tick(1, 6), tick(2, 1), tick(7, 8), tick(8, 3)], at)
    # The second pass is only on its way: the first one reached the moment.
    assert tick(2, 1) == reader.newest_of([tick(1, 6), tick(2, 1), tick(7, 250), tick(8, 245)], at)


def test_cpu_of_the_host_over_a_boot_is_what_was_and_what_is() -> None:
    def cpu(seq: int, user: int, iowait: int) -> CpuTick:
        return CpuTick(
            Tick(seq, utc(2026, 11, 23) + timedelta(seconds=5 * seq)), {"user_ns": user, "iowait_ns": iowait}
        )

    # iowait may step back (proc(5)); that is no boot
    assert HostCpu({"user_ns": 7, "iowait_ns": 0}, 5.0, booted=False) == host_cpu([[cpu(1, 100, 9), cpu(2, 107, 8)]])
    assert HostCpu({"user_ns": 10, "iowait_ns": 1}, 10.0, booted=True) == host_cpu(
        [[cpu(1, 100, 9), cpu(2, 107, 9), cpu(3, 3, 1)]]
    )
    assert host_cpu([[cpu(1, 100, 9)]]) is None
