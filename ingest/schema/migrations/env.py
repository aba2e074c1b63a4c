"""Run revisions over the connection that `ingest.schema.upgrade` hands in; Alembic calls this file."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection


def run() -> None:
    """Bring the database to the revision that was asked for."""
    connection = context.config.attributes["connection"]
    if not isinstance(connection, Connection):
        raise TypeError("revisions run through `latido db upgrade`, which hands in a connection")
    context.configure(
        connection=connection, version_table=context.config.attributes["version_table"], transactional_ddl=False
    )
    with context.begin_transaction():
        context.run_migrations()


run()
