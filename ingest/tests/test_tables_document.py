"""docs/tables.md names every table and column that there is, in their order, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from ingest.schema import partitions
from ingest.tests.clients import Database
from latido import settings


def test_every_table_and_column_is_documented(repository: Path, tables: str) -> None:
    text = (repository / "docs/tables.md").read_text(encoding="utf-8")
    documented = {
        section.partition("`")[0]: re.findall(r"^\| `(\w+)` \| \S", section, re.MULTILINE)
        for section in text.split("\n## `")[1:]
    }
    view = Database(settings.dsn(tables))
    columns = {
        table: [str(row["Field"]) for row in view.rows(f"SHOW COLUMNS FROM {table}")]
        for table in ("hosts", *partitions.PARTITIONED)
    }
    view.close()
    assert documented == columns
