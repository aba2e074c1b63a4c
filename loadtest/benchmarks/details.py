"""What the page of results shows of each benchmark beside its ratios: tables of its raw figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

Raw = Mapping[str, Any]
"""The `raw` of a results file: its shape is that of the benchmark's own module."""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    head: tuple[str, ...]
    rows: Sequence[Sequence[str]]

    def lines(self) -> Iterator[str]:
        """Yield it as Markdown."""
        yield f"| {' | '.join(self.head)} |"
        yield f"|{'---|' * len(self.head)}"
        for row in self.rows:
            yield f"| {' | '.join(row)} |"


def figure(value: float) -> str:
    """Return a number with three digits, or with as many as tell it from 1 or from other thousands."""
    if abs(value) >= 1000:  # noqa: PLR2004 - from there on thousands are set apart
        return f"{value:,.0f}"
    if 0.999 < value < 1:  # noqa: PLR2004 - shares: 0.99997 is not 1
        return f"{value:.5f}"
    return f"{value:.3g}"


def spread(column: Sequence[float], unit: str = "", factor: float = 1.0) -> tuple[str, str]:
    """Return a median and its spread."""
    low, high = figure(factor * min(column)), figure(factor * max(column))
    return _median(column, unit, factor), f"{low} to {high}"


def _median(column: Sequence[float], unit: str = "", factor: float = 1.0) -> str:
    return figure(factor * statistics.median(column)) + (f" {unit}" if unit else "")


def _scrape(raw: Raw) -> Iterator[Table]:
    rows = [
        (
            _contender(name),
            *spread(column, "ms", 1000),
            _median(raw["wall_seconds"][name], "ms", 1000) if name in raw["wall_seconds"] else "",
            f"{figure(raw['resident_mib'][name])} MiB" if name in raw["resident_mib"] else "",
            f"{figure(raw['bytes'][name] / 1024)} KiB" if name in raw["bytes"] else "",
        )
        for name, column in raw["cpu_seconds"].items()
    ]
    yield Table(("contender", "CPU of a scrape", "spread", "wall", "resident", "answer"), rows)


def _growth(raw: Raw) -> Iterator[Table]:
    medians, busy = raw["median_cpu_seconds"], raw["busy_median_cpu_seconds"]
    names = list(medians)
    sizes = sorted({int(size) for column in medians.values() for size in column})
    lines = [
        (f"{size:,}", {name: column[str(size)] for name, column in medians.items() if str(size) in column})
        for size in sizes
    ]
    if busy:
        lines.append((f"{raw['sizes']['busy']['busy']:,} busy", busy))
    rows = [
        (
            label,
            *(f"{figure(1000 * line[name])} ms" if name in line else "" for name in names),
            figure(line["process-exporter"] / line["bpf"]) if {"process-exporter", "bpf"} <= line.keys() else "",
        )
        for label, line in lines
    ]
    yield Table(("processes", *map(_contender, names), "process-exporter over `bpf`"), rows)


def _encode(raw: Raw) -> Iterator[Table]:
    rows = [
        (f"{int(samples):,}", _median(columns["ours"], "µs", 1e6), _median(columns["generate_latest"], "µs", 1e6))
        for samples, columns in raw["cpu_seconds_a_sample"].items()
    ]
    yield Table(("samples", "CPU a sample, ours", "`generate_latest`"), rows)


def _exits(raw: Raw) -> Iterator[Table]:
    rows = []
    for place, rounds in raw.items():
        if not isinstance(rounds, list):
            continue
        shares = {
            name: statistics.median(one["shares"][name] for one in rounds)
            for name in rounds[0]["shares"]
            if all(name in one["shares"] for one in rounds)
        }
        told = ", ".join(f"{_contender(name)} {100 * share:.5g}%" for name, share in shares.items())
        cpu = _median([one["cpu_seconds"] for one in rounds], "s")
        rows.append((place, f"{len(rounds)} of {rounds[0]['ended']} ends, {cpu}", told))
    yield Table(("where (a kernel: its guest)", "storms, CPU of each", "share of it that was seen, median"), rows)


def _kmod(raw: Raw) -> Iterator[Table]:
    rows = [
        (
            f"{one['kernel']}, {one['processes']:,} processes",
            *(f"{figure(one[f'{name}_cpu_ms'])} ms" for name in ("kmod", "kernel", "json", "procfs")),
            *spread([t / m for t, m in zip(one["cpu_seconds"]["procfs"], one["cpu_seconds"]["kmod"], strict=True)]),
            f"{figure(one['binary_bytes_a_process'])}, {figure(one['json_bytes_a_process'])}",
        )
        for one in raw.values()
    ]
    head = ("guest", "`kmod`", "the kernel's own share", "JSON", "`procfs`", "`procfs` over `kmod`", "spread")
    yield Table((*head, "bytes a process, binary and JSON"), rows)


