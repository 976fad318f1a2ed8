"""From settings to services: the one module that names concrete classes."""

from __future__ import annotations

from pathlib import Path

from fastapi_foundry.container import Services
from fastapi_foundry.engines.base import Engine
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.health import HealthService
from fastapi_foundry.services.inference import InferenceDefaults, InferenceService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.settings import Settings

__all__ = ["build_services"]


def build_services(settings: Settings, *, engine: Engine | None = None, config_path: Path | None = None) -> Services:
    """Put the services together; nothing is started, opened or looked for yet.

    Args:
        engine: Another engine than Foundry Local.
        config_path: The configuration file in use, for a service that has to be started with the same.
    """
    if engine is None:
        from fastapi_foundry.engines.foundry_local import FoundryLocalEngine  # noqa: PLC0415 - only when it is used

        engine = FoundryLocalEngine(settings, config_path=config_path)
    ai, server = settings.foundry_ai, settings.fastapi_server
    models = ModelsService(engine)
    defaults = InferenceDefaults(model=ai.default_model, temperature=ai.temperature, max_tokens=ai.max_tokens)
    inference = InferenceService(engine, models, defaults)
    stopping = Stopping()
    return Services(
        settings=settings,
        engine=engine,
        models=models,
        inference=inference,
        batches=BatchesService(inference, max_prompts=server.max_batch_prompts, concurrency=server.batch_concurrency),
        health=HealthService(engine, models, inference, stopping, default_model=ai.default_model),
        stopping=stopping,
    )
