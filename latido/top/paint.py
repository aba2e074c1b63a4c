"""The lines that a view of the fleet is shown as: header, table, and how it stands with the feed. Pure.

What came over the wire is escaped before it is measured, cut and coloured: no control character of a command's name
reaches a terminal. Columns are as wide at every repaint, and the least useful leave first where it is narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Final, Generic, TypeVar

from latido.history.owner import owner
from latido.history.terminal import Style, cut, escaped, percent, size, span, width
from latido.top.fleet import Clock, Fleet, Machine, Row
from latido.top.view import Sort, View

STALE_SECONDS: Final = 30.0
"""No sample for so long, six of the default interval: something between the host and here stands still."""
METER_CELLS: Final = 30
MIN_METER: Final = 24
MIN_COMMAND: Final = 16
ALL_LINES: Final = 10_000_000
"""Of a page that is printed: all that there are."""

T = TypeVar("T")

HELP: Final = (
    ("P M T I", "processes by CPU, memory, CPU time, I/O; again: the other way round"),
    ("N C R", "by pid, by command; the other way round"),
    ("/", "only what has this in its command, pid or cgroup; Enter keeps it, Esc ends it"),
    ("Up Down PgUp PgDn Home End", "move"),
    ("Enter", "from the fleet to the marked host"),
    ("Esc", "no filter; back to the fleet"),
    ("1", "each CPU"),
    ("h ?", "this page"),
    ("q", "leave"),
)


@dataclass(frozen=True)
class Link:
    """How it stands with the feed, in words; `warning`: nothing new comes."""

    text: str
    warning: bool


@dataclass(frozen=True)
class Page:
    """Where lines go: cells and lines of the terminal, marks, the zone of times (None: this machine's)."""

    cells: int
    lines: int
    style: Style
    zone: tzinfo | None = UTC
    interactive: bool = True


@dataclass(frozen=True)
class Painted:
    """The lines. Of the table: the fleet's host names (for each process ""), where it begins, how many lines fit."""

    lines: list[str]
    names: list[str] = field(default_factory=list)
    head: int = 0
    room: int = 1


def paint(fleet: Fleet, view: View, link: Link, page: Page, clock: Clock) -> Painted:
    """Return what is shown: never more lines than the page has, nor a line wider than it."""
    if view.help:
        return Painted(_fit(_help(page), page))
    if view.host is None:
        machines = view.machines(fleet.machines(clock))
        head = [_fleet_title(fleet, machines, page, clock)]
        names = [machine.name for machine in machines]
        return _assemble(head, _FLEET, machines, names, view, link, page, clock)
    machine = fleet.machine(view.host, clock)
    if machine is None:
        known = ", ".join(fleet.names) or "none"
        lines = [page.style.strong(cut(view.host, page.cells)), cut(f"no sample yet; known hosts: {known}", page.cells)]
        return _assemble(lines, (), [], [], view, link, page, clock)
    head = _head(machine, fleet.shared(view.host, clock), view, page, clock)
    rows = view.processes(machine.rows())
    total = machine.ram.total_bytes if machine.ram is not None else 0
    return _assemble(head, _process_columns(total), rows, [""] * len(rows), view, link, page, clock)


@dataclass(frozen=True)
class _Column(Generic[T]):
    title: str
    cells: int
    """0: what is left of the line, to the left."""
    text: Callable[[T, Clock], str]
    rank: int = 0
    """The largest leaves first."""
    sort: Sort | None = None
    right: bool = True


def _assemble(  # noqa: PLR0917 - the parts of one page
    head: list[str],
    columns: Sequence[_Column[T]],
    items: Sequence[T],
    names: list[str],
    view: View,
    link: Link,
    page: Page,
    clock: Clock,
) -> Painted:
    foot = [_foot(view, link, page)] if page.interactive else []
    shown = _columns(columns, page.cells)
    head = [*head, _titles(shown, view, page)] if shown else head
    head = head[: max(1, page.lines - len(foot))]
    room = max(0, page.lines - len(head) - len(foot))
    cursor = min(view.cursor, max(0, len(items) - 1))
    # The page that holds the marked line: it moves by pages, so that lines stay where they are.
    first = cursor // room * room if room and page.interactive else 0
    body = []
    for number, item in enumerate(items[first : first + room], first):
        line = _line(shown, item, page.cells if page.interactive else None, clock)
        marked = page.interactive and number == cursor
        body.append(_mark(page.style, line + " " * (page.cells - width(line)), "7") if marked else line)
    if page.interactive:
        body += [""] * (room - len(body))
    return Painted(_fit([*head, *body, *foot], page), names, len(head), max(1, room))


def _fit(lines: list[str], page: Page) -> list[str]:
    return lines[: page.lines]


def _mark(style: Style, text: str, code: str) -> str:
    """Mark text by an SGR code that `Style` has no name for: 7 is reverse, 32 green, 31 red."""
    return f"\x1b[{code}m{text}\x1b[0m" if style.colour and text else text


# --- tables ---


def _columns(columns: Sequence[_Column[T]], cells: int) -> list[_Column[T]]:
    shown = list(columns)
    while len(shown) > 1 and sum((column.cells or MIN_COMMAND) + 1 for column in shown) - 1 > cells:
        worst = max((column for column in shown if column.cells), key=lambda column: column.rank)
        shown.remove(worst)
    return shown


def _titles(columns: Sequence[_Column[T]], view: View, page: Page) -> str:
    cells = []
    for column in columns:
        title = f"{column.title}{'↓' if view.descending else '↑'}" if column.sort is view.sort else column.title
        cells.append(_cell(title, column))
    return _mark(page.style, cut(" ".join(cells).ljust(page.cells if page.interactive else 0), page.cells), "1;7")


def _line(columns: Sequence[_Column[T]], item: T, cells: int | None, clock: Clock) -> str:
    """Return an item's line, cut where it has to fit."""
    line = " ".join(_cell(column.text(item, clock), column) for column in columns).rstrip()
    return line if cells is None else cut(line, cells)


def _cell(text: str, column: _Column[T]) -> str:
    if not column.cells:
        return text
    shown = cut(text, column.cells)
    fill = " " * (column.cells - width(shown))
    return fill + shown if column.right else shown + fill


def _share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _rate(rate: float | None) -> str:
    return "-" if rate is None else "0" if rate < 1 else size(round(rate))


def _clock_time(nanoseconds: int) -> str:
    """Return CPU time as top(1) does: minutes, seconds and hundredths; hours where that would be long."""
    hundredths = nanoseconds // 10_000_000
    minutes, rest = divmod(hundredths, 6000)
    if minutes < 1000:  # noqa: PLR2004 - three digits
        return f"{minutes}:{rest // 100:02d}.{rest % 100:02d}"
    return f"{minutes // 60}h{minutes % 60:02d}"


def _process_columns(total: int) -> tuple[_Column[Row], ...]:
    return (
        _Column("PID", 7, lambda row, _: str(row.process.pid), 0, Sort.PID),
        _Column("UID", 6, lambda row, _: str(row.process.uid), 5),
        _Column("S", 1, lambda row, _: row.process.state, 2),
        _Column("THR", 4, lambda row, _: str(row.process.threads), 6),
        _Column("CPU%", 6, lambda row, _: _share(row.cpu), 0, Sort.CPU),
        _Column("MEM%", 5, lambda row, _: percent(row.process.rss_bytes, total), 4),
        _Column("RSS", 8, lambda row, _: size(row.process.rss_bytes), 1, Sort.RSS),
        _Column("READ/s", 8, lambda row, _: _rate(row.read), 8, Sort.IO),
        _Column("WRITE/s", 8, lambda row, _: _rate(row.written), 7),
        _Column("TIME", 9, lambda row, _: _clock_time(row.process.cpu_ns), 3, Sort.TIME),
        _Column("UNIT", 20, lambda row, _: escaped(owner(row.process.cgroup).label), 9, right=False),
        _Column("COMMAND", 0, lambda row, _: escaped(row.process.command), 0, Sort.COMMAND, right=False),
    )


def _swap_used(machine: Machine) -> str:
    return size(machine.ram.swap_total_bytes - machine.ram.swap_free_bytes) if machine.ram is not None else "-"


def _age(machine: Machine, clock: Clock) -> str:
    age = machine.age(clock)
    return f"{span(int(age))} ago" + (" STALE" if age >= STALE_SECONDS else "")


_FLEET: Final[tuple[_Column[Machine], ...]] = (
    _Column("HOST", 24, lambda machine, _: machine.name, 0, Sort.COMMAND, right=False),
    _Column("CPU%", 6, lambda machine, _: _share(machine.usage.busy if machine.usage else None), 0, Sort.CPU),
    _Column(
        "WAIT%", 6, lambda machine, _: _share(machine.usage.modes["iowait"] if machine.usage else None), 5, Sort.IO
    ),
    _Column("CPUS", 4, lambda machine, _: str(len(machine.cpu.cores)) if machine.cpu else "-", 6),
    _Column(
        "LOAD1", 6, lambda machine, _: f"{machine.cpu.load1_milli / 1000:.2f}" if machine.cpu else "-", 4, Sort.TIME
    ),
    _Column("MEM%", 5, lambda machine, _: _share(machine.memory_used), 0, Sort.RSS),
    _Column("MEMORY", 8, lambda machine, _: size(machine.ram.total_bytes) if machine.ram else "-", 7),
    _Column("SWAP", 8, lambda machine, _: _swap_used(machine), 8),
    _Column("NEWEST", 0, _age, 0, right=False),
)


# --- headers ---


def _fleet_title(fleet: Fleet, machines: Sequence[Machine], page: Page, clock: Clock) -> str:
    stale = sum(machine.age(clock) >= STALE_SECONDS for machine in machines)
    count = len(machines)
    text = f"latido top: {count} host{'s' if count != 1 else ''}" + (f", {stale} of them stale" if stale else "")
    waiting = len(set(fleet.names) - {machine.name for machine in fleet.machines(clock)})
    return page.style.strong(cut(text + (f", {waiting} not heard of yet" if waiting else ""), page.cells))


def _head(machine: Machine, streams: int, view: View, page: Page, clock: Clock) -> list[str]:
    age = machine.age(clock)
    when = datetime.fromtimestamp(machine.sampled_at / 1000, UTC).astimezone(page.zone)
    title = f"{machine.name}  {when:%Y-%m-%d %H:%M:%S %Z}"
    parts = [f"{span(int(age))} ago"]
    if machine.cpu is not None:
        loads = (machine.cpu.load1_milli, machine.cpu.load5_milli, machine.cpu.load15_milli)
        parts += ["load " + " ".join(f"{load / 1000:.2f}" for load in loads), f"{len(machine.cpu.cores)} CPUs"]
    rest = cut("  ".join(["", *parts]), max(0, page.cells - width(title)))
    strong = page.style.strong(cut(title, page.cells))
    lines = [strong + (page.style.warning(rest) if age >= STALE_SECONDS else rest)]
    lines += _cpu_lines(machine, view, page)
    if machine.ram is not None:
        ram = machine.ram
        words = f"{size(ram.available_bytes)} available of {size(ram.total_bytes)}  cached {size(ram.cached_bytes)}"
        if ram.swap_total_bytes:
            words += f"  swap {size(ram.swap_total_bytes - ram.swap_free_bytes)} of {size(ram.swap_total_bytes)}"
        lines.append(_meter("MEM", machine.memory_used, words, page))
    if machine.procesos is not None:
        lines.append(cut(_counts(machine), page.cells))
    if streams > 1:
        note = f"! {streams} machines or exporters report as {machine.name}; the one heard of last is shown"
        lines.append(page.style.warning(cut(note, page.cells)))
    return lines


def _cpu_lines(machine: Machine, view: View, page: Page) -> list[str]:
    usage = machine.usage
    if usage is None:
        return [_meter("CPU", None, "one more sample is needed", page)]
    words = "  ".join(f"{mode} {100 * share:.1f}" for mode, share in usage.modes.items() if share >= 0.0005)  # noqa: PLR2004 - 0.1 when rounded
    lines = [_meter("CPU", usage.busy, words, page)]
    if view.cores:
        columns = 2 if page.cells >= 2 * MIN_METER else 1
        narrow = Page((page.cells - 2 * (columns - 1)) // columns, page.lines, page.style)
        meters = [_meter(f"{number:3d}", share, "", narrow) for number, share in enumerate(usage.cores)]
        lines += ["  ".join(meters[first : first + columns]) for first in range(0, len(meters), columns)]
    return lines


def _meter(label: str, share: float | None, words: str, page: Page) -> str:
    bar = min(METER_CELLS, max(0, page.cells - 14))
    full = round(bar * min(1.0, max(0.0, share or 0.0)))
    colour = "31" if (share or 0.0) >= 0.9 else "33" if (share or 0.0) >= 0.7 else "32"  # noqa: PLR2004 - as meters are read
    number = "    -" if share is None else f"{100 * share:5.1f}"
    drawn = "[" + _mark(page.style, "|" * full, colour) + " " * (bar - full) + "]"
    plain = len(label) + 1 + bar + 2 + 1 + 6
    if plain > page.cells:
        return cut(f"{label} {number}%", page.cells)
    return f"{label} {drawn} {number}%" + cut(f"  {words}" if words else "", page.cells - plain)


_STATES: Final = ("running", "sleeping", "disk_sleep", "stopped", "traced", "zombie", "dead", "idle", "parked", "other")


def _counts(machine: Machine) -> str:
    sample = machine.procesos
    if sample is None:
        return ""
    parts = [f"{sample.total} processes, {sample.threads} threads"]
    parts += [f"{count} {state.replace('_', ' ')}" for state in _STATES if (count := getattr(sample, state))]
    if machine.ended:
        used = f" with {100 * machine.ended_cpu:.1f}% CPU" if machine.ended_cpu is not None else ""
        parts.append(f"{machine.ended} ended{used}")
    return ", ".join(parts)


def _foot(view: View, link: Link, page: Page) -> str:
    if view.typing:
        return cut(f"/{escaped(view.filter)}_", page.cells)
    held = f"filter {escaped(view.filter)!r}  " if view.filter else ""
    words = "  ".join(
        ["q quit", "h help", "/ filter", "P M T I N C sort", *(["Esc fleet"] if _can_go_back(view) else [])]
    )
    state = cut(f"{held}{escaped(link.text)}", page.cells)
    room = page.cells - width(state) - 2
    hints = cut(words, room) if room > 0 else ""
    return (page.style.warning(state) if link.warning else state) + (f"  {page.style.faint(hints)}" if hints else "")


def _can_go_back(view: View) -> bool:
    return view.host is not None and not view.fixed


def _help(page: Page) -> list[str]:
    left = max(len(keys) for keys, _ in HELP)
    lines = [page.style.strong(cut("latido top: keys", page.cells)), ""]
    lines += [cut(f"{keys:{left}}  {meaning}", page.cells) for keys, meaning in HELP]
    lines += [
        "",
        cut("CPU% is of one CPU: 200 is two of them. A fleet's I is by waiting for disks, its T by load.", page.cells),
    ]
    return [*lines, cut("Any key goes back.", page.cells)]
