"""What `--json` and `--csv` write: full precision, names that stay. `docs/history.md` lists them. Pure.

Times are RFC 3339 in UTC with milliseconds; null, in CSV an empty cell, is what is not known.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from latido.history.follow import Life, Step
from latido.history.groups import By, Group
from latido.history.model import ProcessRow
from latido.history.owner import Kind, Owner, owner
from latido.history.rebuild import Coverage, Line, Machine
from latido.history.terminal import escaped

Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]
Record = dict[str, Value]

PROCESS_FIELDS: Final = (
    "pid",
    "start_ticks",
    "started_at",
    "exited",
    "sampled_at",
    "command",
    "uid",
    "ppid",
    "cgroup",
    "container",
    "unit",
    "state",
    "threads",
    "window_cpu_ns",
    "window_read_bytes",
    "window_written_bytes",
    "cpu_ns",
    "user_ns",
    "rss_bytes",
    "virtual_bytes",
    "swap_bytes",
    "read_bytes",
    "written_bytes",
    "minor_faults",
    "major_faults",
    "voluntary_switches",
    "involuntary_switches",
)
GROUP_FIELDS: Final = (
    "processes",
    "exited",
    "threads",
    "window_cpu_ns",
    "window_read_bytes",
    "window_written_bytes",
    "rss_bytes",
    "swap_bytes",
)
STEP_FIELDS: Final = (
    "after",
    "until",
    "samples",
    "window_cpu_ns",
    "window_read_bytes",
    "window_written_bytes",
    "exited",
    "command",
    "uid",
    "ppid",
    "cgroup",
    "state",
    "threads",
    "cpu_ns",
    "user_ns",
    "rss_bytes",
    "virtual_bytes",
    "swap_bytes",
    "read_bytes",
    "written_bytes",
    "minor_faults",
    "major_faults",
    "voluntary_switches",
    "involuntary_switches",
)


def snapshot_json(host: str, at: datetime, window: float, parts: Sequence[tuple[Machine, list[Record]]]) -> str:
    """Return a moment as one document."""
    machines: list[Value] = [{**_facts(machine), "rows": list[Value](rows)} for machine, rows in parts]
    return _document({"host": host, "at": rfc3339(at), "window_seconds": window, "machines": machines})


def snapshot_csv(host: str, at: datetime, parts: Sequence[tuple[Machine, list[Record]]]) -> str:
    """Return a moment's rows as RFC 4180 CSV; each begins with host, stream and the moment asked for."""
    return _csv(
        {"host": host, "stream": machine.readings[-1].stream.stream, "at": rfc3339(at), **row}
        for machine, rows in parts
        for row in rows
    )


def life_json(life: Life, missing: int, steps: Iterable[Step]) -> str:
    """Return a process through time as one document. `missing` samples were taken and are not in the database."""
    names = life.rows[-1].names
    return _document(
        {
            "host": life.stream.host,
            "stream": life.stream.stream,
            "pid": life.rows[0].pid,
            "start_ticks": life.start_ticks,
            "started_at": _optional_time(names.started_at),
            "first_seen": rfc3339(life.rows[0].stretch.first.at),
            "last_seen": rfc3339(life.rows[-1].tick.at),
            "exited": life.exited,
            "missing_samples": missing,
            "rows": [_step(step) for step in steps],
        }
    )


def life_csv(life: Life, steps: Iterable[Step]) -> str:
    """Return a process through time as CSV."""
    identity: Record = {"host": life.stream.host, "stream": life.stream.stream}
    identity |= {"pid": life.rows[0].pid, "start_ticks": life.start_ticks}
    return _csv({**identity, **_step(step)} for step in steps)


def process_record(line: Line) -> Record:
    """Return one process with the fields of `PROCESS_FIELDS`."""
    found = _row(line.row) | {
        "exited": line.ended,
        "window_cpu_ns": line.window_cpu_ns,
        "window_read_bytes": line.window_read_bytes,
        "window_written_bytes": line.window_written_bytes,
    }
    whose = owner(line.row.names.cgroup)
    found["container"] = whose.name if whose.kind is Kind.CONTAINER else None
    found["unit"] = whose.name if whose.kind is Kind.UNIT else None
    return {name: found[name] for name in PROCESS_FIELDS}


