"""The rules with time running faster, for a drill: `for`, ranges and offsets are a part of what is written.

Sixty times faster a quarter of an hour is 15 s. Thresholds stay as they are, but those that are themselves waiting
times.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import yaml

RULES: Final = Path(__file__).parent.parent.parent / "prometheus" / "rules"
WAITING: Final = {"latido:spool_oldest_sample_age_seconds:threshold", "latido:push_silence_seconds:threshold"}

_TIME: Final = re.compile(r"(?P<before>\[|offset )(?P<time>\d+[smh])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def faster(document: dict[str, Any], times: float) -> dict[str, Any]:
    """Return a file of rules in which time runs so many times faster."""

    def shorter(written: str) -> str:
        return f"{round(seconds(written) * 1000 / times)}ms"

    for group in document["groups"]:
        for rule in group["rules"]:
            rule["expr"] = _TIME.sub(lambda found: found["before"] + shorter(found["time"]), str(rule["expr"]))
            if "for" in rule:
                rule["for"] = shorter(rule["for"])
            if rule.get("record") in WAITING:
                rule["expr"] = f"({rule['expr']}) / {times}"
    return document


def seconds(written: str) -> int:
    """Return a length of time as rules write it, in seconds."""
    return int(written[:-1]) * _SECONDS[written[-1]]


def write_faster(folder: Path, times: float) -> Path:
    """Write all rules, so many times faster, into a folder, and return the pattern that names them."""
    folder.mkdir()
    for path in RULES.glob("*.yml"):
        document = faster(yaml.safe_load(path.read_text(encoding="utf-8")), times)
        (folder / path.name).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return folder / "*.yml"


def alerts() -> dict[str, dict[str, Any]]:
    """Return every alert as written, by name, with the file's stem as `topic`."""
    return {
        rule["alert"]: {**rule, "topic": path.stem}
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }


def records() -> dict[str, str]:
    """Return every recorded series by name, with its expression."""
    return {
        rule["record"]: str(rule["expr"])
        for path in sorted(RULES.glob("*.yml"))
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
