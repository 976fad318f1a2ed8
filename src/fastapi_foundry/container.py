"""What the edges get: every service, in one frozen value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi_foundry.engines.base import Engine, EngineReport
from fastapi_foundry.engines.via import Via
from fastapi_foundry.services.access import AccessService
from fastapi_foundry.services.admission import Admission
from fastapi_foundry.services.batch_jobs import BatchJobsService
from fastapi_foundry.services.batch_worker import BatchWorker
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.express import ExpressService
from fastapi_foundry.services.files import FilesService
from fastapi_foundry.services.health import HealthService
from fastapi_foundry.services.inference import InferenceService
from fastapi_foundry.services.keys import KeysService
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.response_cache import ResponseCache
from fastapi_foundry.services.sessions import SessionsService
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.services.upkeep import Upkeep
from fastapi_foundry.services.usage import UsageService
from fastapi_foundry.settings import Settings
from fastapi_foundry.storage.audit import AuditStore
from fastapi_foundry.storage.database import Database

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """Made once by ``bootstrap``, shared by every request.

    Attributes:
        cache: Answers that are kept; None where none are.
        engine_reports: How each engine behind ``engine`` is now; never waits.
        via: Which gateways a request has passed, this one among them.
    """

    settings: Settings
    engine: Engine
    models: ModelsService
    inference: InferenceService
    express: ExpressService
    batches: BatchesService
    files: FilesService
    batch_jobs: BatchJobsService
    batch_worker: BatchWorker
    access: AccessService
    keys: KeysService
    sessions: SessionsService
    usage: UsageService
    limits: LimitsService
    cache: ResponseCache | None
    admission: Admission
    audit: AuditStore
    upkeep: Upkeep
    database: Database
    health: HealthService
    stopping: Stopping
    engine_reports: Callable[[], list[EngineReport]]
    via: Via
