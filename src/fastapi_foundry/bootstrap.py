"""From settings to services: the one module that names concrete classes."""

from __future__ import annotations

from pathlib import Path

from fastapi_foundry.container import Services
from fastapi_foundry.engines.base import Engine
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.openai_http import OpenAIHttpEngine
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.learning import LearnedProfile
from fastapi_foundry.engines.repair.profile import known_profile
from fastapi_foundry.engines.repair.profile_cache import ProfileCache
from fastapi_foundry.engines.router import Router
from fastapi_foundry.engines.via import Via
from fastapi_foundry.engines.way import RoutedEngine
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.services.access import AccessPolicy, AccessService
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.health import HealthService
from fastapi_foundry.services.inference import InferenceDefaults, InferenceService
from fastapi_foundry.services.keys import KeysService
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.sessions import SessionsService
from fastapi_foundry.services.shared_windows import SharedWindows
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.services.upkeep import Upkeep
from fastapi_foundry.services.usage import UsageService
from fastapi_foundry.settings import FOUNDRY, LimitsSettings, Settings
from fastapi_foundry.settings.values import is_loopback_host
from fastapi_foundry.storage.address import database_address
from fastapi_foundry.storage.audit import AuditStore
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.usage import UsageStore

__all__ = ["access_policy", "build_engine", "build_services"]


def build_services(settings: Settings, *, engine: Engine | None = None, config_path: Path | None = None) -> Services:
    """Put the services together; nothing is started, opened or looked for yet.

    Args:
        engine: Instead of Foundry Local.
        config_path: The configuration file in use, for a service that has to be started with the same.
    """
    via = Via()
    router = build_engine(settings, foundry=engine, config_path=config_path, via=via)
    ai, server = settings.foundry_ai, settings.fastapi_server
    models = ModelsService(router)
    defaults = InferenceDefaults(model=ai.default_model, temperature=ai.temperature, max_tokens=ai.max_tokens)
    database = Database(database_address(settings))
    usage_store, audit = UsageStore(database), AuditStore(database)
    usage = UsageService(usage_store)
    limits = build_limits(settings.limits, usage)
    inference = InferenceService(router, models, defaults, usage=usage, limits=limits)
    stopping = Stopping()
    key_store = KeyStore(database)
    access = AccessService(key_store, access_policy(settings))
    return Services(
        settings=settings,
        engine=router,
        models=models,
        inference=inference,
        batches=BatchesService(inference, max_prompts=server.max_batch_prompts, concurrency=server.batch_concurrency),
        access=access,
        keys=KeysService(key_store),
        sessions=SessionsService(key_store, access, hours=settings.security.session_hours),
        usage=usage,
        limits=limits,
        audit=audit,
        upkeep=Upkeep(
            access=access,
            keys=key_store,
            usage=usage_store,
            audit=audit,
            usage_days=settings.usage.keep_days,
            audit_days=settings.audit.keep_days,
        ),
        database=database,
        health=HealthService(router, models, inference, stopping, default_model=ai.default_model),
        stopping=stopping,
        engine_reports=router.reports,
        via=via,
    )


def build_engine(
    settings: Settings, *, foundry: Engine | None = None, config_path: Path | None = None, via: Via | None = None
) -> Router:
    """Foundry Local and the configured engines behind one router; nothing is started or looked for yet.

    Args:
        foundry: Instead of Foundry Local.
        config_path: The configuration file in use, for a service that has to be started with the same.
        via: Tells further engines which gateways a request has passed.

    Raises:
        ConfigurationError: An engine's key is not where the settings say.
    """
    first = RoutedEngine(FOUNDRY, foundry or _repaired(FoundryLocalEngine(settings, config_path=config_path), settings))
    others = [
        RoutedEngine(
            entry.name,
            _repaired(OpenAIHttpEngine(entry, settings.foundry_ai, index=index, via=via), settings),
            weight=entry.weight,
        )
        for index, entry in enumerate(settings.engines)
    ]
    return Router(
        [first, *others],
        settings.model_aliases,
        patience_s=settings.foundry_ai.first_byte_timeout_s,
        ready_s=settings.foundry_service.start_timeout_s,
    )


def build_limits(settings: LimitsSettings, usage: UsageService) -> LimitsService:
    """The limits of all clients together, counted in Redis where the settings name one."""
    url = settings.storage_url
    shared = None if url is None else SharedWindows(url.get_secret_value())
    return LimitsService(KeyLimits(**settings.model_dump(exclude={"storage_url"})), usage, shared)


def access_policy(settings: Settings) -> AccessPolicy:
    """Who needs a key, as the settings say."""
    admin_key = settings.security.admin_key
    return AccessPolicy(
        require=settings.security.require_key,
        listens_remotely=not is_loopback_host(settings.fastapi_server.host),
        admin_key=None if admin_key is None else admin_key.get_secret_value(),
    )


def _repaired(engine: FoundryLocalEngine | OpenAIHttpEngine, settings: Settings) -> RepairingEngine:
    """The engine with what it does otherwise than OpenAI's API made good."""
    if not settings.foundry_ai.probe_engines:
        return RepairingEngine(engine, lambda: known_profile(engine.kind))
    cache = ProfileCache(settings.home / "engine-profiles.json")
    return RepairingEngine(engine, LearnedProfile(engine, lambda: engine.kind, lambda: engine.version, cache))
