"""A host's process table at its newest sample: the last keyframe plus what followed (design, section 6). Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ingest.contract.wire import ProcesosSample, Process


class ProcessTable:
    """Every process of one stream, kept current sample by sample.

    `keyframe_seq` is the keyframe it grew from, `seq` the newest sample in it.
    """

    def __init__(self, keyframe: ProcesosSample) -> None:
        self._processes: dict[tuple[int, int], Process] = {}
        self.apply(keyframe)

    def apply(self, sample: ProcesosSample) -> None:
        """Bring the table to a sample; they come in the order of `seq`."""
        if sample.keyframe:
            self._processes.clear()
            self.keyframe_seq = sample.seq
        self.seq = sample.seq
        for process in sample.processes:
            self._processes[process.pid, process.start_ticks] = process
        for process in sample.exited:
            # One that lived shorter than an interval was never in the table.
            self._processes.pop((process.pid, process.start_ticks), None)
        self._newest = sample

    def __len__(self) -> int:
        """Return how many processes there are."""
        return len(self._processes)

    def sample(self) -> ProcesosSample:
        """Return the table as a keyframe: the newest sample's counts, every process by pid, none exited.

        Each process is as the newest sample that carried it said, `cpu_delta_ns` included.
        """
        return msgspec.structs.replace(
            self._newest,
            keyframe=True,
            processes=[self._processes[identity] for identity in sorted(self._processes)],
            exited=[],
        )


def rebuild(samples: Iterable[ProcesosSample]) -> ProcessTable | None:
    """Return the table after samples in the order of `seq`, or None where no keyframe is among them."""
    table: ProcessTable | None = None
    for sample in samples:
        if table is not None:
            table.apply(sample)
        elif sample.keyframe:
            table = ProcessTable(sample)
    return table
