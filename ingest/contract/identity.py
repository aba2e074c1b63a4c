"""The number that stands in `process_samples` for what a process was called, by whom run and where.

`processes` keeps each value of these once a day; the number joins the two. A process that goes back to an earlier
value (exec, setuid, a move between cgroups) gets its earlier number back, so the join is exact at any moment.
"""

from __future__ import annotations

from hashlib import blake2b


def identity(command: str, uid: int, cgroup: str | None, ppid: int) -> int:
    """Return 63 bits of BLAKE2b over the four values: never negative, so it fits a signed BIGINT."""
    # NUL parts the values: none of them can hold it but through JSON's \u0000, where a collision costs a name only.
    text = f"{command}\0{uid}\0{'' if cgroup is None else '/' + cgroup}\0{ppid}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
