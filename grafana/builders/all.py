"""Every dashboard by the name of its file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from grafana.builders import compare, fleet, host, moment, pipeline

OUTPUT: Final = Path(__file__).parent.parent / "dashboards"

DASHBOARDS: Final[Mapping[str, Callable[[], Dashboard]]] = {
    "fleet": fleet.build,
    "host": host.build,
    "moment": moment.build,
    "pipeline": pipeline.build,
    "compare": compare.build,
}


def text(dashboard: Dashboard) -> str:
    """Return a dashboard as it is committed: sorted, so that a change shows as itself."""
    return json.dumps(dashboard, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
