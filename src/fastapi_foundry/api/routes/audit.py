"""The record of administrative acts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import services_of
from fastapi_foundry.api.documentation import native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.api.routes.usage import csv_response
from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.storage.audit import AuditEntry
from fastapi_foundry.wire.keys import AuditList
from fastapi_foundry.wire.tables import as_csv
from fastapi_foundry.wire.times import shown_time

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["Audit"])

_COLUMNS: Final = ("at", "actor", "action", "target", "detail", "address", "request_id")
_SECOND_US: Final = 1_000_000
_CSV: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "The entries, the newest first."}
}


@router.get("/audit", response_model=AuditList, responses=_CSV | native_errors(400, 503))
async def get_audit(
    request: Request,
    since: Annotated[
        str | None, Query(description="Nothing before that time: `2026-01-31`, or RFC 3339; UTC where it says nothing.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Response:
    """Who made, changed or ended what, the newest first."""
    since_us = 0 if since is None else _microseconds(since)
    entries = [_shown(entry) for entry in await services_of(request).audit.entries(since=since_us, limit=limit)]
    if form == "csv":
        return csv_response(as_csv(_COLUMNS, entries), "audit.csv")
    return JSONBytes(orjson.dumps({"success": True, "entries": entries, "count": len(entries)}))


def _shown(entry: AuditEntry) -> dict[str, Any]:
    return {
        "at": shown_time(entry.at),
        "actor": entry.actor,
        "action": entry.action,
        "target": entry.target,
        "detail": dict(entry.detail),
        "address": entry.address,
        "request_id": entry.request_id,
    }


def _microseconds(text: str) -> int:
    try:
        # A plus sign that a query string turned into a blank is still one.
        time = datetime.fromisoformat(text.replace(" ", "+"))
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        return int(time.timestamp()) * _SECOND_US
    except (ValueError, OverflowError):
        raise InvalidInputError(
            "'since': must be a day such as 2026-01-31 or a time such as 2026-01-31T09:00:00Z.", param="since"
        ) from None
