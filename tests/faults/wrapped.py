"""Start a program of ours as installed, but for what the campaign must hold in its hand.

    python -P wrapped.py [--clock FILE] [--plant NAME] COMMAND...

`--clock`: the wall clock that Python reads is off by the seconds that FILE holds as a double, at any moment. The
kernel's CLOCK_REALTIME is one for all processes (time namespaces hold only the monotonic clocks, time_namespaces(7)),
and stepping it would step every other program of the machine. `--plant`: a defect, so that a test sees the campaign
find it. No program knows of either; this file is a script of its own so that the package's modules shadow none.
"""

from __future__ import annotations

import argparse
import mmap
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ingest.contract.wire import Feed
from latido import cli


def step_clock(path: Path) -> None:
    """Make `time.time` and `time.time_ns` follow the offset in a file."""
    with path.open("rb") as file:
        offset = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    real, real_ns = time.time, time.time_ns

    def seconds() -> float:
        value: float = struct.unpack_from("d", offset)[0]
        return value

    time.time = lambda: real() + seconds()
    time.time_ns = lambda: real_ns() + round(seconds() * 1e9)


def acknowledge_without_commit() -> None:
    """Let raw answer 201 to every fifth push of web-1, and store nothing."""
    from ingest.contract.wire import Accepted, Push  # noqa: PLC0415 - where it is planted
    from ingest.raw.store import Store  # noqa: PLC0415

    store = Store.store
    pushes = 0

    async def forgetful(self: Store, feed: Feed, push: Push) -> Accepted:
        nonlocal pushes
        pushes += push.host == "web-1"
        if push.host == "web-1" and pushes % 5 == 0:
            return Accepted(len(push.samples), 0)
        return await store(self, feed, push)

    _plant(Store, "store", forgetful)


def forget_a_sample() -> None:
    """Let the spool drop every tenth sample before anyone has it."""
    from exporter.push import spool  # noqa: PLC0415

    pending = spool.Spool.pending

    def forgetful(self: spool.Spool, api: str, feed: Feed, most: int, size: int) -> list[spool.Stored]:
        return [stored for stored in pending(self, api, feed, most, size) if stored.seq % 10]

    _plant(spool.Spool, "pending", forgetful)


def send_another_time() -> None:
    """Let a sample carry another time each time it is sent, so that the database takes it twice."""
    from exporter.push import delivery  # noqa: PLC0415
    from exporter.push.spool import Stored  # noqa: PLC0415

    body = delivery.Envelope.body
    sent = 0

    def restless(self: delivery.Envelope, samples: list[Stored]) -> bytes:
        nonlocal sent
        sent += 1
        return body(self, [moved(one, sent) for one in samples])

    def moved(one: Stored, by: int) -> Stored:
        text = str(one.sampled_at).encode()
        return Stored(one.seq, one.sampled_at, one.body.replace(text, str(one.sampled_at + by).encode(), 1))

    _plant(delivery.Envelope, "body", restless)


def _plant(owner: type, name: str, defect: Callable[..., object]) -> None:
    setattr(owner, name, defect)


PLANTS: Final[Mapping[str, Callable[[], None]]] = {
    "acknowledge-without-commit": acknowledge_without_commit,
    "forget-a-sample": forget_a_sample,
    "send-another-time": send_another_time,
}


def main() -> int:
    """Prepare what is asked for, then become the command."""
    parser = argparse.ArgumentParser(prog="wrapped.py")
    parser.add_argument("--clock", type=Path)
    parser.add_argument("--plant", choices=PLANTS)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if given.clock is not None:
        step_clock(given.clock)
    if given.plant is not None:
        PLANTS[given.plant]()
    return cli.main(given.command)


if __name__ == "__main__":
    sys.exit(main())
