"""One module per resource. ``all_routers`` is the whole table, in the order in which paths are matched."""

from __future__ import annotations

from fastapi import APIRouter

from fastapi_foundry.api.routes import (
    audit,
    downloads,
    foundry,
    generate,
    health,
    keys,
    models,
    openai,
    openai_batches,
    openai_files,
    openai_models,
    sessions,
    tokens,
    usage,
    version,
)

__all__ = ["all_routers"]


def all_routers() -> tuple[APIRouter, ...]:
    """Every router of the API."""
    return (
        openai.router,
        openai_models.router,
        openai_files.router,
        openai_batches.router,
        generate.router,
        tokens.router,
        downloads.router,
        models.router,
        health.router,
        foundry.router,
        keys.router,
        sessions.router,
        usage.router,
        audit.router,
        version.router,
    )
