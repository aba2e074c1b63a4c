"""The default rule: by command, threads of the kernel by the stem of theirs."""

from __future__ import annotations

import os
from contextlib import closing

import numpy as np
import pytest

from exporter.grouping import by_command, kernel_threads
from exporter.model import ProcessTable
from exporter.sources.procfs import ProcfsSource
from exporter.tests.tables import Row, kernel_thread, labels, table


@pytest.mark.parametrize(
    ("command", "group"),
    [
        (b"kworker/1:0H-kb", "kworker"),
        (b"kworker/u8:2-ev", "kworker"),
        (b"cpuhp/0", "cpuhp"),
        (b"irq/24-ACPI:Ged", "irq"),
        (b"jbd2/sda1-8", "jbd2"),
        (b"mm:percpu", "mm"),
        (b"rcu_preempt", "rcu_preempt"),
        (b"/odd", "/odd"),
        (b"other", "other (by command)"),
    ],
)
def test_thread_of_the_kernel_goes_by_its_stem(command: bytes, group: str) -> None:
    assert labels(by_command(table(kernel_thread(2, b"kthreadd"), kernel_thread(9, command)))) == ["kthreadd", group]


def test_user_s_process_goes_by_its_whole_command() -> None:
    rows = (Row(8, b"sshd: root@pts", ppid=2), Row(9, b"a/b:c"))
    assert labels(by_command(table(kernel_thread(2, b"kthreadd"), *rows)))[1:] == ["sshd: root@pts", "a/b:c"]


def test_user_s_process_called_as_a_thread_of_the_kernel_is_in_its_group() -> None:
    rows = (kernel_thread(2, b"kthreadd"), kernel_thread(5, b"kworker/0:1"), Row(900, b"kworker"))
    assert labels(by_command(table(*rows))) == ["kthreadd", "kworker", "kworker"]


@pytest.mark.parametrize("second", [Row(2, b"init"), Row(2, b"init", virtual_bytes=0, state=b"Z")])
def test_child_of_a_user_s_process_2_is_no_thread_of_the_kernel(second: Row) -> None:
    """In a container any program can be process 2, and its dead children have no memory either."""
    zombie = Row(9, b"a/b", ppid=2, virtual_bytes=0, state=b"Z")
    assert labels(by_command(table(second, zombie))) == ["init", "a/b"]


def test_rows_of_processes_that_ended_follow_those_that_live() -> None:
    living = table(kernel_thread(2, b"kthreadd"), kernel_thread(90, b"kworker/0:1"), Row(91, b"sh"))
    ended = table(kernel_thread(12, b"kworker/3:1"), Row(17, b"a/b", virtual_bytes=0))
    both = ProcessTable(np.concatenate([living.records, ended.records]), living.cgroups)
    assert labels(by_command(both)) == ["kthreadd", "kworker", "sh", "kworker", "a/b"]


def test_kernel_says_the_same_of_its_threads() -> None:
    """Of this machine: field 9 of /proc/PID/stat has the bit PF_KTHREAD (include/linux/sched.h)."""
    with closing(ProcfsSource()) as source:
        processes = source.processes()
    found = dict(zip(processes.records["pid"].tolist(), kernel_threads(processes).tolist(), strict=True))
    flags: dict[int, bool] = {}
    for pid in found:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - as short as it gets
                flags[pid] = bool(int(file.read().rpartition(b")")[2].split()[6]) & 0x00200000)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    assert os.getpid() in flags
    assert {pid: found[pid] for pid in flags} == flags


def test_no_process_has_no_group() -> None:
    assert labels(by_command(table())) == []
