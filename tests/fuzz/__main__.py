"""`python -m tests.fuzz --seconds 180`: fuzz every parser of what others wrote, each for so long.

A failure is an error that is not documented, or an input that takes longer than it may. It is printed with the seed and
number that make it again, and written to a file. Inputs are made from the corpus by a seeded generator.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.fuzz.parsers import Parser, parsers

LONGEST_SECONDS: Final = 2.0
"""Of this thread's CPU time, for one input."""
LONGEST_BYTES: Final = 1 << 18
MAX_EDITS: Final = 8


@dataclass(frozen=True)
class Failure:
    """An input that a parser did not take as it should."""

    parser: str
    number: int
    what: str
    data: bytes

    @property
    def place(self) -> str:
        """Where it happened: the last line of code in the trace, or what it says."""
        places = [line for line in self.what.splitlines() if line.startswith("  File ")]
        return places[-1] if places else "time"


@dataclass
class Report:
    """What was seen of a parser."""

    inputs: int = 0
    taken: int = 0
    slowest_seconds: float = 0.0


def mutated(chance: random.Random, corpus: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """Return an input: one of the corpus with some edits, seldom none at all."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.randint(0, MAX_EDITS)):
        at, length = chance.randint(0, len(data)), chance.randint(1, 16)
        kind = chance.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at:at] = chance.randbytes(length)
        elif kind == 2:
            del data[at : at + chance.choice((1, length, 4096))]
        elif kind == 3 and words:
            data[at : at + chance.choice((0, length))] = chance.choice(words)
        elif kind == 4:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 300))
        elif kind == 5:
            other = chance.choice(corpus)
            data[at:] = other[chance.randint(0, len(other)) :]
        elif kind == 6:
            data[at : at + 8] = chance.choice(
                (bytes(8), b"\xff" * 8, (1 << chance.randrange(64)).to_bytes(8, "little"))
            )
        else:
            del data[at:]
    return bytes(data[:LONGEST_BYTES])


def fuzz(parser: Parser, seed: int, seconds: float, report: Report) -> Iterator[Failure]:
    """Fuzz a parser for so long; yield failures. `report` is filled on the way."""
    chance = random.Random(f"{seed} {parser.name}")  # noqa: S311 - to be made again, not to be secret
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = mutated(chance, parser.corpus, parser.words)
        failure = try_one(parser, data, report)
        report.inputs += 1
        if failure is not None:
            yield Failure(parser.name, report.inputs, failure, data)


def try_one(parser: Parser, data: bytes, report: Report) -> str | None:
    """Return what is wrong with how a parser takes an input, None if nothing is."""
    began = time.thread_time()
    try:
        parser.parse(data)
    except parser.allowed:
        pass
    except Exception:  # noqa: BLE001 - whatever it is, it is not documented
        return traceback.format_exc(limit=-4)
    else:
        report.taken += 1
    took = time.thread_time() - began
    report.slowest_seconds = max(report.slowest_seconds, took)
    return f"it took {took:.1f} s" if took > LONGEST_SECONDS else None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if nothing was found."""
    arguments = argparse.ArgumentParser("python -m tests.fuzz", description=__doc__)
    arguments.add_argument("--seconds", type=float, default=180.0, help="for each parser (default 180)")
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    arguments.add_argument("--only", nargs="+", metavar="PARSER", help="these alone; --list names them")
    arguments.add_argument("--list", action="store_true", help="name the parsers and end")
    given = arguments.parse_args(argv)
    chosen = [parser for parser in parsers() if not given.only or parser.name in given.only]
    if given.list or not chosen:
        sys.stdout.write("".join(f"{parser.name}\n" for parser in parsers()))
        return 0 if given.list else 2
    sys.stdout.write(f"seed {given.seed}\n")
    found = 0
    for parser in chosen:
        report = Report()
        seen: set[str] = set()
        for failure in fuzz(parser, given.seed, given.seconds, report):
            if failure.place not in seen:  # the same once
                seen.add(failure.place)
                with tempfile.NamedTemporaryFile(prefix="latido-fuzz-", delete=False) as file:
                    file.write(failure.data)
                sys.stdout.write(f"{failure.parser}, input {failure.number}, {file.name}:\n{failure.what}\n")
        found += len(seen)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        sys.stdout.write(
            f"{parser.name}: {report.inputs} inputs, {report.taken} taken, the slowest {report.slowest_seconds:.3f} s,"
            f" {len(seen)} failures; at most {peak} MiB\n"
        )
        sys.stdout.flush()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
