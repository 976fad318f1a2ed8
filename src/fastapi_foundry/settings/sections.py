"""The settings as types: one frozen model for each section of ``config.json``.

Units are part of the names (``_s`` seconds, ``_bytes`` bytes) and of the descriptions, which
``docs/configuration.md`` repeats. Values are validated strictly: the text ``"yes"`` is no integer.
Building :class:`Settings` by hand reads nothing but the home directory's place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fastapi_foundry.settings.batches import BatchesSettings
from fastapi_foundry.settings.cache import CacheSettings
from fastapi_foundry.settings.engines import EngineSettings, ModelRoute, check_routes
from fastapi_foundry.settings.foundry_service import FoundryServiceSettings
from fastapi_foundry.settings.http_limits import HttpLimitsSettings
from fastapi_foundry.settings.limits import AuditSettings, LimitsSettings, UsageSettings
from fastapi_foundry.settings.queue import QueueSettings
from fastapi_foundry.settings.security import SecuritySettings
from fastapi_foundry.settings.storage import StorageSettings
from fastapi_foundry.settings.tls import TlsSettings
from fastapi_foundry.settings.values import (
    ListeningPort,
    Port,
    Seconds,
    engine_base_url,
    log_level,
    non_empty,
    require_ordered,
)

__all__ = [
    "AuditSettings",
    "BatchesSettings",
    "CacheSettings",
    "FastAPIServerSettings",
    "FoundryAISettings",
    "FoundryServiceSettings",
    "HttpLimitsSettings",
    "LimitsSettings",
    "LoggingSettings",
    "PortManagementSettings",
    "QueueSettings",
    "SecuritySettings",
    "Settings",
    "StorageSettings",
    "TlsSettings",
    "UsageSettings",
    "default_home",
]

Text = Annotated[str, AfterValidator(non_empty)]
Directory = Annotated[Path, Field(strict=False)]


def default_home(environ: Mapping[str, str]) -> Path:
    """Where everything of ours lives unless ``FOUNDRY_HOME`` says otherwise: ``~/.foundry``.

    An empty ``HOME`` counts as none, so that nothing is ever put into the root directory.
    """
    name = "USERPROFILE" if os.name == "nt" else "HOME"
    given = environ.get(name, "")
    if given:
        return Path(given).absolute() / ".foundry"
    if os.name == "nt":
        return Path("~").expanduser() / ".foundry"
    import pwd  # noqa: PLC0415 - does not exist on Windows

    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".foundry"


class _Section(BaseModel):
    # An input may hold a password, and the text of a cause can reach a log.
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=False, hide_input_in_errors=True
    )


class FoundryAISettings(_Section):
    """How the gateway reaches the engine and what it asks for by default."""

    base_url: Annotated[str, AfterValidator(engine_base_url)] | None = Field(
        default=None,
        description="Address of a running Foundry on this machine, such as `http://127.0.0.1:50477`; a trailing `/v1` is "
        "dropped. Unset: it is looked for, and started if `foundry_service.start` allows that.",
    )
    default_model: Text = Field(
        default="foundry-demo:1", description="Model id or alias for requests that name none.", max_length=256
    )
    temperature: float = Field(
        default=0.7,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="Sampling temperature (0 to 2) for requests to `/api/v1/generate` that name none.",
    )
    max_tokens: int = Field(
        default=2048,
        ge=1,
        le=1_048_576,
        description="Longest answer, in tokens, for requests that name none; clamped to what the model's context leaves.",
    )
    timeout_s: Seconds = Field(
        default=300.0, description="Seconds that a whole answer may take when it is not streamed."
    )
    first_byte_timeout_s: Seconds = Field(
        default=300.0, description="Seconds until the first byte of a streamed answer, the model's load included."
    )
    idle_timeout_s: Seconds = Field(default=120.0, description="Seconds of silence allowed within a streamed answer.")
    connect_timeout_s: Seconds = Field(default=2.0, description="Seconds for a connection to the engine to be made.")
    max_active: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests of one model that the engine gets at the same time; further ones wait in the queue. Unset: "
        "`foundry_service.max_active_per_model` for each replica; 1024 for a server that is no Foundry Local.",
    )
    preload: bool = Field(default=True, description="Load the default model at start, before the first request.")
    discovery: bool = Field(
        default=True, description="Look for a running Foundry (daemon file, CLI, port scan) before one is started."
    )
    probe_engines: bool = Field(
        default=True,
        description="After the first answer of an engine other than our own, find out by some twenty small requests what "
        "it does otherwise than OpenAI's API; kept in `engine-profiles.json` in `home`.",
    )


class FastAPIServerSettings(_Section):
    """The gateway's own HTTP server."""

    host: Text = Field(default="127.0.0.1", description="Address to listen on; loopback unless you say otherwise.")
    port: ListeningPort = Field(default=9696, description="Port to listen on; 0 lets the system choose.")
    max_body_bytes: int = Field(
        default=10_485_760,
        ge=1024,
        le=1_073_741_824,
        description="Largest request body, in bytes; larger ones get 413.",
    )
    max_batch_prompts: int = Field(
        default=256, ge=1, le=100_000, description="Most prompts in one request to `/api/v1/generate/batch`."
    )
    batch_concurrency: int = Field(
        default=4, ge=1, le=256, description="Prompts of one batch that are sent to the engine at the same time."
    )
    shutdown_timeout_s: Seconds = Field(
        default=5.0, description="Seconds that running answers get to finish when the gateway is told to stop."
    )
    keepalive_s: Seconds = Field(
        default=10.0,
        description="Seconds of silence after which a stream gets a comment, so that no client or proxy gives up.",
    )


