"""Further engines, and names of one's own for models: ``engines`` and ``model_aliases`` of ``config.json``.

An alias is followed to *groups* of targets: the replicas of the first group share the work, the later
groups are fallbacks, tried in order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from fastapi_foundry.settings.values import http_url, non_empty

__all__ = [
    "FOUNDRY",
    "QUALIFIER",
    "EngineSettings",
    "ModelRouteSettings",
    "ReplicaSettings",
    "check_routes",
    "route_groups",
]

FOUNDRY: Final = "foundry"
"""The name of the engine that needs no configuration: Foundry Local."""
QUALIFIER: Final = "::"
"""Between the name of an engine and the name of its model."""

_ENGINE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}\Z")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}\Z")
_OWN_HEADERS: Final = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "via"})

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
Text = Annotated[str, AfterValidator(non_empty)]


def _engine_name(name: str) -> str:
    if not _ENGINE_NAME.match(name):
        raise ValueError("must be 1 to 32 small letters, digits, '-' or '_', and begin with a letter or digit")
    if name == FOUNDRY:
        raise ValueError(f"must not be {FOUNDRY!r}, which is the name of Foundry Local itself")
    return name


def _engine_url(text: str) -> str:
    return http_url(text).removesuffix("/v1").rstrip("/")


def _headers(headers: dict[str, str]) -> dict[str, str]:
    for name, value in headers.items():
        if not _HEADER_NAME.match(name) or name.lower() in _OWN_HEADERS:
            raise ValueError(f"{name!r} is not a header that can be set here")
        if not value.isprintable():
            raise ValueError(f"the value of {name!r} holds characters that a header must not hold")
    return headers


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EngineSettings(_Entry):
    """An OpenAI-compatible server: Ollama, llama.cpp, LM Studio, vLLM, Ray Serve, another gateway."""

    name: Annotated[str, AfterValidator(_engine_name)] = Field(
        description="Its models are `name::model`; small letters, digits, `-` and `_`."
    )
    url: Annotated[str, AfterValidator(_engine_url)] = Field(
        description="Its address, such as `http://127.0.0.1:11434`; a trailing `/v1` is dropped."
    )
    api_key: SecretStr | None = Field(default=None, description="Sent to this engine as its bearer token.")
    api_key_env: Text | None = Field(
        default=None, description="Environment variable that holds the key, to keep it out of the file."
    )
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        default={}, max_length=32, repr=False, description="Further headers of each request to this engine."
    )
    models: list[Text] | None = Field(
        default=None, max_length=1000, description="Only these of its models are offered; unset: all."
    )
    weight: float = Field(
        default=1.0, gt=0, le=1000, allow_inf_nan=False, description="Its share of the work among replicas."
    )
    max_active: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests of one model that it gets at the same time; further ones wait in the queue. Unset: 1024, "
        "since such servers have queues of their own.",
    )
    required: bool = Field(
        default=True, description="Refuse to start when nothing answers at the address; false: start without it."
    )
    connect_timeout_s: Seconds | None = Field(default=None, description="As in `foundry_ai`, for this engine.")
    first_byte_timeout_s: Seconds | None = Field(default=None, description="As in `foundry_ai`, for this engine.")
    idle_timeout_s: Seconds | None = Field(default=None, description="As in `foundry_ai`, for this engine.")
    timeout_s: Seconds | None = Field(default=None, description="As in `foundry_ai`, for this engine.")

    @model_validator(mode="after")
    def _one_key(self) -> EngineSettings:
        if self.api_key is not None and self.api_key_env is not None:
            raise PydanticCustomError("two_keys", "give api_key or api_key_env, not both", {"field": "api_key"})
        return self


class ReplicaSettings(_Entry):
    """One of several places that answer for an alias."""

    model: Text
    weight: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)


def _as_replica(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _as_route(value: Any) -> Any:
    if isinstance(value, str):
        return {"replicas": [value]}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return {"replicas": value[:1], "fallbacks": value[1:]}
    return value


class ModelRouteSettings(_Entry):
    """What an alias stands for. A text is one model, a list of texts a chain of fallbacks."""

    replicas: Annotated[
        list[Annotated[ReplicaSettings, BeforeValidator(_as_replica)]], Field(min_length=1, max_length=32)
    ]
    fallbacks: list[Text] = Field(default=[], max_length=16)

    def names(self) -> list[str]:
        """Every name that this route mentions."""
        return [replica.model for replica in self.replicas] + self.fallbacks


ModelRoute = Annotated[ModelRouteSettings, BeforeValidator(_as_route)]


def check_routes(engines: Sequence[EngineSettings], aliases: Mapping[str, ModelRouteSettings]) -> None:
    """Refuse what can only be seen as a whole.

    Raises:
        PydanticCustomError: A name given twice, an engine that is not configured, a loop; its context's ``path``
            is the dotted key.
    """
    seen: dict[str, int] = {}
    for index, engine in enumerate(engines):
        if engine.name in seen:
            raise _wrong(f"engines.{index}.name", f"{engine.name!r} is the name of engines.{seen[engine.name]} too")
        seen[engine.name] = index
    for alias, route in aliases.items():
        path = f"model_aliases.{alias}"
        if not alias.strip() or QUALIFIER in alias:
            raise _wrong(path, f"a name of one's own must not be empty or hold {QUALIFIER!r}")
        for name in route.names():
            engine_name, qualified, _ = name.partition(QUALIFIER)
            if qualified and engine_name != FOUNDRY and engine_name not in seen:
                known = ", ".join([FOUNDRY, *seen])
                raise _wrong(path, f"{name!r} names an engine that is not configured; there are: {known}")
        if loop := _loop(alias, aliases, (alias,)):
            hint = f"; if a model has that name too, write {FOUNDRY}{QUALIFIER}{alias}" if len(loop) == 2 else ""  # noqa: PLR2004 - a loop of one
            raise _wrong(path, f"it leads back to itself: {' -> '.join(loop)}{hint}")


def route_groups(name: str, aliases: Mapping[str, ModelRouteSettings]) -> list[list[ReplicaSettings]]:
    """The groups that ``name`` leads to, aliases within it followed; a name that is no alias leads to itself."""
    route = aliases.get(name)
    if route is None:
        return [[ReplicaSettings(model=name)]]
    first: list[ReplicaSettings] = []
    later: list[list[ReplicaSettings]] = []
    for replica in route.replicas:
        head, *tail = route_groups(replica.model, aliases)
        first += [ReplicaSettings(model=r.model, weight=r.weight * replica.weight) for r in head]
        later += tail
    for fallback in route.fallbacks:
        later += route_groups(fallback, aliases)
    return [first, *later]


def _loop(name: str, aliases: Mapping[str, ModelRouteSettings], trail: tuple[str, ...]) -> tuple[str, ...]:
    for target in aliases[name].names():
        if target in trail:
            return (*trail[trail.index(target) :], target)
        if target in aliases and (found := _loop(target, aliases, (*trail, target))):
            return found
    return ()


def _wrong(path: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("routes", "{reason}", {"path": path, "reason": reason})
