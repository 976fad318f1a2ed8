"""What the edges get: every service, in one frozen value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi_foundry.engines.base import Engine, EngineReport
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.health import HealthService
from fastapi_foundry.services.inference import InferenceService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.settings import Settings

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """Made once by ``bootstrap``, shared by every request.

    Attributes:
        engine_reports: How each engine behind ``engine`` is now; never waits.
    """

    settings: Settings
    engine: Engine
    models: ModelsService
    inference: InferenceService
    batches: BatchesService
    health: HealthService
    stopping: Stopping
    engine_reports: Callable[[], list[EngineReport]]
