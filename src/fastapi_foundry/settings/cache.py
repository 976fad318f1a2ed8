"""The section ``cache``: whole answers kept for requests that are repeated."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from fastapi_foundry.settings.values import Seconds

__all__ = ["CacheSettings"]


class CacheSettings(BaseModel):
    """The cache of answers, in the gateway's memory."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    enabled: bool = Field(
        default=False,
        description="Keep answers to requests with temperature 0 or a seed, and to those that ask for it with "
        "`x-foundry-cache: on`.",
    )
    max_bytes: int = Field(
        default=67_108_864,
        ge=1024,
        le=1_099_511_627_776,
        description="Most bytes of answers kept; those not asked for the longest go first.",
    )
    max_entry_bytes: int = Field(
        default=1_048_576, ge=1, le=1_073_741_824, description="Largest answer that is kept, in bytes."
    )
    ttl_s: Seconds = Field(default=3600.0, description="Seconds that an answer is kept for.")
    shared: bool = Field(
        default=False,
        description="Give one key answers to requests of another. By their speed such answers tell that somebody has asked "
        "the same.",
    )
