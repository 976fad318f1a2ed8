"""What is known about the engine, and how it was found."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import services_of
from fastapi_foundry.api.documentation import native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.engines.base import EngineReport
from fastapi_foundry.wire.native import FoundryStatus

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/foundry", tags=["Foundry"])


@router.get("/status", response_model=FoundryStatus, responses=native_errors())
async def foundry_status(request: Request) -> Response:
    """The engine's state, what discovery tried in its last round, and every engine that is configured."""
    services = services_of(request)
    status = services.engine.status
    body = {
        "state": status.state,
        "url": status.url,
        "found_by": status.found_by,
        "supervised": status.supervised,
        "pid": status.pid,
        "reason": status.reason,
        "restarts": status.restarts,
        "tried": [{"step": step, "address": address, "outcome": outcome} for step, address, outcome in status.tried],
        "engines": [_entry(report) for report in services.engine_reports()],
    }
    return JSONBytes(orjson.dumps(body))


def _entry(report: EngineReport) -> dict[str, object]:
    return {
        "name": report.name,
        "url": report.status.url,
        "state": report.status.state,
        "reason": report.status.reason,
        "breaker": report.breaker,
        "retry_after_s": report.retry_after_s,
        "active": report.active,
        "models": report.models,
    }
