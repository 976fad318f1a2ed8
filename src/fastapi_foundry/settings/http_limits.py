"""The section ``http_limits``: what one client, or all of them together, may ask of the listening server."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["HttpLimitsSettings"]

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]


class HttpLimitsSettings(BaseModel):
    """Bounds on time, size and number at the level of connections."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    head_timeout_s: Seconds = Field(
        default=10.0,
        description="Seconds for the whole head of a request (its first line and its headers), and for a TLS handshake; "
        "then 408.",
    )
    max_head_bytes: int = Field(
        default=65_536, ge=1024, le=1_048_576, description="Largest head of a request, in bytes; larger ones get 431."
    )
    max_headers: int = Field(
        default=100, ge=10, le=100_000, description="Most headers of one request; more of them get 431."
    )
    body_idle_timeout_s: Seconds = Field(
        default=30.0, description="Seconds without a byte of a request's body until it is ended with 408."
    )
    min_body_bytes_per_s: int = Field(
        default=100,
        ge=0,
        le=1_073_741_824,
        description="Slowest pace of a body that does arrive, in bytes per second over `body_pace_window_s`; slower ones get "
        "408. 0: none.",
    )
    body_pace_window_s: Seconds = Field(
        default=10.0, description="Seconds over which the pace of a body is measured, again and again."
    )
    max_held_body_bytes: int = Field(
        default=134_217_728,
        ge=65_536,
        le=1_099_511_627_776,
        description="Most bytes of large request bodies (above 64 KiB) held in memory at once, over all requests; what would "
        "pass it gets 503 with `Retry-After`.",
    )
    write_timeout_s: Seconds = Field(
        default=60.0,
        description="Seconds without progress after which a client that does not read its answer is cut off; a slow one "
        "that goes on reading is not.",
    )
    keep_alive_s: Seconds = Field(
        default=75.0, description="Seconds that a connection may stay open without a request on it."
    )
    max_connections: int = Field(
        default=2048,
        ge=1,
        le=100_000,
        description="Open connections. When they are all in use, the one that was idle for longest is closed; when none is "
        "idle, a new one gets 503 with `Retry-After`.",
    )
    max_connections_per_client: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Open connections of one address (of one /64 network with IPv6). Unset: a quarter of `max_connections`, "
        "and no such bound for this machine itself; set, it holds for this machine too.",
    )
