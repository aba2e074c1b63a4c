"""Loads `latido.skeleton` into the kernel and attaches it: what bpftool's light skeleton does, in Python.

One array map with the loader's data, one run of the loader, then a link a program. CAP_BPF and CAP_PERFMON do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exporter.model import SourceError
from exporter.sources.bpf import syscall
from exporter.sources.bpf.skeleton import ARTEFACT, Skeleton, unpack

BTF: Final = Path("/sys/kernel/btf/vmlinux")
LOCKDOWN: Final = Path("/sys/kernel/security/lockdown")
STATUS: Final = Path("/proc/self/status")
NEEDED: Final[Mapping[str, int]] = {"CAP_BPF": 39, "CAP_PERFMON": 38}
"""Capabilities by name and bit (include/uapi/linux/capability.h)."""
SYS_ADMIN: Final = 21
"""CAP_SYS_ADMIN holds both."""

ITERATOR: Final = "dump_process"
_HEAD: Final = struct.Struct("<IIIIQ")
"""struct bpf_loader_ctx: size, flags, log level, size, buffer."""
_MAP: Final = struct.Struct("<iIQ")
"""struct bpf_map_desc: descriptor (out), entries (0: as built), address of the first content."""
_PROGRAM: Final = struct.Struct("<i")
"""struct bpf_prog_desc: descriptor (out)."""
_RODATA: Final = struct.Struct("<II")
"""page_shift and use_thread_iterator of account.h."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is decided when the programs are made."""

    ring_bytes: int = 1 << 21
    """Room for exits between two reads: a power of two of whole pages."""
    thread_iterator: bool = True
    """Whether to use the iterator over threads where the kernel has it (6.7)."""


class Loaded:
    """The programs in the kernel. `maps` are descriptors by name; closing detaches and frees everything."""

    def __init__(self, maps: Mapping[str, int], walk: int, others: list[int]) -> None:
        self.maps = maps
        self._walk = walk
        self._others = others

    def open_walk(self) -> int:
        """Return a descriptor that gives one walk over all processes. Raises OSError."""
        return syscall.open_iterator(self._walk)

    def close(self) -> None:
        """Detach, and free what no map in memory holds any more."""
        for descriptor in (self._walk, *self._others, *self.maps.values()):
            os.close(descriptor)


def load(options: Options = Options(), artefact: Path = ARTEFACT) -> Loaded:
    """Load and attach. Raises SourceError that says what is missing: BTF, a capability, an open kernel."""
    try:
        skeleton = unpack(artefact.read_bytes())
    except (OSError, ValueError) as error:
        raise SourceError(f"{artefact}: cannot be used: {error}") from None
    _check_btf(BTF)
    try:
        with contextlib.ExitStack() as opened:
            maps, programs = _make(skeleton, options)
            for descriptor in (*maps.values(), *programs.values()):
                opened.callback(os.close, descriptor)
            links = {}
            for name, program in programs.items():
                attach = syscall.attach_iterator if name == ITERATOR else syscall.attach_tracepoint
                links[name] = attach(program)
                opened.callback(os.close, links[name])
            opened.pop_all()
    except OSError as error:
        raise SourceError(f"bpf: cannot be loaded: {_reason(error, STATUS, LOCKDOWN)}") from None
    others = [descriptor for name, descriptor in links.items() if name != ITERATOR]
    return Loaded(maps, links[ITERATOR], [*others, *programs.values()])


def _make(skeleton: Skeleton, options: Options) -> tuple[dict[str, int], dict[str, int]]:
    """Run the loader; return the descriptors of maps and programs by name. Raises OSError."""
    head = skeleton.head
    initial = [
        None if each.initial is None else ctypes.create_string_buffer(_content(each.name, each.initial, options))
        for each in head.maps
    ]
    size = _HEAD.size + _MAP.size * len(head.maps) + _PROGRAM.size * len(head.programs)
    size = (size + 7) // 8 * 8
    context = ctypes.create_string_buffer(size)
    _HEAD.pack_into(context, 0, size, 0, 0, 0, 0)
    for index, (each, content) in enumerate(zip(head.maps, initial, strict=True)):
        entries = options.ring_bytes if each.name == "ring" else 0
        address = 0 if content is None else ctypes.addressof(content)
        _MAP.pack_into(context, _HEAD.size + index * _MAP.size, 0, entries, address)

    data = syscall.create_array(b"latido.loader", len(skeleton.data))
    try:
        syscall.update_first(data, skeleton.data)
        loader = syscall.load_syscall_program(b"latido_loader", skeleton.instructions, data)
        try:
            syscall.run_syscall_program(loader, context)
        finally:
            os.close(loader)
    finally:
        os.close(data)

    maps = {each.name: _MAP.unpack_from(context, _HEAD.size + i * _MAP.size)[0] for i, each in enumerate(head.maps)}
    start = _HEAD.size + _MAP.size * len(head.maps)
    programs = {
        name: _PROGRAM.unpack_from(context, start + i * _PROGRAM.size)[0] for i, name in enumerate(head.programs)
    }
    return maps, programs


def _content(name: str, built: bytes, options: Options) -> bytes:
    """Return the first content of a map of variables."""
    if name != "rodata":
        return built
    page_shift = (os.sysconf("SC_PAGE_SIZE") - 1).bit_length()
    return _RODATA.pack(page_shift, options.thread_iterator) + built[_RODATA.size :]


def _check_btf(path: Path) -> None:
    if not path.exists():
        raise SourceError(
            f"bpf: {path} is not there: the kernel ({platform.release()}) was built without CONFIG_DEBUG_INFO_BTF"
        )


def _reason(error: OSError, status: Path, lockdown: Path) -> str:
    """Say what the kernel's refusal means here."""
    if error.errno in {errno.EPERM, errno.EACCES}:
        lacking = missing_capabilities(status)
        if lacking:
            return f"{' and '.join(lacking)} needed (or run as root)"
        if is_locked_down(lockdown):
            return f"{lockdown} is `confidentiality`: this kernel lets nobody read it"
        return f"{error.strerror}, though CAP_BPF and CAP_PERFMON are held: a security policy forbids it"
    if error.errno == errno.ENOSYS:
        return f"this kernel has no bpf(2): {error.strerror}"
    return f"{error.strerror} (kernel {platform.release()}; 5.19 or newer is needed)"


def missing_capabilities(status: Path) -> list[str]:
    """Return which of NEEDED this process lacks, by CapEff of /proc/PID/status."""
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            held = int(value, 16)
            if held >> SYS_ADMIN & 1:
                return []
            return [name for name, bit in NEEDED.items() if not held >> bit & 1]
    return []


def is_locked_down(lockdown: Path) -> bool:
    """Return whether kernel_lockdown(7) is at `confidentiality`, which forbids BPF to read kernel memory."""
    try:
        return "[confidentiality]" in lockdown.read_text()
    except OSError:
        return False  # built without it, or securityfs is not mounted
