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
from fastapi_foundry.engines.way import RoutedEngine
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.health import HealthService
from fastapi_foundry.services.inference import InferenceDefaults, InferenceService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.settings import FOUNDRY, Settings

__all__ = ["build_engine", "build_services"]


def build_services(settings: Settings, *, engine: Engine | None = None, config_path: Path | None = None) -> Services:
    """Put the services together; nothing is started, opened or looked for yet.

    Args:
        engine: Instead of Foundry Local.
        config_path: The configuration file in use, for a service that has to be started with the same.
    """
    router = build_engine(settings, foundry=engine, config_path=config_path)
    ai, server = settings.foundry_ai, settings.fastapi_server
    models = ModelsService(router)
    defaults = InferenceDefaults(model=ai.default_model, temperature=ai.temperature, max_tokens=ai.max_tokens)
    inference = InferenceService(router, models, defaults)
    stopping = Stopping()
    return Services(
        settings=settings,
        engine=router,
        models=models,
        inference=inference,
        batches=BatchesService(inference, max_prompts=server.max_batch_prompts, concurrency=server.batch_concurrency),
        health=HealthService(router, models, inference, stopping, default_model=ai.default_model),
        stopping=stopping,
        engine_reports=router.reports,
    )


def build_engine(settings: Settings, *, foundry: Engine | None = None, config_path: Path | None = None) -> Router:
    """Foundry Local and the configured engines behind one router; nothing is started or looked for yet.

    Raises:
        ConfigurationError: An engine's key is not where the settings say.
    """
    first = RoutedEngine(FOUNDRY, foundry or _repaired(FoundryLocalEngine(settings, config_path=config_path), settings))
    others = [
        RoutedEngine(entry.name, _repaired(OpenAIHttpEngine(entry, settings.foundry_ai), settings), weight=entry.weight)
        for entry in settings.engines
    ]
    return Router(
        [first, *others],
        settings.model_aliases,
        patience_s=settings.foundry_ai.first_byte_timeout_s,
        ready_s=settings.foundry_service.start_timeout_s,
    )


def _repaired(engine: FoundryLocalEngine | OpenAIHttpEngine, settings: Settings) -> RepairingEngine:
    """The engine with what it does otherwise than OpenAI's API made good."""
    if not settings.foundry_ai.probe_engines:
        return RepairingEngine(engine, lambda: known_profile(engine.kind))
    cache = ProfileCache(settings.home / "engine-profiles.json")
    return RepairingEngine(engine, LearnedProfile(engine, lambda: engine.kind, cache))
