"""A BPF source for tests: opened where the machine allows it, and where not, refused with the documented words."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import ParamSpec

import pytest

from exporter.model import SourceError
from exporter.sources.bpf.loader import BTF, LOCKDOWN, STATUS, Options, is_locked_down, missing_capabilities
from exporter.sources.bpf.source import BpfSource

Opener = Callable[..., BpfSource]
P = ParamSpec("P")


@pytest.fixture
def open_bpf() -> Iterator[Opener]:
    """Return a function that opens sources, which are closed at the end.

    On a machine that cannot load the program the refusal itself is tested, and the rest of the test skipped by name of
    what is missing. Where nothing is missing a refusal is a failure.
    """
    with ExitStack() as stack:

        def open_one(options: Options | None = None) -> BpfSource:
            options = options or Options()
            expected = _refusal()
            if expected is None:
                return stack.enter_context(closing(BpfSource(Path("/proc"), options)))
            with pytest.raises(SourceError, match=expected):
                BpfSource(Path("/proc"), options)
            pytest.skip(f"refused as documented: {expected} (uid {os.geteuid()})")

        yield open_one


def every_end_is_told(source: BpfSource) -> bool:
    """Return whether this kernel runs programs whatever task they interrupt, as Linux does.

    Some virtual machines hide PID 1: it is in no walk, and no tracing program runs while it is the current task, nor
    is that counted as a miss. The kernel frees tasks in batches, from a softirq that may interrupt any task; of a batch
    that interrupts PID 1 no end is told there. Seen on 6.18: 1 to 3 of 400, the same by two independent programs.
    """
    return 1 in source.processes().records["pid"]


class EndNotToldError(AssertionError):
    """An end was waited for in vain."""


def again_where_ends_are_kept(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test of a single process's end again, twice at the most, where the kernel keeps some ends from programs."""

    @functools.wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        for _ in range(2):
            with contextlib.suppress(EndNotToldError):
                return test(*arguments, **named)
            with closing(BpfSource()) as source:
                if every_end_is_told(source):
                    break
        return test(*arguments, **named)

    return run


def _refusal() -> str | None:
    """Return what the message must hold on this machine; None where the program must load."""
    if not BTF.exists():
        return "CONFIG_DEBUG_INFO_BTF"
    lacking = missing_capabilities(STATUS)
    if lacking:
        return f"{' and '.join(lacking)} needed"
    return re.escape(str(LOCKDOWN)) if is_locked_down(LOCKDOWN) else None
