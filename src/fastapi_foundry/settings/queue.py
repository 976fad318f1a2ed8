"""The section ``queue``: how requests wait for a model that is busy."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from fastapi_foundry.settings.values import Seconds

__all__ = ["QueueSettings"]


class QueueSettings(BaseModel):
    """The queue before each model of each engine, shared fairly between keys by the time that their requests take."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    max_waiting: int = Field(
        default=256,
        ge=0,
        le=100_000,
        description="Requests that may wait for one model; further ones get 429. One key may hold as many of these places "
        "as it leaves free for others.",
    )
    max_wait_s: Seconds = Field(
        default=300.0,
        description="Seconds that a request may wait for its turn, then 504 (408 under `/api/v1`); one that would have to "
        "wait for more than twice as long gets 429 at once.",
    )
    aging_s: Seconds = Field(
        default=30.0,
        description="Seconds that a key waits for a turn while requests of a higher priority go first, until its next "
        "request is moved one priority up.",
    )
    notice_s: Seconds = Field(
        default=3.0, description="Seconds between the comments that tell a waiting stream its place."
    )
