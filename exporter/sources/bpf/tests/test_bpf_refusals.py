"""What a refusal of the kernel's is said to mean: a line that names what is missing."""

from __future__ import annotations

import errno
import os
import platform
from pathlib import Path

import pytest

from exporter.model import SourceError
from exporter.sources.bpf import loader

NOBODY = "Name:\tlatido\nCapEff:\t0000000000000000\n"
HELD = f"CapEff:\t{1 << 38 | 1 << 39:016x}\n"
OPEN, LOCKED = "none [integrity] confidentiality\n", "none integrity [confidentiality]\n"


@pytest.mark.parametrize(
    ("code", "status", "lockdown", "expected"),
    [
        (errno.EPERM, NOBODY, OPEN, "CAP_BPF and CAP_PERFMON needed (or run as root)"),
        (errno.EACCES, f"CapEff:\t{1 << 39:016x}\n", OPEN, "CAP_PERFMON needed (or run as root)"),
        (errno.EPERM, HELD, LOCKED, "{lockdown} is `confidentiality`: this kernel lets nobody read it"),
        (
            errno.EPERM,
            f"CapEff:\t{1 << 21:016x}\n",
            OPEN,
            "Operation not permitted, though CAP_BPF and CAP_PERFMON are held: a security policy forbids it",
        ),
        (errno.ENOSYS, HELD, OPEN, "this kernel has no bpf(2): Function not implemented"),
        (errno.EINVAL, HELD, OPEN, f"Invalid argument (kernel {platform.release()}; 5.19 or newer is needed)"),
    ],
)
def test_refusal_names_what_is_missing(tmp_path: Path, code: int, status: str, lockdown: str, expected: str) -> None:
    (tmp_path / "status").write_text(status)
    (tmp_path / "lockdown").write_text(lockdown)
    said = loader._reason(OSError(code, os.strerror(code)), tmp_path / "status", tmp_path / "lockdown")
    assert said == expected.format(lockdown=tmp_path / "lockdown")


def test_kernel_without_lockdown_is_open(tmp_path: Path) -> None:
    assert not loader.is_locked_down(tmp_path / "none")


def test_kernel_without_btf_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        loader._check_btf(tmp_path / "vmlinux")
    assert str(caught.value) == (
        f"bpf: {tmp_path}/vmlinux is not there: the kernel ({platform.release()}) was built without "
        "CONFIG_DEBUG_INFO_BTF"
    )
