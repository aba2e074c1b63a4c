"""Run revisions over the connection that `ingest.schema.upgrade` hands in; Alembic calls this file."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

VERSION_TABLE = "latido_schema_version"
"""Not `alembic_version`: the database may be shared with a program that uses Alembic too."""


def run() -> None:
    """Bring the database to the revision that was asked for."""
    connection = context.config.attributes["connection"]
    if not isinstance(connection, Connection):
        raise TypeError("revisions run through `latido db upgrade`, which hands in a connection")
    context.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=False)
    with context.begin_transaction():
        context.run_migrations()


run()
