"""An index on the time of `procesos` samples: a range of time over all hosts, without naming them.

One entry a sample, not one a process. From there `process_samples` is read by whole keys (`ingest.schema.questions`).
Rows can be inserted while it is made (MySQL 8.4, Online DDL Operations).
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import inspect

from ingest.schema import database

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NAME = "sampled_at"


def upgrade() -> None:
    """Add the index, unless an upgrade that was cut off has."""
    if _NAME not in _indexes():
        database.alter(op.get_bind(), f"ALTER TABLE procesos ADD INDEX {_NAME} (sampled_at), LOCK=NONE", "procesos")


def downgrade() -> None:
    """Drop it."""
    if _NAME in _indexes():
        database.alter(op.get_bind(), f"ALTER TABLE procesos DROP INDEX {_NAME}", "procesos")


def _indexes() -> set[str | None]:
    return {index["name"] for index in inspect(op.get_bind()).get_indexes("procesos")}
