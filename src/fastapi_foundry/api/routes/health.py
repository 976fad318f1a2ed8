"""How the gateway, the engine and the default model are."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from fastapi_foundry import __version__
from fastapi_foundry.api.access import known_principal_of, services_of
from fastapi_foundry.api.documentation import native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.errors import AuthenticationError
from fastapi_foundry.services.health import Health, HealthLevel
from fastapi_foundry.wire.native import HealthReport

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["Health"])


@router.get(
    "/health",
    response_model=HealthReport,
    responses=native_errors(400)
    | {503: {"description": "The level that was asked for does not pass.", "model": HealthReport}},
)
async def health(
    request: Request,
    level: Annotated[
        HealthLevel | None,
        Query(
            description="How deep to look: `gateway`, `foundry` or `model` (a tiny generation). Naming a level makes "
            "this a probe, answered with 503 when that level does not pass; without one the report is always 200."
        ),
    ] = None,
) -> Response:
    """A report on the gateway and what is behind it."""
    is_stranger = known_principal_of(request) is None
    if is_stranger and level is HealthLevel.MODEL:
        raise AuthenticationError("The level 'model' generates a token, so it takes an API key.")
    report = await services_of(request).health.report(level or HealthLevel.FOUNDRY)
    failed = level is not None and not report.passed(level)
    body = _summary(report, _port(request))
    if not is_stranger:
        body |= _details(report)
    return JSONBytes(orjson.dumps(body), 503 if failed else 200)


def _summary(report: Health, port: int) -> dict[str, Any]:
    """What anybody may know."""
    return {
        "status": report.status,
        "foundry_status": "connected" if report.connected else "disconnected",
        "models_count": report.models_count,
        "port": port,
    }


def _details(report: Health) -> dict[str, Any]:
    engine = report.engine
    return {
        "version": __version__,
        "uptime_seconds": round(report.uptime_s, 3),
        "default_model": report.default_model,
        "foundry": {
            "state": engine.state,
            "url": engine.url,
            "found_by": engine.found_by,
            "reason": engine.reason,
            "restarts": engine.restarts,
        },
        "checks": {level.value: _check(report, level) for level in HealthLevel},
    }


def _check(report: Health, level: HealthLevel) -> dict[str, Any]:
    outcome = report.checks.get(level)
    if outcome is None:
        return {"status": "skipped", "detail": "", "duration": None}
    status = "pass" if outcome.passed else "fail"
    return {"status": status, "detail": outcome.detail, "duration": round(outcome.duration, 6)}


def _port(request: Request) -> int:
    """The port that this server really listens on, which need not be the configured one."""
    server = request.scope.get("server")
    if server is not None and server[1]:
        return int(server[1])
    return services_of(request).settings.fastapi_server.port
