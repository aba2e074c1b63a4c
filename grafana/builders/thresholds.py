"""The numbers that alerts compare with, read from where they stand: a panel turns red where an alert would."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import yaml

FILE: Final = Path(__file__).parent.parent.parent / "prometheus" / "rules" / "thresholds.yml"

_NAME: Final = re.compile(r"latido:(\w+):threshold")
_PRODUCT: Final = re.compile(r"[\d.]+( \* [\d.]+)*")


@cache
def thresholds() -> Mapping[str, float]:
    """Return every threshold by its name, without `latido:` and `:threshold`. Raises ValueError naming a bad rule."""
    document = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    found: dict[str, float] = {}
    for rule in document["groups"][0]["rules"]:
        name, value = _NAME.fullmatch(rule["record"]), str(rule["expr"])
        if name is None or _PRODUCT.fullmatch(value) is None:
            raise ValueError(f"{FILE}: expected latido:NAME:threshold and a number or a product, got {rule}")
        product = 1.0
        for factor in value.split(" * "):
            product *= float(factor)
        found[name[1]] = product
    return found
