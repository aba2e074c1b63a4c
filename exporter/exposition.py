"""Our own encoder of expositions, text 0.0.4 and OpenMetrics 1.0, byte for byte what prometheus-client writes.

A family is columns: the rows' label values, and one list of values. What does not change between scrapes (names, labels
and their escapes) is kept as ready prefixes; numbers are formatted in one call for a whole family. prometheus-client
(`generate_latest`) stays the reference in tests, and encodes the exporter's own counters.

Formats: https://prometheus.io/docs/instrumenting/exposition_formats/ and OpenMetrics 1.0 (text).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import add
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

Labels = tuple[str, ...]

_PLAIN_BELOW: Final = 1e6
"""Go's %g and so floatToGoString turn to exponents at seven digits before the point."""
_PLAIN_FROM: Final = 1e-4
"""repr() turns to exponents below this; from here on msgspec's shortest form is the same text."""
_EXACT: Final = 2.0**53
_EXPONENTS: Final = tuple(f"e+{digits - 1:02d}" for digits in range(17))
"""By how many digits a whole number below _EXACT has."""


class Kind(Enum):
    """The type of a family, and the suffix of its samples."""

    GAUGE = ("gauge", "")
    COUNTER = ("counter", "_total")
    INFO = ("info", "_info")

    @property
    def type_name(self) -> str:
        """The word after `# TYPE` in OpenMetrics."""
        return self.value[0]

    @property
    def suffix(self) -> str:
        """What a sample's name has beyond the family's."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Family:
    """A metric family: `values[i]` is the sample whose label values are `labels[i]`, in the order of `label_names`.

    `name` is without `_total` or `_info`. An info family's values are 1. Label names ascend, as they are written.
    """

    name: str
    kind: Kind
    documentation: str
    values: Sequence[float]
    label_names: Labels = ()
    labels: tuple[Labels, ...] = ((),)

    def __post_init__(self) -> None:
        """Refuse columns of unequal length and label names out of order: both would be written wrong silently."""
        if len(self.values) != len(self.labels):
            raise ValueError(f"{self.name}: {len(self.values)} values, {len(self.labels)} rows of labels")
        if list(self.label_names) != sorted(self.label_names):
            raise ValueError(f"{self.name}: label names must ascend, got {', '.join(self.label_names)}")


class Encoder:
    """Encodes families; keeps the prefixes of the last scrape's rows, and only those."""

    def __init__(self) -> None:
        self._prefixes: dict[str, tuple[Labels, tuple[Labels, ...], list[str]]] = {}

    def text(self, families: Iterable[Family]) -> bytes:
        """Return text 0.0.4 (`text/plain; version=0.0.4`)."""
        return self._encode(list(families), _text_head)

    def openmetrics(self, families: Iterable[Family]) -> bytes:
        """Return OpenMetrics 1.0 without its end, `# EOF`: the exporter's own counters come behind it."""
        return self._encode(list(families), _openmetrics_head)

    def _encode(self, families: Sequence[Family], head: Callable[[Family], str]) -> bytes:
        # All values at once: most families are small, and each call of numpy's costs as much as a hundred values.
        texts = numbers([value for family in families for value in family.values])
        parts: list[str] = []
        start = 0
        for family in families:
            parts.append(head(family))
            end = start + len(family.values)
            if end > start:
                parts.append("\n".join(map(add, self._rows(family), texts[start:end])))
                parts.append("\n")
            start = end
        return "".join(parts).encode()

    def _rows(self, family: Family) -> list[str]:
        """Return what stands before each value: name, labels and a blank."""
        labels = family.labels
        name = family.name + family.kind.suffix
        kept = self._prefixes.get(name)
        # Often the very same object, where a collector keeps its rows; else compared.
        if kept is not None and kept[0] == family.label_names and (kept[1] is labels or kept[1] == labels):
            return kept[2]
        if family.label_names:
            template = ",".join(f'{label}="%s"' for label in family.label_names)
            start = f"{name}{{{template}}} "
            prefixes = [start % tuple(map(_escape, row)) for row in labels]
        else:
            prefixes = [f"{name} "] * len(labels)
        self._prefixes[name] = (family.label_names, labels, prefixes)
        return prefixes


def _text_head(family: Family) -> str:
    # The older format has no info type, and names counters with their suffix.
    name = family.name + family.kind.suffix
    type_name = "gauge" if family.kind is Kind.INFO else family.kind.type_name
    help_text = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
    return f"# HELP {name} {help_text}\n# TYPE {name} {type_name}\n"


def _openmetrics_head(family: Family) -> str:
    return f"# HELP {family.name} {_escape(family.documentation)}\n# TYPE {family.name} {family.kind.type_name}\n"


def numbers(values: Sequence[float]) -> list[str]:
    """Return each value as prometheus-client's floatToGoString writes it."""
    column = np.asarray(values, dtype=np.float64)
    whole = (column >= _PLAIN_BELOW) & (column < _EXACT) & (column == np.floor(column))
    if whole.all():  # a family of sizes in bytes
        return _large(column)
    size = np.abs(column)
    plain = (size < _PLAIN_BELOW) & ((size >= _PLAIN_FROM) | (size == 0))
    texts = _json(column.tolist())
    if not plain.all():
        for i, text in zip(np.flatnonzero(whole).tolist(), _large(column[whole]), strict=True):
            texts[i] = text
        for i in np.flatnonzero(~plain & ~whole).tolist():
            texts[i] = _number(float(column[i]))
    return texts


def _json(values: list[float] | list[int]) -> list[str]:
    # One call for all: a loop over repr() takes four times as long.
    return msgspec.json.encode(values).decode()[1:-1].split(",") if values else []


def _large(column: NDArray[np.float64]) -> list[str]:
    """Return whole numbers from _PLAIN_BELOW to _EXACT with their exponents."""
    return [
        f"{digits[0]}.{digits[1:]}".rstrip("0.") + _EXPONENTS[len(digits)]
        for digits in _json(column.astype(np.int64).tolist())
    ]


def _number(value: float) -> str:
    if value == np.inf:
        return "+Inf"
    if value == -np.inf:
        return "-Inf"
    if value != value:  # noqa: PLR0124 - the definition of NaN
        return "NaN"
    text = repr(value)
    point = text.find(".")
    if value > 0 and point > 6:  # noqa: PLR2004 - _PLAIN_BELOW, in digits
        mantissa = f"{text[0]}.{text[1:point]}{text[point + 1 :]}".rstrip("0.")
        return f"{mantissa}e+{point - 1:02d}"
    return text


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