def group_record(group: Group, by: By) -> Record:
    """Return one group: what names it, then the fields of `GROUP_FIELDS`."""
    name: Record
    if isinstance(group.name, Owner):
        whose = group.name
        name = {
            "container": whose.name if whose.kind is Kind.CONTAINER else None,
            "unit": whose.name if whose.kind is Kind.UNIT else None,
            "cgroup": whose.name if whose.kind is Kind.CGROUP else None,
        }
    else:
        name = {"uid" if by == "user" else by: group.name}
    return {
        **name,
        "processes": group.processes,
        "exited": group.ended,
        "threads": group.threads,
        "window_cpu_ns": group.window_cpu_ns,
        "window_read_bytes": group.window_read_bytes,
        "window_written_bytes": group.window_written_bytes,
        "rss_bytes": group.rss_bytes,
        "swap_bytes": group.swap_bytes,
    }


def rfc3339(moment: datetime) -> str:
    """Return a moment in UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _facts(machine: Machine) -> Record:
    newest = machine.readings[-1].stream
    cpu, load, memory = machine.cpu, machine.load, machine.memory
    return {
        "streams": [reading.stream.stream for reading in machine.readings],
        "boot_id": newest.boot_id,
        "kernel": newest.kernel,
        "sampled_at": rfc3339(machine.newest.at),
        "seq": machine.newest.seq,
        "keyframe_at": rfc3339(machine.keyframe.at) if machine.keyframe else None,
        **_coverage(machine.coverage),
        "cpu": None if cpu is None else {"seconds": cpu.seconds, "booted": cpu.booted, **cpu.modes},
        "load": (
            None
            if load is None
            else {"load1": load.load1, "load5": load.load5, "load15": load.load15, "cpus": load.cpus}
        ),
        "memory": (
            None
            if memory is None
            else {
                "sampled_at": rfc3339(memory.tick.at),
                "total_bytes": memory.total_bytes,
                "free_bytes": memory.free_bytes,
                "available_bytes": memory.available_bytes,
                "cached_bytes": memory.cached_bytes,
                "buffers_bytes": memory.buffers_bytes,
                "swap_total_bytes": memory.swap_total_bytes,
                "swap_free_bytes": memory.swap_free_bytes,
            }
        ),
        "processes": {"total": machine.counts.total, "threads": machine.counts.threads, **machine.counts.states},
    }


def _coverage(coverage: Coverage) -> Record:
    return {
        "samples": coverage.samples,
        "missing_samples": coverage.missing,
        "covered_seconds": round(coverage.seconds, 3),
        "gaps": [
            {"after": rfc3339(gap.after), "before": rfc3339(gap.before), "missing_samples": gap.missing}
            for gap in coverage.gaps
        ],
        "clock_steps": [
            {"at": rfc3339(moment), "back_seconds": back.total_seconds()} for moment, back in coverage.steps
        ],
    }


def _row(row: ProcessRow) -> Record:
    return {
        "pid": row.pid,
        "start_ticks": row.start_ticks,
        "started_at": _optional_time(row.names.started_at),
        "sampled_at": rfc3339(row.tick.at),
        "exited": row.exited,
        "command": row.names.command,
        "uid": row.names.uid,
        "ppid": row.names.ppid,
        "cgroup": row.names.cgroup,
        "state": row.state,
        "threads": row.threads,
        "cpu_ns": row.cpu_ns,
        "user_ns": row.user_ns,
        "rss_bytes": row.rss_bytes,
        "virtual_bytes": row.virtual_bytes,
        "swap_bytes": row.swap_bytes,
        "read_bytes": row.read_bytes,
        "written_bytes": row.written_bytes,
        "minor_faults": row.minor_faults,
        "major_faults": row.major_faults,
        "voluntary_switches": row.voluntary_switches,
        "involuntary_switches": row.involuntary_switches,
    }


def _step(step: Step) -> Record:
    found: Record = dict.fromkeys(STEP_FIELDS) if step.row is None else _row(step.row)
    found |= {
        "after": rfc3339(step.after),
        "until": rfc3339(step.until),
        "samples": step.samples,
        "window_cpu_ns": step.cpu_ns,
        "window_read_bytes": step.read_bytes,
        "window_written_bytes": step.written_bytes,
    }
    return {name: found[name] for name in STEP_FIELDS}


def _optional_time(moment: datetime | None) -> str | None:
    return None if moment is None else rfc3339(moment)


def _document(value: Record) -> str:
    # ensure_ascii, the default: a command's control characters reach no terminal
    return json.dumps(value, indent=2) + "\n"


def _csv(records: Iterable[Record]) -> str:
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for record in records:
        if writer is None:
            writer = csv.DictWriter(text, list(record))
            writer.writeheader()
        writer.writerow({name: _cell(value) for name, value in record.items()})
    return text.getvalue()


def _cell(value: Value) -> Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    return escaped(value) if isinstance(value, str) else value
