"""The tables, the same on SQLite and PostgreSQL.

Every point in time is a whole number: microseconds since 1970, UTC. It sorts, is compared and calculated with in the
same way on both, no driver or time zone has a say in it, and it fits into JSON. A day is ``YYYY-MM-DD``, UTC.
Structured values are JSON as text (PostgreSQL's ``json``, not ``jsonb``), so that what comes back is what was stored:
the order of names, and characters that ``jsonb`` refuses.

A change in here needs a migration (``migrations/versions``); a test compares the two.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

__all__ = [
    "api_keys",
    "audit_log",
    "batch_results",
    "batches",
    "conversation_turns",
    "conversations",
    "files",
    "metadata",
    "server_state",
    "sessions",
    "usage_daily",
]

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# None is stored as SQL's NULL, never as JSON's null.
_Json: Final = JSON(none_as_null=True)

api_keys: Final = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("rotated_from", Text),
    Column("last_used_at", BigInteger),
    Column("scopes", _Json, nullable=False),
    Column("allowed_models", _Json),
    Column("allowed_tools", _Json),
    Column("allowed_stores", _Json),
    Column("limits", _Json, nullable=False),
    UniqueConstraint("hash"),
)

# Rows outlive their key, and some are of requests without one, so key_id refers to nothing.
usage_daily: Final = Table(
    "usage_daily",
    metadata,
    Column("day", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("requests", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("duration_s", Double, nullable=False),
)

audit_log: Final = Table(
    "audit_log",
    metadata,
    # SQLite counts by itself in a column of this very type alone.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", _Json, nullable=False),
    Column("address", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Index(None, "at"),
    sqlite_autoincrement=True,
)

# A session may belong to a key of the configuration, which is in no table.
sessions: Final = Table(
    "sessions",
    metadata,
    Column("id_hash", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("csrf", Text, nullable=False),
    Column("one_time", Boolean, nullable=False, server_default=false()),
    Index(None, "key_id"),
    Index(None, "expires_at"),
)

conversations: Final = Table(
    "conversations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("metadata", _Json),
    Index(None, "key_id", "updated_at"),
)

conversation_turns: Final = Table(
    "conversation_turns",
    metadata,
    Column("conversation_id", Text, ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("role", Text, nullable=False),
    Column("content", _Json),
    Column("created_at", BigInteger, nullable=False),
)

# Of OpenAI's files API; what is in a file lies beside the database, under its id. The owner may be no key of a table.
files: Final = Table(
    "files",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Index(None, "key_id", "created_at"),
    Index(None, "expires_at"),
)

# Whoever works on a batch holds its lease; ``fence`` rises with each one, so that a holder who was taken for dead finds
# out with his next write.
batches: Final = Table(
    "batches",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("metadata", _Json),
    Column("errors", _Json),
    Column("output_file_id", Text),
    Column("error_file_id", Text),
    Column("output_expires_s", BigInteger),
    Column("total", BigInteger, nullable=False, server_default=text("0")),
    Column("completed", BigInteger, nullable=False, server_default=text("0")),
    Column("failed", BigInteger, nullable=False, server_default=text("0")),
    Column("prompt_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("completion_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("in_progress_at", BigInteger),
    Column("finalizing_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("expired_at", BigInteger),
    Column("cancelling_at", BigInteger),
    Column("cancelled_at", BigInteger),
    Column("lease_owner", Text),
    Column("lease_until", BigInteger, nullable=False, server_default=text("0")),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    Index(None, "key_id", "created_at"),
    Index(None, "status"),
)

# Until the batch has ended; then they are in its files.
batch_results: Final = Table(
    "batch_results",
    metadata,
    Column("batch_id", Text, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("ok", Boolean, nullable=False),
    Column("result", Text, nullable=False),
)

server_state: Final = Table(
    "server_state",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
