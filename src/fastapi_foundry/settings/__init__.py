"""The settings: ``config.json``, the environment and flags as one frozen, validated value.

Nothing is read at import; :func:`load_settings` reads, once, what it is told to.
"""

from __future__ import annotations

from fastapi_foundry.settings.cache import CacheSettings
from fastapi_foundry.settings.description import Setting, describe_settings
from fastapi_foundry.settings.engines import (
    FOUNDRY,
    QUALIFIER,
    EngineSettings,
    ModelRouteSettings,
    ReplicaSettings,
    route_groups,
)
from fastapi_foundry.settings.loading import load_settings
from fastapi_foundry.settings.queue import QueueSettings
from fastapi_foundry.settings.sections import (
    AuditSettings,
    FastAPIServerSettings,
    FoundryAISettings,
    FoundryServiceSettings,
    HttpLimitsSettings,
    LimitsSettings,
    LoggingSettings,
    PortManagementSettings,
    SecuritySettings,
    Settings,
    StorageSettings,
    TlsSettings,
    UsageSettings,
)

__all__ = [
    "FOUNDRY",
    "QUALIFIER",
    "AuditSettings",
    "CacheSettings",
    "EngineSettings",
    "FastAPIServerSettings",
    "FoundryAISettings",
    "FoundryServiceSettings",
    "HttpLimitsSettings",
    "LimitsSettings",
    "LoggingSettings",
    "ModelRouteSettings",
    "PortManagementSettings",
    "QueueSettings",
    "ReplicaSettings",
    "SecuritySettings",
    "Setting",
    "Settings",
    "StorageSettings",
    "TlsSettings",
    "UsageSettings",
    "describe_settings",
    "load_settings",
    "route_groups",
]
