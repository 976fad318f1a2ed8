"""What every command gets: the global options, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fastapi_foundry.settings import Settings

__all__ = ["Invocation", "JsonFlag", "ModelName", "invocation", "log_directory"]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Model id (`name:1`) or alias (`name`).")]


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options of one call.

    Attributes:
        config: The configuration file asked for, or None.
        debug: Whether an unexpected error shows its traceback.
    """

    config: Path | None = None
    debug: bool = False

    def settings(self, overrides: Mapping[str, object] | None = None) -> Settings:
        """Load the settings; ``overrides`` (dotted keys) are flags and beat everything, None values are left out.

        Raises:
            ConfigurationError: A key is unknown or a value is wrong.
        """
        from fastapi_foundry.settings import load_settings  # noqa: PLC0415 - 0.1 s that --help need not pay

        return load_settings(self.config, overrides=overrides or {})


def invocation(ctx: typer.Context) -> Invocation:
    """The global options that came before the command."""
    found = ctx.find_object(Invocation)
    return found if found is not None else Invocation()


def log_directory(settings: Settings) -> Path:
    """Where the log files lie."""
    return settings.logging.directory(settings.home)
