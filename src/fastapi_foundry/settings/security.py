"""The section ``security``: who is asked for a key, and which names and pages the server answers to."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from fastapi_foundry.settings.values import host_name, http_url

__all__ = ["SecuritySettings"]

ANY_ORIGIN = "*"


def _origin(text: str) -> str:
    if text.strip() == ANY_ORIGIN:
        return ANY_ORIGIN
    url = http_url(text)
    if urlsplit(url).path:
        raise ValueError("must be an origin such as https://example.org, without a path")
    return url.lower()


class SecuritySettings(BaseModel):
    """Keys, hosts and origins."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=False, hide_input_in_errors=True
    )

    require_key: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="`auto`: a request needs a key unless it comes straight from this machine to a gateway that listens on "
        "loopback alone. `always`: every request needs one. `never`: none does, wherever it comes from.",
    )
    admin_key: SecretStr | None = Field(
        default=None,
        description="A key of your own making with every right, for machines that are set up without a person: at least 32 "
        "characters. It is checked beside the stored keys and cannot be revoked but by taking it away here.",
        min_length=32,
        max_length=256,
    )
    allowed_hosts: list[Annotated[str, AfterValidator(host_name)]] = Field(
        default=[],
        max_length=64,
        description="Further names that requests may be addressed to (the `Host` header), such as that of a proxy in front.",
    )
    allowed_origins: list[Annotated[str, AfterValidator(_origin)]] = Field(
        default=[],
        max_length=64,
        description="Pages of which other origins may use the API from a browser (CORS), such as `https://chat.example.org`. "
        "`*` allows all of them, where every request needs a key.",
    )
    allow_credentials: bool = Field(
        default=False,
        description="Let those pages send cookies along; never together with `*`.",
    )
    session_hours: float = Field(
        default=12.0, gt=0, le=8760, allow_inf_nan=False, description="Hours until a browser has to sign in again."
    )

    @model_validator(mode="after")
    def _any_origin_is_harmless(self) -> Self:
        if ANY_ORIGIN in self.allowed_origins and self.allow_credentials:
            raise PydanticCustomError(
                "any_origin_with_credentials",
                "'*' together with allow_credentials would let any page act for whoever is signed in; name the origins",
                {"field": "allowed_origins"},
            )
        if ANY_ORIGIN in self.allowed_origins and self.require_key != "always":
            raise PydanticCustomError(
                "any_origin_without_key",
                "'*' would let any page use the server without a key; set security.require_key to 'always' as well",
                {"field": "allowed_origins"},
            )
        return self
