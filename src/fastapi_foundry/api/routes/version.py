"""Which version answers."""

from __future__ import annotations

import platform

import orjson
from fastapi import APIRouter
from starlette.responses import Response

from fastapi_foundry import __version__
from fastapi_foundry.api.documentation import native_errors
from fastapi_foundry.api.problems import JSONBytes
from fastapi_foundry.wire.native import VersionInfo

__all__ = ["router"]

router = APIRouter(prefix="/api/v1", tags=["Health"])


@router.get("/version", response_model=VersionInfo, responses=native_errors())
async def version() -> Response:
    """The product's version and Python's."""
    body = {"name": "fastapi-foundry", "version": __version__, "python": platform.python_version()}
    return JSONBytes(orjson.dumps(body))
