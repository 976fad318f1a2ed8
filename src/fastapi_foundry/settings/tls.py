"""The section ``tls``: the gateway speaks https when it has a certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

__all__ = ["TlsSettings"]

File = Annotated[Path, Field(strict=False)]


class TlsSettings(BaseModel):
    """Certificate, key, and how often both are looked at again."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=False, hide_input_in_errors=True
    )

    certificate: File | None = Field(
        default=None,
        description="Certificate in PEM form, followed by those of its issuers. Set, the gateway speaks https and nothing else.",
    )
    private_key: File | None = Field(
        default=None, description="Private key in PEM form. Unset: it is in the file of `tls.certificate`."
    )
    private_key_password: SecretStr | None = Field(
        default=None, description="Password of the private key, if it has one.", max_length=1024
    )
    minimum_version: Literal["1.2", "1.3"] = Field(
        default="1.2", description="Oldest version of TLS that a client may speak."
    )
    reload_check_s: float = Field(
        default=5.0,
        gt=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds between two looks whether the files have changed; a changed pair is used for new connections.",
    )

    @property
    def enabled(self) -> bool:
        """Whether the gateway speaks https."""
        return self.certificate is not None

    @model_validator(mode="after")
    def _key_needs_certificate(self) -> Self:
        if self.certificate is None:
            for field in ("private_key", "private_key_password"):
                if getattr(self, field) is not None:
                    raise PydanticCustomError(
                        "tls_without_certificate",
                        "is of no use without tls.certificate; set both, or neither",
                        {"field": field},
                    )
        return self
