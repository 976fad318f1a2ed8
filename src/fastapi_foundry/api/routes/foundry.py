"""What is known about the engine, and how it was found."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry.api.access import services_of
from fastapi_foundry.api.documentation import native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.wire.native import FoundryStatus

__all__ = ["router"]

router = APIRouter(prefix="/api/v1/foundry", tags=["Foundry"])


@router.get("/status", response_model=FoundryStatus, responses=native_errors())
async def foundry_status(request: Request) -> Response:
    """The engine's state, and what discovery tried in its last round."""
    status = services_of(request).engine.status
    body = {
        "state": status.state,
        "url": status.url,
        "found_by": status.found_by,
        "supervised": status.supervised,
        "pid": status.pid,
        "reason": status.reason,
        "restarts": status.restarts,
        "tried": [{"step": step, "address": address, "outcome": outcome} for step, address, outcome in status.tried],
    }
    return JSONBytes(orjson.dumps(body))
