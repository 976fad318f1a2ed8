"""Run by Alembic: the steps, on the connection and within the transaction of whoever asked for them."""

from __future__ import annotations

from alembic import context

from fastapi_foundry.storage.migrations import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table=VERSION_TABLE, transactional_ddl=True)
context.run_migrations()
