"""`kmod`: one read of the modules' table against our own procfs source, which reads stat, status and io.

In a guest of each kernel that Debian 12 offers, over 5,000 sleeping processes, in turn; what is compared is CPU time,
the kernel's share included. The kernel's own share (the read alone), JSON's figure and bytes a process stand beside
it. The guest is that of kmod/tests, QEMU without KVM: ratios hold, milliseconds do not.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import msgspec

from loadtest.benchmarks.guest import SERIES, boot
from loadtest.benchmarks.measure import Ratio, Result, installed, ratio
from loadtest.benchmarks.programs import UnavailableError

KEY = "kmod.procfs_over_kmod"
BAR = 10.0


class Figures(msgspec.Struct, frozen=True):
    """What kmod/tests/guest_exporter.py measured: CPU seconds a read, by kmod, kernel, json and procfs; table sizes."""

    cpu_seconds: dict[str, list[float]]
    processes: int
    binary_bytes: int
    json_bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's flags."""
    parser.add_argument("--processes", type=int, default=5000, help="processes that sleep meanwhile, in the guest")
    parser.add_argument("--series", nargs="+", default=list(SERIES), help="kernels to boot")


def run(given: argparse.Namespace) -> Result:
    """Measure in each guest; the ratio reported is the smallest of their medians. Nine rounds each."""
    raw: dict[str, object] = {}
    ratios: list[Ratio] = []
    for series in given.series:
        try:
            report = boot(series, crowd=given.processes)
        except UnavailableError as error:
            print(f"{series} is left out: {error}", file=sys.stderr)  # noqa: T201 - to the person who runs it
            continue
        figures = msgspec.convert(report.figures, Figures)
        found = ratio(figures.cpu_seconds["procfs"], figures.cpu_seconds["kmod"], BAR)
        ratios.append(found)
        raw[series] = {
            "kernel": report.release,
            "guest_seconds": report.seconds,
            **msgspec.to_builtins(figures),
            **derived(figures),
        }
        print(f"{report.release}: {described(figures, found)}", flush=True)  # noqa: T201 - the benchmark's output
    if not ratios:
        raise UnavailableError("no guest gave figures")
    worst = min(ratios, key=lambda found: found.value)
    return Result("kmod", {KEY: worst}, raw, installed("numpy"))


def derived(figures: Figures) -> dict[str, float]:
    """Return medians in milliseconds of CPU, ratios of medians round by round, and bytes a process."""
    columns = figures.cpu_seconds
    return {
        **{f"{name}_cpu_ms": statistics.median(column) * 1e3 for name, column in columns.items()},
        "procfs_over_json": ratio(columns["procfs"], columns["json"], BAR).value,
        "kernel_share_of_kmod": ratio(columns["kernel"], columns["kmod"], BAR).value,
        "binary_bytes_a_process": figures.binary_bytes / figures.processes,
        "json_bytes_a_process": figures.json_bytes / figures.processes,
    }


def described(figures: Figures, found: Ratio) -> str:
    """Return a line for people."""
    of = derived(figures)
    return (
        f"{figures.processes} processes, median of {found.runs}, CPU ms: kmod {of['kmod_cpu_ms']:.1f} "
        f"(the kernel's own {of['kernel_cpu_ms']:.1f}), JSON {of['json_cpu_ms']:.1f}, "
        f"procfs {of['procfs_cpu_ms']:.1f}; "
        f"procfs over kmod {found.value:.4g}, over JSON {of['procfs_over_json']:.4g}; "
        f"bytes a process: {of['binary_bytes_a_process']:.0f} binary, {of['json_bytes_a_process']:.0f} JSON"
    )
