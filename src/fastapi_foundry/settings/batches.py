"""The section ``batches``: OpenAI's Batch API and the files that belong to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["BatchesSettings"]


class BatchesSettings(BaseModel):
    """How batches run, and how much of files is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=False)

    directory: Annotated[Path, Field(strict=False)] | None = Field(
        default=None,
        description="Directory of uploaded files and of results; gateways that share a database share it too. Unset: "
        "`files` in `home`.",
    )
    concurrency: int = Field(
        default=8, ge=1, le=256, description="Requests of one batch that are under way at the same time."
    )
    max_running: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Batches that one process works on at the same time; one key has half of them at most.",
    )
    max_requests: int = Field(default=50_000, ge=1, le=1_000_000, description="Most requests in one batch.")
    max_open_per_key: int = Field(
        default=100, ge=1, le=100_000, description="Most batches of one key that have not ended yet."
    )
    max_file_bytes: int = Field(
        default=104_857_600,
        ge=1024,
        le=1_073_741_824,
        description="Largest file that can be uploaded, in bytes; larger ones get 413.",
    )
    max_files_per_key: int = Field(default=1000, ge=1, le=1_000_000, description="Most files of one key.")
    max_bytes_per_key: int = Field(
        default=2_147_483_648,
        ge=1024,
        le=1_125_899_906_842_624,
        description="Most bytes in all files of one key together; uploads that would pass it are refused, results are not.",
    )
    file_days: int = Field(
        default=30, ge=1, le=36_500, description="Days that a file is kept for, unless its upload names a shorter time."
    )
    keep_days: int = Field(default=30, ge=1, le=36_500, description="Days that a batch is shown for after it was made.")
    window_s: int = Field(
        default=86_400,
        ge=1,
        le=2_592_000,
        description="Seconds that a batch may take (OpenAI's `24h`); what is not done by then expires.",
    )
    lease_s: float = Field(
        default=10.0,
        ge=0.5,
        le=600,
        allow_inf_nan=False,
        description="Seconds after which the batches of a gateway that died are taken up again.",
    )

    def files_directory(self, home: Path) -> Path:
        """The directory in force: ``directory``, or ``files`` in ``home``."""
        return self.directory if self.directory is not None else home / "files"
