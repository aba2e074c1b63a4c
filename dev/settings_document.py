"""docs/settings.md: every flag of every command, written from the code that declares it.

`python -m dev.settings_document` rewrites it. What a setting is for stands beside it in the code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bridge_ws.server import BridgeSettings
from exporter.push.spool_command import ChoiceSettings, DropSettings, RetrySettings
from exporter.settings import ExporterSettings
from ingest.orm.app import OrmSettings
from ingest.raw.app import RawSettings
from ingest.schema.downgrade import DowngradeSettings
from ingest.schema.grants import GrantsSettings
from ingest.schema.retain import RetainSettings
from ingest.schema.upgrade import UpgradeSettings
from latido import settings
from latido.cli import COMMANDS
from latido.history.program import HistorySettings
from latido.settings import Described
from latido.status import StatusSettings
from latido.top.program import TopSettings
from loadtest.record import RecordSettings
from loadtest.report import ReportSettings
from loadtest.run import RunSettings
from loadtest.stress.program import StressSettings

ROOT: Final = Path(__file__).parents[1]
DOCUMENT: Final = ROOT / "docs" / "settings.md"

DECLARED: Final[Mapping[str, type[object]]] = {
    "exporter": ExporterSettings,
    "ingest raw": RawSettings,
    "ingest orm": OrmSettings,
    "bridge": BridgeSettings,
    "db upgrade": UpgradeSettings,
    "db downgrade": DowngradeSettings,
    "db retain": RetainSettings,
    "db grants": GrantsSettings,
    "spool list": ChoiceSettings,
    "spool retry": RetrySettings,
    "spool drop": DropSettings,
    "history": HistorySettings,
    "top": TopSettings,
    "record": RecordSettings,
    "loadtest run": RunSettings,
    "loadtest report": ReportSettings,
    "loadtest stress": StressSettings,
    "status": StatusSettings,
}

_HEAD: Final = """\
# Settings

Every flag of every command, written from the code by `python -m dev.settings_document`; do not edit. Each is also a
variable, and a line of a YAML file: `--web.listen-address=HOST:PORT`, `LATIDO_WEB_LISTEN_ADDRESS=HOST:PORT`, and
`web.listen-address: HOST:PORT` in the file that `--config.file` (`LATIDO_CONFIG_FILE`) names. The flag wins over the
variable, and that over the file. A variable takes a repeated setting's values with commas between. Durations are
`500ms`, `5s`, `1h30m`, `7d`; sizes are `64KiB`, `256MiB`, `2GiB`. What is on or off is `--flag` or `--no-flag`, and
`true` or `false` elsewhere.
"""


def rendered() -> str:
    """Return the document."""
    return "\n".join((_HEAD, *(line for name, cls in DECLARED.items() for line in _section(name, cls)))).rstrip() + "\n"


def _section(name: str, cls: type[object]) -> Iterator[str]:
    yield f"## latido {name}"
    yield ""
    yield f"{COMMANDS[name].summary[0].upper()}{COMMANDS[name].summary[1:]}."
    yield ""
    yield "| flag | default | what it is |"
    yield "|---|---|---|"
    for one in settings.described(cls):
        yield _row(one)
    yield ""


def _row(one: Described) -> str:
    flag = f"`--{one.flag}{f'={one.metavar}' if one.metavar else ''}`" + (", repeated" if one.repeated else "")
    default = one.default.replace(f"{ROOT}/", "")  # a file that comes with Latido
    return f"| {flag} | {f'`{default}`' if default else ''} | {one.help.replace('|', chr(92) + '|')} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the document; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.settings_document", description=__doc__.partition("\n")[0])
    parser.parse_args(argv)
    DOCUMENT.write_text(rendered(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
