"""Limits on everything that an ingest API reads. A body beyond one gets a documented answer; nothing is cut."""

from typing import Final

MAX_COMPRESSED_BYTES: Final = 8 << 20
MAX_INFLATED_BYTES: Final = 64 << 20
MAX_VALUES: Final = 5_000_000
"""JSON values in a body, about: a body of `[],[],…` takes thirty times its size in memory. Those of a good body with
their names take 14 bytes and more each, so that none within MAX_INFLATED_BYTES has so many."""
MAX_SAMPLES: Final = 1_000
MAX_PROCESSES: Final = 20_000
"""In one sample, `processes` and `exited` together."""
MAX_CORES: Final = 8_192
"""NR_CPUS of the largest x86-64 configuration (arch/x86/Kconfig, MAXSMP)."""

MAX_HOST_LENGTH: Final = 253
"""RFC 1035 section 2.3.4, as text without the root's dot."""
MAX_KERNEL_LENGTH: Final = 255
MAX_COMMAND_LENGTH: Final = 64
"""comm is 15 bytes; worker threads of the kernel show up to 63 in /proc (fs/proc/array.c, proc_task_name)."""
MAX_CGROUP_LENGTH: Final = 1_024

INT64_MAX: Final = 2**63 - 1
INT32_MAX: Final = 2**31 - 1
UINT32_MAX: Final = 2**32 - 1
MAX_SAMPLED_AT: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, where DATETIME ends."""

TRANSACTION_SECONDS: Final = 10.0
"""No transaction of an API lasts longer; the bridge's overlap relies on it."""
