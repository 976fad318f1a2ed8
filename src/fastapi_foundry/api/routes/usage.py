"""The record of use: who used which model how much, by day."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import principal_of, services_of
from fastapi_foundry.api.documentation import native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.errors import InsufficientScopeError, InvalidInputError
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.usage import LOCAL_KEY
from fastapi_foundry.services.usage_report import MOST_ROWS, days_between, shown_rows, shown_total
from fastapi_foundry.storage.usage import UsageQuery
from fastapi_foundry.wire.tables import as_csv
from fastapi_foundry.wire.usage import UsageReport, usage_columns

__all__ = ["csv_response", "router"]

router = APIRouter(prefix="/api/v1", tags=["Usage"])

Name = Annotated[str | None, Query(max_length=256)]

_CSV: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "The rows and their sum."}
}


@router.get("/usage", response_model=UsageReport, responses=_CSV | native_errors(400, 503))
async def get_usage(
    request: Request,
    first: Annotated[str | None, Query(alias="from", description="First day, `YYYY-MM-DD`, UTC.")] = None,
    last: Annotated[str | None, Query(alias="to", description="Last day, itself included. Default: today.")] = None,
    key: Annotated[Name, Query(description="Id of a key, or `local` for use without one.")] = None,
    model: Annotated[Name, Query(description="Full id of a model.")] = None,
    group: Annotated[
        Literal["day", "key", "model", "none"], Query(description="What a row is about; `none`: all three.")
    ] = "day",
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Response:
    """What has been used, up to this moment: by everybody with the right `admin`, by oneself with any other key."""
    principal = principal_of(request)
    if not principal.may(Scope.ADMIN):
        if key not in {None, principal.key_id}:
            raise InsufficientScopeError("Seeing what other keys have used takes the right 'admin'.")
        key = principal.key_id or LOCAL_KEY
    since, until = days_between(first, last, now=time.time())
    query = UsageQuery(since, until, key_id=key, model=model, group=group)
    rows = await services_of(request).usage.rows(query, limit=MOST_ROWS + 1)
    if len(rows) > MOST_ROWS:
        raise InvalidInputError(f"These are more than {MOST_ROWS} rows; ask for fewer days.", param="from")
    shown = shown_rows(rows, group)
    if form == "csv":
        return csv_response(as_csv(usage_columns(group), shown), f"usage-{since}-{until}.csv")
    body = {"success": True, "from": since, "to": until, "group": group, "usage": shown, "count": len(shown)}
    return JSONBytes(orjson.dumps(body | {"total": shown_total(rows)}))


def csv_response(text: str, name: str) -> Response:
    """A file that a browser offers to keep."""
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type="text/csv; charset=utf-8; header=present", headers=headers)
