"""Lines for a terminal: as wide as it is, and free of what strangers put into a name."""

from __future__ import annotations

import itertools
import re
from datetime import UTC

import pytest

from latido.history.terminal import Style, width
from latido.top.fleet import Fleet
from latido.top.paint import ALL_LINES, Link, Page, Painted, paint
from latido.top.tests.samples import GIB, OTHER_STREAM, clock, cpu, procesos, process, ram, reading
from latido.top.view import Sort, View

SECOND = 10**9
SGR = re.compile(r"\x1b\[[0-9;]*m")
LIVE = Link("live", warning=False)
HOSTILE = (
    "\x1b[2J\x1b[Hroot#",  # clears the screen
    "\x1b]0;owned\x07",  # sets the title
    "\x9b31m",  # the 8-bit CSI
    "a\r\nb\tc\x00d",
    "\u202egnp.exe",  # right to left override
    "\u200b\ufeff\U000e0041",  # invisible
    "日本語" * 5,
    "e\u0301" * 20,
    "back\\slash",
)


def fleet(hosts: int = 1, commands: tuple[str, ...] = ("mysqld", "nginx")) -> Fleet:
    found = Fleet()
    found.names = tuple(f"web-{number}" for number in range(1, hosts + 1))
    for number, name in enumerate(found.names):
        for seq in (1, 2):
            used = 4 * SECOND * seq * number
            samples = (ram(seq), cpu(seq, user=used, idle=5 * SECOND * seq))
            tables = [
                process(pid, pid * SECOND * seq, command=text, rss=pid * GIB) for pid, text in enumerate(commands, 1)
            ]
            for sample in (*samples, procesos(seq, tables, keyframe=True)):
                found.apply(reading(sample, host=name, snapshot=seq == 1), clock(5 * seq))
    return found


def shown(
    view: View, *, found: Fleet | None = None, cells: int = 100, lines: int = 24, colour: bool = False, at: float = 10
) -> Painted:
    page = Page(cells, lines, Style(colour), UTC)
    return paint(found or fleet(), view, LIVE, page, clock(at))


def test_a_hosts_page() -> None:
    page = Page(100, ALL_LINES, Style(colour=False), UTC, interactive=False)
    assert [
        "web-1  2026-09-21 14:13:30 UTC  0 s ago  load 1.25 0.80 0.40  2 CPUs",
        "CPU [                              ]   0.0%  idle 100.0",
        "MEM [||||||||||||||||||||||        ]  75.0%  4.0 GiB available of 16.0 GiB  cached 3.0 GiB  swap 1.…",
        "2 processes, 4 threads, 2 sleeping",
        "    PID    UID S  THR  CPU%↓  MEM%      RSS   READ/s  WRITE/s      TIME COMMAND",
        "      2   1000 S    2   40.0  12.5  2.0 GiB        0        0   0:04.00 nginx",
        "      1   1000 S    2   20.0   6.2  1.0 GiB        0        0   0:02.00 mysqld",
    ] == paint(fleet(), View(host="web-1"), LIVE, page, clock(10)).lines


def test_a_fleets_page() -> None:
    page = Page(100, ALL_LINES, Style(colour=False), UTC, interactive=False)
    assert [
        "latido top: 2 hosts, 1 not heard of yet",
        "HOST                      CPU%↓  WAIT% CPUS  LOAD1  MEM%   MEMORY     SWAP NEWEST",
        "web-2                      44.4    0.0    2   1.25  75.0 16.0 GiB  1.0 GiB 0 s ago",
        "web-1                       0.0    0.0    2   1.25  75.0 16.0 GiB  1.0 GiB 0 s ago",
    ] == paint(_with_names(fleet(2), "web-3"), View(), LIVE, page, clock(10)).lines


def _with_names(found: Fleet, *more: str) -> Fleet:
    found.names = (*found.names, *more)
    return found


@pytest.mark.parametrize("cells", [1, 5, 20, 40, 47, 48, 80, 131, 132, 250])
def test_nothing_is_wider_or_longer_than_the_terminal(cells: int) -> None:
    found = fleet(3, HOSTILE)
    views = (
        View(),
        View(host="web-1"),
        View(host="web-1", cores=True, filter="a", cursor=3),
        View(host="web-1", typing=True, filter="日本語"),
        View(host="nowhere"),
        View(help=True),
    )
    for view, lines in itertools.product(views, (1, 2, 3, 8, 24)):
        painted = shown(view, found=found, cells=cells, lines=lines, colour=True)
        assert len(painted.lines) <= lines
        for line in painted.lines:
            assert width(SGR.sub("", line)) <= cells, line


@pytest.mark.parametrize("sort", Sort)
def test_no_control_character_of_a_name_reaches_the_terminal(sort: Sort) -> None:
    names = (*HOSTILE, *(chr(code) + "x" for code in (*range(32), *range(127, 160))))
    cgroups = Fleet()
    for seq in (1, 2):
        table = [process(pid, seq, command=name, cgroup=f"/{name}.service") for pid, name in enumerate(names, 1)]
        cgroups.apply(reading(procesos(seq, table, keyframe=True), snapshot=seq == 1), clock(5 * seq))
    for colour in (False, True):
        painted = shown(View(host="web-1", sort=sort), found=cgroups, cells=200, lines=200, colour=colour)
        text = "".join(SGR.sub("", line) for line in painted.lines) if colour else "".join(painted.lines)
        assert text.isprintable()
        assert "\\x1b[2J" in text
    hostile_filter = shown(View(host="web-1", filter="\x1b[2J"), found=cgroups)
    assert "".join(hostile_filter.lines).isprintable()


def test_an_error_of_the_bridge_is_escaped_too() -> None:
    page = Page(80, 5, Style(colour=False), UTC)
    painted = paint(fleet(), View(), Link("the bridge says: \x1b[2J", warning=True), page, clock(10))
    assert painted.lines[-1].startswith("the bridge says: \\x1b[2J")


def test_the_marked_line_is_on_the_page_and_reversed() -> None:
    found = fleet(1, tuple(f"c{number}" for number in range(100)))
    painted = shown(View(host="web-1", sort=Sort.PID, cursor=50), found=found, lines=20, colour=True)
    marked = [line for line in painted.lines if line.startswith("\x1b[7m")]
    assert ["51"] == [SGR.sub("", line).split()[0] for line in marked]


def test_a_host_that_is_silent_is_called_stale() -> None:
    assert any("40 s ago STALE" in line for line in shown(View(), at=50).lines)
    assert "1 host, 1 of them stale" in shown(View(), at=50).lines[0]


def test_two_machines_of_one_name_are_told() -> None:
    found = fleet()
    found.apply(reading(ram(1), stream=OTHER_STREAM), clock(10))
    assert any(
        line.startswith("! 2 machines or exporters report as web-1")
        for line in shown(View(host="web-1"), found=found).lines
    )


def test_a_host_that_nobody_knows_is_answered_with_those_that_are() -> None:
    assert "no sample yet; known hosts: web-1" == shown(View(host="web-9")).lines[1]


def test_colours_leave_the_text_as_it_is() -> None:
    plain, coloured = shown(View(host="web-1")), shown(View(host="web-1"), colour=True)
    assert plain.lines == [SGR.sub("", line) for line in coloured.lines]
