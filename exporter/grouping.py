"""The rule that puts each process into a group: a table in, a label a row out.

A rule is a function, so that another one (rules of the user's, in `exporter.rules`) needs no change in what follows
groups.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from exporter.model import ProcessTable, command_text

OTHER: Final = "other"
"""The group of all that have no name of their own."""

_KTHREADD: Final = 2
"""The parent of every thread of the kernel, and one itself (`kthreadd_pid`, init/main.c)."""

_STEM: Final = re.compile(r"[^/:]+")


@dataclass(frozen=True, slots=True)
class Grouped:
    """A table cut into groups: `labels` are distinct and none is `OTHER`; `positions` gives each row's label."""

    labels: list[str]
    positions: NDArray[np.intp]


Rule = Callable[[ProcessTable], Grouped]


def by_command(table: ProcessTable) -> Grouped:
    """Group by command, as `command_label` names it; what comes out alike is one group."""
    commands, codes = np.unique(table.records["command"], return_inverse=True)
    keys, index = np.unique(codes * 2 + kernel_threads(table), return_inverse=True)
    labels: dict[str, int] = {}
    texts = commands.tolist()
    mapping = [
        labels.setdefault(command_label(texts[key >> 1], kernel_thread=bool(key & 1)), len(labels))
        for key in keys.tolist()
    ]
    return Grouped(list(labels), np.array(mapping, dtype=np.intp)[index])


def command_label(command: bytes, *, kernel_thread: bool) -> str:
    """Return the group of a command: its text, so that those that differ only in bytes that are not UTF-8 are one.

    A thread of the kernel goes by the stem of its name, all before the first `/` or `:`: `kworker/1:0H-kb` is in
    `kworker`. There are hundreds of them on a large machine, and they would take every name that there is. A user's
    process that is called `kworker` is in that group, too.

    A command named `other` is shown as `other (by command)` and one without a name as `(empty command name)`. Both
    are longer than any command can be, so they are no other process's.
    """
    text = command_text(command)
    if kernel_thread:
        stem = _STEM.match(text)
        text = text if stem is None else stem[0]
    return {OTHER: "other (by command)", "": "(empty command name)"}.get(text, text)


def kernel_threads(table: ProcessTable) -> NDArray[np.bool_]:
    """Return which rows are threads of the kernel: process 2 and its children, which have no memory of their own.

    In a container process 2 is someone's program: it has memory, or had some and is a zombie. Then there are none.
    """
    records = table.records
    pids = records["pid"]
    found = np.flatnonzero(pids == _KTHREADD)  # the living come first, the ended after them: pids need not ascend
    if len(found):
        second = records[found[0]]
        if second["virtual_bytes"] != 0 or second["state"] == b"Z":
            return np.zeros(len(records), dtype=np.bool_)
    is_thread: NDArray[np.bool_] = (records["virtual_bytes"] == 0) & (
        (records["ppid"] == _KTHREADD) | (pids == _KTHREADD)
    )
    return is_thread