_INGEST: Final = {
    "load_data": "`LOAD DATA LOCAL` of the same rows",
    "raw": "raw, process tables",
    "orm": "orm, process tables",
    "small_raw": "raw, `cpu` posts",
    "small_orm": "orm, `cpu` posts",
    "small_naive": "one INSERT, one commit a request, `cpu` posts",
    "small_naive_wide": "the same over a wider pool",
}
_STAGES: Final = ("decode_ms", "queue_ms", "insert_ms", "commit_ms", "cpu_ms_a_push")


def _ingest(raw: Raw) -> Iterator[Table]:
    reports = {name: runs[1:] for name, runs in raw["runs"].items()}  # the first round warms up
    rows = [
        (
            _INGEST.get(name, name),
            *spread(column),
            *(_median([run[key] for run in reports[name]], "ms") for key in ("p50_ms", "p99_ms")),
        )
        for name, column in raw["rates"].items()
    ]
    yield Table(("contender", "rows/s", "spread", "p50", "p99"), rows)
    rows = []
    for name, runs in reports.items():
        shared = [run["requests"] / run["transactions"] for run in runs if run.get("transactions")]
        cells = (_median([run[key] for run in runs], "ms") if key in runs[0] else "" for key in _STAGES)
        if "cpu_ms_a_push" in runs[0]:
            rows.append((_INGEST.get(name, name), _median(shared) if shared else "", *cells))
    yield Table(
        ("contender", "pushes a transaction", "decode", "queue", "insert", "commit", "CPU of the API a push"), rows
    )


def _fanout(raw: Raw) -> Iterator[Table]:
    sizes = {name: forms for name, forms in raw.items() if "_clients_" in name}
    names = list(dict.fromkeys(name for forms in sizes.values() for column in forms.values() for name in column))
    rows = []
    for size, forms in sizes.items():
        clients, _, length = size.partition("_clients_")
        for form, columns in forms.items():
            cpu = [
                _median([one["cpu_us_per_message"] for one in columns[name]]) if name in columns else ""
                for name in names
            ]
            late = [_median([one["p99_ms"] for one in columns[name]], "ms") for name in ("ours", "limit")]
            rows.append((f"{int(clients):,}, {length}", form, *cpu, *late))
    yield Table(("clients, size", "form", *(f"{name}, µs" for name in names), "p99, ours", "p99, limit"), rows)
    others = {"ours": statistics.median(raw["idle_kib"]), **raw["idle_kib_of_others"]}
    yield Table(("an idle client of", *others), [("takes", *(f"{figure(kib)} KiB" for kib in others.values()))])


def _latency(raw: Raw) -> Iterator[Table]:
    rows = [(name, *spread(raw[key], "ms")) for name, key in (("p50", "p50_ms"), ("p99", "p99_ms"))]
    yield Table(("of each page's samples", "median of the pages", "spread"), rows)


def _page(raw: Raw) -> Iterator[Table]:
    rows = [
        ("longest task", *spread(raw["longest_task_ms"], "ms")),
        ("frame to frame, p99", *spread(raw["frame_p99_ms"], "ms")),
        ("the same on an empty page", *spread(raw["empty_frame_p99_ms"], "ms")),
    ]
    yield Table(("figure", "median of the pages", "spread"), rows)


def _rows(raw: Raw) -> Iterator[Table]:
    warm, cold = raw["seconds_warm"], raw["seconds_cold"]
    rows = [
        (
            f"`{name}`",
            *spread(column, "s"),
            _median(raw["cpu_seconds_warm"][name][-len(column) :], "s") if raw["cpu_seconds_warm"].get(name) else "",
            _median(cold[name], "s") if cold.get(name) else "",
        )
        for name, column in warm.items()
        if not name.startswith("panel_")
    ]
    panels = {name: statistics.median(column) for name, column in warm.items() if name.startswith("panel_")}
    if panels:
        slowest = max(panels, key=lambda name: panels[name])
        rows.append((f"slowest of {len(panels)} panels: `{slowest}`", *spread(warm[slowest], "s"), "", ""))
    yield Table((f"question over {raw['rows']:,} rows", "warm", "spread", "CPU", "cold"), rows)


def _contender(name: str) -> str:
    source, _, rest = name.partition(" ")
    return f"Latido `{source}`" + (f" {rest}" if rest else "") if source in {"bpf", "procfs", "kmod"} else name


DETAILS: Final[Mapping[str, Callable[[Raw], Iterator[Table]]]] = {
    "scrape": _scrape,
    "growth": _growth,
    "encode": _encode,
    "exits": _exits,
    "kmod": _kmod,
    "ingest": _ingest,
    "fanout": _fanout,
    "latency": _latency,
    "page": _page,
    "rows": _rows,
}
