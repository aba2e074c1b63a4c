"""bpf(2), the commands that loading and reading take, by ctypes: struct layouts are those of <linux/bpf.h>."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Mapping
from typing import Final

_NUMBERS: Final[Mapping[str, int]] = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
"""Of bpf(2), by machine (asm/unistd.h)."""

# enum bpf_cmd
_MAP_CREATE: Final = 0
_MAP_UPDATE_ELEM: Final = 2
_PROG_LOAD: Final = 5
_PROG_RUN: Final = 10
_RAW_TRACEPOINT_OPEN: Final = 17
_MAP_LOOKUP_BATCH: Final = 24
_LINK_CREATE: Final = 28
_ITER_CREATE: Final = 33

_MAP_TYPE_ARRAY: Final = 2
_PROG_TYPE_SYSCALL: Final = 31
_ATTACH_TRACE_ITER: Final = 28
_F_SLEEPABLE: Final = 1 << 4
_INSTRUCTION_BYTES: Final = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def create_array(name: bytes, value_bytes: int) -> int:
    """Make an array map of one value; return its descriptor. Raises OSError."""
    return _bpf(_MAP_CREATE, struct.pack("<7I16s", _MAP_TYPE_ARRAY, 4, value_bytes, 1, 0, 0, 0, name))[0]


def update_first(descriptor: int, value: bytes) -> None:
    """Set the one value of an array map. Raises OSError."""
    key = ctypes.create_string_buffer(4)
    held = ctypes.create_string_buffer(value, len(value))
    _bpf(_MAP_UPDATE_ELEM, struct.pack("<IxxxxQQQ", descriptor, ctypes.addressof(key), ctypes.addressof(held), 0))


def load_syscall_program(name: bytes, instructions: bytes, map_descriptor: int) -> int:
    """Load a program of type SYSCALL that may use the map as its first; return its descriptor. Raises OSError."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_text = ctypes.create_string_buffer(b"Dual BSD/GPL")
    maps = ctypes.c_int(map_descriptor)
    attributes = struct.pack(
        "<IIQQIIQII16sIIIIQIIQIIIIQ",
        _PROG_TYPE_SYSCALL,
        len(instructions) // _INSTRUCTION_BYTES,
        ctypes.addressof(code),
        ctypes.addressof(license_text),
        *(0, 0, 0),  # log level, size, buffer
        *(0, _F_SLEEPABLE),
        name,
        *(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        ctypes.addressof(maps),
    )
    return _bpf(_PROG_LOAD, attributes)[0]


def run_syscall_program(descriptor: int, context: ctypes.Array[ctypes.c_char]) -> None:
    """Run it on `context`, which it may change. Raises OSError with what it returned, too."""
    attributes = struct.pack(
        "<IIIIQQIIIIQQ", descriptor, 0, 0, 0, 0, 0, 0, 0, len(context), 0, ctypes.addressof(context), 0
    )
    _, after = _bpf(_PROG_RUN, attributes)
    (returned,) = struct.unpack_from("<i", after, 4)
    if returned < 0:
        raise OSError(-returned, os.strerror(-returned))


def attach_iterator(program: int) -> int:
    """Return the descriptor of a link that iterators are made from. Raises OSError."""
    return _bpf(_LINK_CREATE, struct.pack("<IIII48x", program, 0, _ATTACH_TRACE_ITER, 0))[0]


def open_iterator(link: int) -> int:
    """Return a descriptor that gives one walk's bytes. Raises OSError."""
    return _bpf(_ITER_CREATE, struct.pack("<II", link, 0))[0]


def attach_tracepoint(program: int) -> int:
    """Attach a program to the tracepoint that it was loaded for; closing the descriptor detaches it. Raises OSError."""
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("<QI4x", 0, program))[0]


def lookup_all(descriptor: int, key_bytes: int, value_bytes: int, most: int) -> bytes:
    """Return the values of a hash map of at most `most` entries, one after the other. Raises OSError."""
    position = ctypes.create_string_buffer(max(key_bytes, 8))
    keys = ctypes.create_string_buffer(key_bytes * most)
    values = ctypes.create_string_buffer(value_bytes * most)
    attributes = struct.pack(
        "<QQQQIIQQ",
        *(0, ctypes.addressof(position), ctypes.addressof(keys), ctypes.addressof(values)),
        *(most, descriptor, 0, 0),
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    try:
        _call(_MAP_LOOKUP_BATCH, buffer)
    except OSError as error:
        if error.errno != errno.ENOENT:  # the kernel's way to say that these were the last
            raise
    (count,) = struct.unpack_from("<I", buffer.raw, 32)
    return values.raw[: count * value_bytes]


def _bpf(command: int, attributes: bytes) -> tuple[int, bytes]:
    """Return what the call returned, and the attributes as it left them."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _call(command, buffer), buffer.raw


def _call(command: int, buffer: ctypes.Array[ctypes.c_char]) -> int:
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) has no known number on {platform.machine()}")
    result = int(_libc.syscall(number, command, ctypes.byref(buffer), ctypes.c_uint(len(buffer))))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
