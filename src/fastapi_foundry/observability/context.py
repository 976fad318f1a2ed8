"""What belongs to the request that is being served; every log record written meanwhile carries it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final

__all__ = ["request_id", "user_id"]

# Set by the edge (middleware) for the time of one request; tasks and threads made with
# ``asyncio.to_thread`` inherit it.
request_id: Final[ContextVar[str | None]] = ContextVar("fastapi_foundry_request_id", default=None)

user_id: Final[ContextVar[str | None]] = ContextVar("fastapi_foundry_user_id", default=None)
"""The id of the key behind the request; None where none is needed."""
