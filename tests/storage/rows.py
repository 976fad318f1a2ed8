"""Rows for tests: something in every table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, select

from fastapi_foundry.storage import tables

# What JSON may hold and databases stumble over: NUL, half of a surrogate pair, other scripts, large numbers.
AWKWARD: dict[str, Any] = {
    "z": None,
    "nul": "a\x00b",
    "half": "\ud83d",
    "text": 'Grüße 漢字 🎈 "quoted" \\ \n',
    "numbers": [0, -1, 2**53, 1.5, 1e300],
    "a": {"deep": [[], {}, True, False]},
}
NOW = 1_795_254_000_123_456

EVERYTHING: dict[str, list[dict[str, Any]]] = {
    "api_keys": [
        {
            "id": f"key_{number}",
            "name": "Grüße",
            "prefix": "ff-abc",
            "hash": f"hash{number}",
            "created_at": NOW,
            "created_by": "cli",
            "expires_at": None,
            "revoked_at": NOW + 1,
            "rotated_from": None,
            "last_used_at": 2**60,
            "scopes": ["chat", "admin"],
            "allowed_models": None,
            "allowed_tools": [],
            "allowed_stores": ["a*"],
            "limits": {"tokens_per_day": 5},
        }
        for number in range(3)
    ],
    "usage_daily": [
        {
            "day": "2026-11-21",
            "key_id": key,
            "model": "m:1",
            "requests": 2**40,
            "failures": 0,
            "prompt_tokens": 1,
            "completion_tokens": 2,
            "duration_s": 0.1,
        }
        for key in ("", "key_0")
    ],
    "audit_log": [
        {
            "id": number,
            "at": NOW,
            "actor": "cli",
            "action": "key.create",
            "target": "key_0",
            "detail": AWKWARD,
            "address": "::1",
            "request_id": "",
        }
        for number in (1, 7)
    ],
    "sessions": [
        {"id_hash": "s", "key_id": "key_0", "created_at": NOW, "expires_at": NOW, "csrf": "c", "one_time": True}
    ],
    "conversations": [{"id": "c", "key_id": None, "created_at": NOW, "updated_at": NOW, "metadata": AWKWARD}],
    "conversation_turns": [
        {"conversation_id": "c", "number": number, "role": "user", "content": content, "created_at": NOW}
        for number, content in enumerate([AWKWARD, "plain", None, 5, []])
    ],
    "files": [
        {
            "id": f"file-{number}",
            "key_id": "local",
            "purpose": "batch",
            "filename": "Grüße.jsonl",
            "bytes": 2**40,
            "created_at": NOW,
            "expires_at": None if number else NOW + 1,
        }
        for number in range(2)
    ],
    "batches": [
        {
            "id": "batch_0",
            "key_id": "key_0",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "file-0",
            "status": "in_progress",
            "metadata": {"a": "b"},
            "errors": None,
            "output_file_id": None,
            "error_file_id": None,
            "output_expires_s": None,
            **dict.fromkeys(("total", "completed", "failed", "prompt_tokens", "completion_tokens"), 2**40),
            "created_at": NOW,
            "expires_at": NOW + 1,
            "in_progress_at": NOW,
            **dict.fromkeys(f"{name}_at" for name in ("finalizing", "completed", "failed", "expired")),
            "cancelling_at": None,
            "cancelled_at": None,
            "lease_owner": "somebody",
            "lease_until": NOW,
            "fence": 3,
        }
    ],
    "batch_results": [
        {"batch_id": "batch_0", "line": number, "ok": number == 1, "result": '{"text": "\\u0000 🎈"}'}
        for number in (1, 2)
    ],
    "server_state": [{"name": "keys_epoch", "value": "abc"}],
}


def fill(connection: Connection) -> None:
    """Put ``EVERYTHING`` into empty tables."""
    for table in tables.metadata.sorted_tables:
        connection.execute(table.insert(), EVERYTHING[table.name])


def contents(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables."""
    return {table.name: _rows(connection, table) for table in tables.metadata.sorted_tables}


def _rows(connection: Connection, table: Table) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(select(table).order_by(*table.primary_key)).mappings()]


def turn(number: int, **changes: Any) -> dict[str, Any]:
    return {"conversation_id": "c", "number": number, "role": "user", "content": "x", "created_at": NOW} | changes
