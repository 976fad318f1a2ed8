"""The section ``foundry_service``: the process that holds the models, and what it may hold."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fastapi_foundry.settings.values import ListeningPort, Port, Seconds, http_url, non_empty, require_ordered

__all__ = ["FoundryServiceSettings"]

ModelName = Annotated[str, AfterValidator(non_empty), Field(max_length=256)]
Replicas = Annotated[int, Field(ge=1, le=16)]


class FoundryServiceSettings(BaseModel):
    """Our own Foundry service: the process that holds the models."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=False, hide_input_in_errors=True
    )

    start: Literal["auto", "never"] = Field(
        default="auto", description="`auto` starts the service when none is found; `never` only uses one that runs."
    )
    port: ListeningPort = Field(default=50477, description="Port of the service on loopback; 0 lets the system choose.")
    port_range_start: Port = Field(default=50400, description="First port to try (and to scan) when `port` is taken.")
    port_range_end: Port = Field(default=50800, description="Last port to try (and to scan), itself included.")
    offline: bool = Field(default=False, description="Never dial out: no catalogue, no downloads, no telemetry.")
    start_timeout_s: Seconds = Field(default=30.0, description="Seconds for the service to become ready.")
    load_timeout_s: Seconds = Field(
        default=120.0, description="Seconds for a model to load, the wait for memory and a place included."
    )
    max_loaded_models: int = Field(
        default=3, ge=1, le=64, description="Models in memory at once; the least recently used idle one makes room."
    )
    memory_budget_mb: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="Resident memory, in MB, that all runners together may take; idle models make room before it is "
        "passed. Unset: 80 % of the machine's memory, or of the container's limit where that is less.",
    )
    pinned_models: list[ModelName] = Field(
        default=[],
        max_length=64,
        description="Models (id or alias) that, once loaded, are never unloaded to make room or for being idle.",
    )
    idle_unload_s: Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)] | None = Field(
        default=None,
        description="Seconds without a request after which a model is unloaded, unless the request or the load named a "
        "`keep_alive` of its own. Unset: never.",
    )
    replicas: Replicas = Field(
        default=1,
        description="Runners that a model may have at most; the first starts on demand, a further one when requests wait "
        "for a place and there is memory to spare.",
    )
    model_replicas: dict[ModelName, Replicas] = Field(
        default={}, max_length=1000, description='The same for single models, by id or alias: `{"my-model": 2}`.'
    )
    max_active_per_model: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Requests that one runner (each replica of a model) works on at the same time.",
    )
    max_queued_per_model: int = Field(
        default=64, ge=0, le=100_000, description="Requests of one model that may wait; further ones get 429."
    )
    cancel_timeout_s: Seconds = Field(
        default=30.0,
        description="Seconds that the engine gets to stop a request that was cancelled while it decoded (four times that "
        "while it may still read the prompt); then its runner is replaced.",
    )
    kept_sessions: int = Field(
        default=4,
        ge=0,
        le=256,
        description="Conversations whose state each runner keeps, so that the next turn does not read the earlier ones again; "
        "0 keeps none. A request with a `seed` never uses one.",
    )
    kept_memory_mb: int = Field(
        default=512, ge=1, le=1_000_000_000, description="Most memory of the kept conversations of one runner, in MB."
    )
    kept_idle_s: Seconds = Field(default=300.0, description="Seconds that a conversation is kept for its next turn.")
    catalog_urls: list[Annotated[str, AfterValidator(http_url)]] = Field(
        default=[], max_length=16, description="Addresses of online catalogues; empty means the engine's own."
    )
    catalog_refresh_s: Seconds = Field(
        default=3600.0, description="Seconds until a fetched catalogue is fetched again, in the background."
    )

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        require_ordered(self.port_range_start, self.port_range_end)
        return self