class PortManagementSettings(_Section):
    """What to do when the gateway's port is taken."""

    conflict_resolution: Literal["next_free", "fail"] = Field(
        default="next_free",
        description="`next_free` takes the next free port of the range; `fail` ends with a message. "
        "No process that we did not start is ever killed.",
    )
    auto_find_free_port: bool = Field(
        default=True, description="False is the same as `conflict_resolution` = `fail`, whatever that says."
    )
    port_range_start: Port = Field(default=9696, description="First port to try when the configured one is taken.")
    port_range_end: Port = Field(default=9796, description="Last port to try, itself included.")

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        require_ordered(self.port_range_start, self.port_range_end)
        return self


class LoggingSettings(_Section):
    """What is logged, where to, and how much of it is kept."""

    mode: Literal["prod", "dev"] = Field(
        default="prod",
        description="`prod`: INFO and up to the files, only critical on the console. `dev`: DEBUG, also on the console, "
        "with line numbers.",
    )
    level: Annotated[str, AfterValidator(log_level)] | None = Field(
        default=None, description="DEBUG, INFO, WARNING, ERROR or CRITICAL; beats the mode, on the console too."
    )
    dir: Directory | None = Field(default=None, description="Directory of the log files. Unset: `logs` in `home`.")
    max_file_bytes: int = Field(
        default=10_485_760, ge=1024, le=1_073_741_824, description="Size in bytes at which a log file is rotated."
    )
    backup_count: int = Field(default=5, ge=0, le=100, description="Rotated files kept of each log file.")

    def directory(self, home: Path) -> Path:
        """The directory in force: ``dir``, or ``logs`` in ``home``."""
        return self.dir if self.dir is not None else home / "logs"


class Settings(_Section):
    """All settings; :func:`fastapi_foundry.settings.load_settings` makes them from their sources."""

    home: Directory = Field(
        default_factory=lambda: default_home(os.environ),
        description="Directory for models, state and logs. Unset: `~/.foundry`.",
    )
    foundry_ai: FoundryAISettings = FoundryAISettings()
    fastapi_server: FastAPIServerSettings = FastAPIServerSettings()
    http_limits: HttpLimitsSettings = HttpLimitsSettings()
    tls: TlsSettings = TlsSettings()
    security: SecuritySettings = SecuritySettings()
    limits: LimitsSettings = LimitsSettings()
    usage: UsageSettings = UsageSettings()
    audit: AuditSettings = AuditSettings()
    port_management: PortManagementSettings = PortManagementSettings()
    foundry_service: FoundryServiceSettings = FoundryServiceSettings()
    queue: QueueSettings = QueueSettings()
    cache: CacheSettings = CacheSettings()
    batches: BatchesSettings = BatchesSettings()
    logging: LoggingSettings = LoggingSettings()
    storage: StorageSettings = StorageSettings()
    engines: list[EngineSettings] = Field(
        default=[],
        max_length=64,
        description="Further engines beside Foundry Local, each an object as described below.",
    )
    model_aliases: dict[str, ModelRoute] = Field(
        default={},
        max_length=1000,
        description="Names of your own for models: a model, a list of fallbacks, or an object with replicas.",
    )

    @model_validator(mode="after")
    def _routes_make_sense(self) -> Self:
        check_routes(self.engines, self.model_aliases)
        return self

    @property
    def log_directory(self) -> Path:
        """Where the log files are."""
        return self.logging.directory(self.home)
