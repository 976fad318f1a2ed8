"""The native API under ``/api/v1`` as types: what is asked and what is answered."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, model_validator

from fastapi_foundry.wire.openai import ModelName, PositiveTokens, Probability, Seed, StopSequences, Temperature
from fastapi_foundry.wire.validation import wrong_field

__all__ = [
    "BatchItem",
    "BatchRequest",
    "BatchResult",
    "FoundryStatus",
    "GenerateRequest",
    "GenerateResult",
    "HealthReport",
    "ModelCatalog",
    "ModelOperation",
    "NativeModelList",
    "Problem",
    "Usage",
    "VersionInfo",
]

MAX_BATCH_PROMPTS_EVER: Final = 100_000
"""What the type allows; the configured limit is lower and checked where the settings are known."""

Prompt = Annotated[StrictStr, Field(min_length=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, defer_build=True)


class GenerationOptions(_Request):
    """How to generate; what is left out comes from the configuration."""

    model: ModelName | None = None
    system: StrictStr | None = None
    temperature: Temperature | None = None
    max_tokens: PositiveTokens | None = None
    top_p: Probability | None = None
    seed: Seed | None = None
    stop: StrictStr | StopSequences | None = None


class GenerateRequest(GenerationOptions):
    """The body of ``POST /api/v1/generate``."""

    prompt: Prompt
    stream: StrictBool = False


class BatchItem(GenerationOptions):
    """One prompt of a batch with options of its own."""

    prompt: Prompt


class BatchRequest(GenerationOptions):
    """The body of ``POST /api/v1/generate/batch``; its options hold for every prompt that has none."""

    prompts: Annotated[list[Prompt | BatchItem], Field(min_length=1, max_length=MAX_BATCH_PROMPTS_EVER)]
    stream: StrictBool | None = None

    @model_validator(mode="after")
    def _does_not_stream(self) -> BatchRequest:
        if self.stream:
            raise wrong_field("stream", "A batch is answered as a whole")
        return self

    def items(self) -> list[GenerateRequest]:
        """Every prompt with the options that hold for it, in order."""
        shared = self.model_dump(exclude={"prompts", "stream"}, exclude_none=True)
        return [
            GenerateRequest.model_validate(
                shared | ({"prompt": item} if isinstance(item, str) else item.model_dump(exclude_none=True))
            )
            for item in self.prompts
        ]


class Usage(BaseModel):
    """Tokens as the model counts them."""

    model_config = ConfigDict(extra="allow")

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class GenerateResult(BaseModel):
    """The answer of ``POST /api/v1/generate``; ``duration`` in seconds."""

    success: Literal[True] = True
    content: str
    model: str
    usage: Usage
    finish_reason: str | None
    duration: float
    request_id: str


class Problem(BaseModel):
    """Every failure under ``/api/v1``; ``param`` names the field at fault where there is one."""

    error: str
    detail: str
    status_code: int
    code: str
    request_id: str
    param: str | None = None


class BatchResult(BaseModel):
    """The answer of ``POST /api/v1/generate/batch``: one result or problem for each prompt, in order."""

    success: bool
    results: list[dict[str, Any]]
    count: int
    failed: int
    duration: float
    request_id: str


class NativeModelList(BaseModel):
    """The answer of ``GET /api/v1/models``."""

    success: Literal[True] = True
    models: list[dict[str, Any]]
    count: int


class CatalogEntry(BaseModel):
    """A model that can be downloaded; ``percent`` (0 to 100) while it is."""

    model_config = ConfigDict(extra="allow")

    id: str
    engine: str
    state: str
    percent: float | None = None


class CatalogOrigin(BaseModel):
    """An engine's catalogue; ``reason`` says why it is not fresh."""

    engine: str
    status: Literal["fresh", "stale", "loading", "unavailable", "offline", "none"]
    fetched_at: str | None = None
    reason: str = ""


class ModelCatalog(BaseModel):
    """The answer of ``GET /api/v1/models/catalog``."""

    success: Literal[True] = True
    models: list[CatalogEntry]
    count: int
    sources: list[CatalogOrigin]


class ModelOperation(BaseModel):
    """The answer to loading or unloading a model."""

    model_config = ConfigDict(extra="allow")

    success: Literal[True] = True
    model: str
    status: str


EngineStateName = Literal["absent", "starting", "ready", "loading", "degraded", "wedged", "crashed"]


class EngineEntry(BaseModel):
    """One of the engines behind the gateway."""

    name: str
    url: str | None
    state: EngineStateName
    reason: str
    breaker: Literal["closed", "open", "half_open"]
    retry_after_s: float
    active: int
    models: int


class FoundryStatus(BaseModel):
    """What is known about the engine; ``tried`` is discovery's last round."""

    state: EngineStateName
    url: str | None
    found_by: str | None
    supervised: bool
    pid: int | None
    reason: str
    restarts: int
    tried: list[dict[str, str]] = []
    engines: list[EngineEntry] = []


class HealthCheck(BaseModel):
    """The outcome of one level; ``duration`` in seconds, ``detail`` in words where it failed."""

    status: Literal["pass", "fail", "skipped"]
    detail: str = ""
    duration: float | None = None


class HealthReport(BaseModel):
    """The answer of ``GET /api/v1/health``; who shows no key where one is needed gets the first four fields alone."""

    status: Literal["healthy", "degraded", "unhealthy"]
    foundry_status: Literal["connected", "disconnected"]
    models_count: int
    port: int
    version: str | None = None
    uptime_seconds: float | None = None
    default_model: str | None = None
    foundry: dict[str, Any] | None = None
    checks: dict[str, HealthCheck] | None = None


class VersionInfo(BaseModel):
    """The answer of ``GET /api/v1/version``."""

    name: Literal["fastapi-foundry"] = "fastapi-foundry"
    version: str
    python: str
