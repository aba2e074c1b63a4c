"""What a person is shown: facts first, then what to know before trusting them, then the table. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Final

from latido.history.follow import Followed, Step
from latido.history.groups import By, Group
from latido.history.model import Names
from latido.history.moments import localize
from latido.history.owner import Owner, owner
from latido.history.rebuild import Coverage, Line, Machine
from latido.history.terminal import (
    Column,
    Style,
    back,
    cpu_time,
    cut,
    escaped,
    percent,
    size,
    span,
    table,
    wrapped,
)

UNKNOWN: Final = "?"
SHOWN_GAPS: Final = 3
_STALE: Final = 3
"""A newest sample older than so many intervals is said to be old."""


@dataclass(frozen=True, slots=True)
class Page:
    """How wide a page is, whether it has colours, and in which zone its times are (None: this machine's)."""

    cells: int
    style: Style
    zone: tzinfo | None

    def time(self, moment: datetime, like: datetime | None = None) -> str:
        """Return a moment, without its date if that is the date of `like`, with milliseconds if it has any."""
        local = localize(moment, self.zone)
        shown = f"{local:%H:%M:%S}" + (f".{local.microsecond // 1000:03d}" if local.microsecond else "")
        same_day = like is not None and localize(like, self.zone).date() == local.date()
        return shown if same_day else f"{local:%Y-%m-%d} {shown}"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person asked for: the moment and the stretch before it."""

    host: str
    at: datetime
    window: timedelta
    by: By


def heading(machine: Machine, asked: Asked, page: Page) -> list[str]:
    """Return the lines about the machine: when, CPU, memory, processes, and what to know about the samples."""
    local = localize(asked.at, page.zone)
    offset = f"{local:%z}"
    title = f"{asked.host}  {page.time(asked.at)} UTC{offset[:3]}:{offset[3:]}"
    title = title.replace("UTC+00:00", "UTC")
    newest = machine.readings[-1].stream
    lines = [page.style.strong(title) + (f"  kernel {escaped(newest.kernel)}" if newest.kernel else "")]
    lines += wrapped("CPU        ", _cpu_parts(machine), page.cells)
    lines += wrapped("memory     ", _memory_parts(machine), page.cells)
    lines += wrapped("processes  ", _process_parts(machine), page.cells)
    lines += wrapped("samples    ", _sample_parts(machine, asked, page), page.cells)
    lines += [page.style.warning(f"! {note}") for note in notes(machine, asked, page)]
    return lines


def _cpu_parts(machine: Machine) -> list[str]:
    cpu, load = machine.cpu, machine.load
    if cpu is None:
        parts = ["not known: no two CPU samples near the window"]
    else:
        whole = sum(cpu.modes.values())
        busy = whole - cpu.modes["idle_ns"] - cpu.modes["iowait_ns"]
        parts = [f"{percent(busy, whole)}% busy over {span(cpu.seconds)}"]
        parts += [
            f"{mode.removesuffix('_ns')} {percent(value, whole)}%"
            for mode, value in cpu.modes.items()
            if value or mode in {"user_ns", "system_ns", "idle_ns"}
        ]
    if load is not None:
        parts.append(f"load {load.load1:.2f} {load.load5:.2f} {load.load15:.2f}")
        parts.append(f"{load.cpus} CPU{'s' if load.cpus != 1 else ''}")
    return parts


def _memory_parts(machine: Machine) -> list[str]:
    memory = machine.memory
    if memory is None:
        return ["not known: no memory sample near the moment"]
    parts = [
        f"{size(memory.available_bytes)} available of {size(memory.total_bytes)}",
        f"free {size(memory.free_bytes)}",
        f"cached {size(memory.cached_bytes)}",
        f"buffers {size(memory.buffers_bytes)}",
    ]
    used = memory.swap_total_bytes - memory.swap_free_bytes
    parts.append(f"swap {size(used)} of {size(memory.swap_total_bytes)}" if memory.swap_total_bytes else "no swap")
    return parts


def _process_parts(machine: Machine) -> list[str]:
    counts = machine.counts
    states = [f"{name.replace('_', ' ')} {count}" for name, count in counts.states.items() if count]
    ended = sum(line.ended for line in machine.lines)
    return [str(counts.total), *states, f"threads {counts.threads}"] + (
        [f"ended in the window {ended}"] if ended else []
    )


def _sample_parts(machine: Machine, asked: Asked, page: Page) -> list[str]:
    coverage = machine.coverage
    age = (asked.at - machine.newest.at).total_seconds()
    parts = [f"table of {page.time(machine.newest.at, asked.at)}, {span(age)} before the moment"]
    parts.append(f"{coverage.samples} in the window")
    if coverage.interval:
        parts.append(f"every {span(coverage.interval)}")
    return parts


def notes(machine: Machine, asked: Asked, page: Page) -> list[str]:
    """Return what a reader must know: gaps, old data, clocks set back, boots, a table that is not whole."""
    coverage = machine.coverage
    found = _gap_notes(coverage, asked, page)
    age = (asked.at - machine.newest.at).total_seconds()
    if coverage.samples and coverage.interval is not None and age > _STALE * coverage.interval:
        found.append(f"nothing was sampled in the last {span(age)} before the moment")
    if not coverage.samples:
        found.append(
            f"no sample in the window: the table is of {page.time(machine.newest.at)}, {span(age)} before the moment"
        )
    for moment, step in coverage.steps:
        found.append(f"the host's clock went back by {back(step)} to {page.time(moment, asked.at)}: times came twice")
    if machine.readings[0].before is None and machine.readings[0].ticks:
        first = min(tick.at for tick in machine.readings[0].ticks)
        found.append(f"the window begins before the first sample, of {page.time(first, asked.at)}")
    if machine.cpu is not None and machine.cpu.booted:
        found.append("the host was booted in the window")
    if len(machine.readings) > 1:
        found.append("the exporter's spool was made anew in the window: CPU time between two spools is not known")
    if machine.keyframe is None:
        found.append("no keyframe before the moment: only processes that did something in the window are known")
    return found


def _gap_notes(coverage: Coverage, asked: Asked, page: Page) -> list[str]:
    found = []
    for gap in coverage.gaps[:SHOWN_GAPS]:
        when = f"between {page.time(gap.after, asked.at)} and {page.time(gap.before, asked.at)}"
        if gap.missing:
            plural = "s are" if gap.missing != 1 else " is"
            found.append(f"{gap.missing} sample{plural} missing {when}: what happened only there is not counted")
        else:
            found.append(f"no sample was taken {when}")
    rest = coverage.gaps[SHOWN_GAPS:]
    if rest:
        missing = sum(gap.missing for gap in rest)
        found.append(f"and {len(rest)} more such gaps, {missing} samples missing in them")
    return found


_LINE_COLUMNS: Final = (
    Column("PID"),
    Column("UID"),
    Column("CPU%"),
    Column("CPU"),
    Column("RSS"),
    Column("READ"),
    Column("WRITTEN"),
    Column("THR"),
    Column("S"),
    Column("CONTAINER/UNIT", right=False),
    Column("COMMAND", right=False),
)
OWNER_CELLS: Final = 28


def process_table(lines: Sequence[Line], coverage: Coverage, page: Page) -> list[str]:
    """Return the table of processes, in the order given."""
    rows = [_process_cells(line, coverage) for line in lines]
    shown = table(_LINE_COLUMNS, rows, page.cells)
    return [
        page.style.strong(shown[0]),
        *(page.style.faint(text) if line.ended else text for text, line in zip(shown[1:], lines, strict=True)),
    ]


def _process_cells(line: Line, coverage: Coverage) -> list[str]:
    row = line.row
    command = UNKNOWN if row.names.command is None else escaped(row.names.command)
    return [
        str(row.pid),
        UNKNOWN if row.names.uid is None else str(row.names.uid),
        percent(line.window_cpu_ns / 1e9, coverage.seconds),
        cpu_time(line.window_cpu_ns),
        size(row.rss_bytes),
        size(line.window_read_bytes),
        size(line.window_written_bytes),
        str(row.threads),
        row.state,
        cut(escaped(owner(row.names.cgroup).label), OWNER_CELLS),
        f"{command} (exited)" if line.ended else command,
    ]


_TITLES: Final[dict[By, str]] = {"command": "COMMAND", "container": "CONTAINER/UNIT", "user": "UID"}


def group_table(groups: Sequence[Group], by: By, coverage: Coverage, page: Page) -> list[str]:
    """Return the table of groups, in the order given."""
    columns = (
        Column("CPU%"),
        Column("CPU"),
        Column("RSS"),
        Column("READ"),
        Column("WRITTEN"),
        Column("PROCS"),
        Column("EXITED"),
        Column("THR"),
        Column(_TITLES[by], right=False),
    )
    rows = [
        [
            percent(group.window_cpu_ns / 1e9, coverage.seconds),
            cpu_time(group.window_cpu_ns),
            size(group.rss_bytes),
            size(group.window_read_bytes),
            size(group.window_written_bytes),
            str(group.processes),
            str(group.ended),
            str(group.threads),
            _group_name(group),
        ]
        for group in groups
    ]
    shown = table(columns, rows, page.cells)
    return [page.style.strong(shown[0]), *shown[1:]]


def _group_name(group: Group) -> str:
    if group.name is None:
        return UNKNOWN
    return escaped(group.name.label if isinstance(group.name, Owner) else str(group.name))


def life_text(followed: Followed, steps: Sequence[Step], step: float, page: Page) -> list[str]:
    """Return one process through time in steps of so many seconds, 0 for a sample each."""
    life, missing = followed.life, followed.missing
    first, last = life.rows[0], life.rows[-1]
    names = last.names
    title = f"{life.stream.host}  pid {last.pid}  {UNKNOWN if names.command is None else escaped(names.command)}"
    facts = [f"uid {names.uid}", f"parent {names.ppid}", escaped(owner(names.cgroup).label)] if names.command else []
    if names.started_at is not None:
        facts.append(f"started {page.time(names.started_at)}")
    facts.append(f"start ticks {life.start_ticks}")
    end = f"exited by {page.time(last.tick.at, first.stretch.first.at)}" if life.exited else "not seen to exit"
    seen = [
        f"first {page.time(first.stretch.first.at)}",
        f"last {page.time(last.tick.at, first.stretch.first.at)}",
        end,
        f"in {sum(row.stretch.samples for row in life.rows)} samples",
    ]
    used = sum(item.cpu_ns for item in steps)
    smallest = min(row.stretch.smallest_rss_bytes for row in life.rows)
    largest = max(row.stretch.largest_rss_bytes for row in life.rows)
    sums = [
        f"CPU {cpu_time(used)}",
        f"{cpu_time(last.cpu_ns)} since its start, {percent(last.user_ns, last.cpu_ns)}% of it in user mode",
        f"RSS {size(smallest)} to {size(largest)}",
    ]
    lines = [page.style.strong(title)]
    lines += wrapped("process  ", facts, page.cells)
    lines += wrapped("seen     ", seen, page.cells)
    lines += wrapped("used     ", sums, page.cells)
    for earlier, later in pairwise(life.rows):
        if earlier.names != later.names and later.names.command is not None and earlier.names.command is not None:
            lines.append(
                f"from {page.time(later.stretch.first.at, first.tick.at)}: {_changes(earlier.names, later.names)}"
            )
    if missing:
        plural = "s" if missing != 1 else ""
        lines.append(
            page.style.warning(
                f"! {missing} sample{plural} of the host missing between {page.time(followed.first)} and"
                f" {page.time(followed.last)}: what happened only there is not counted"
            )
        )
    lines.append("")
    rows = [_step_cells(item, item.after if step else item.until, first.tick.at, page) for item in steps]
    shown = table(_STEP_COLUMNS, rows, page.cells)
    lines += [page.style.strong(shown[0]), *shown[1:]]
    if step:
        lines.append(f"each line is {span(step)} from its time on; --step 0s shows every sample")
    return lines


def _changes(earlier: Names, later: Names) -> str:
    changed = [
        f"{name} {escaped(str(getattr(earlier, name)))} became {escaped(str(getattr(later, name)))}"
        for name in ("command", "uid", "cgroup", "ppid")
        if getattr(earlier, name) != getattr(later, name)
    ]
    return ", ".join(changed) or "its start was recorded anew"


_STEP_COLUMNS: Final = (
    Column("TIME", right=False),
    Column("CPU%"),
    Column("CPU"),
    Column("RSS"),
    Column("READ"),
    Column("WRITTEN"),
    Column("THR"),
    Column("S"),
    Column("", right=False),
)


def _step_cells(step: Step, at: datetime, like: datetime, page: Page) -> list[str]:
    row, time = step.row, page.time(at, like)
    if row is None:
        idle = "did nothing" if step.samples else "no samples"
        return [time, "0.0" if step.samples else "-", "0" if step.samples else "-", "", "", "", "", "", idle]
    return [
        time,
        percent(step.cpu_ns / 1e9, step.seconds),
        cpu_time(step.cpu_ns),
        size(row.rss_bytes),
        size(step.read_bytes),
        size(step.written_bytes),
        str(row.threads),
        row.state,
        "exited" if row.exited else "",
    ]
