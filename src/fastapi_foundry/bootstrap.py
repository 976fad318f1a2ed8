"""From settings to services: the one module that names concrete classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi_foundry.container import Services
from fastapi_foundry.engines.base import Engine
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.openai_http import OpenAIHttpEngine
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.learning import LearnedProfile
from fastapi_foundry.engines.repair.profile import known_profile
from fastapi_foundry.engines.repair.profile_cache import ProfileCache
from fastapi_foundry.engines.router import Router
from fastapi_foundry.engines.via import Via
from fastapi_foundry.engines.way import MANY_PLACES, RoutedEngine
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.key_store import KeyStore
from fastapi_foundry.services.access import AccessPolicy, AccessService
from fastapi_foundry.services.admission import Admission, QueueLimits
from fastapi_foundry.services.batch_files import BatchFiles
from fastapi_foundry.services.batch_jobs import BatchJobsService
from fastapi_foundry.services.batch_lines import LineRunner
from fastapi_foundry.services.batch_owners import BatchOwners
from fastapi_foundry.services.batch_run import BatchTools
from fastapi_foundry.services.batch_worker import BatchWorker
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.cached_answers import CachedAnswers
from fastapi_foundry.services.context import ContextService
from fastapi_foundry.services.express import ExpressService
from fastapi_foundry.services.files import FileLimits, FilesService
from fastapi_foundry.services.health import HealthService
from fastapi_foundry.services.inference import InferenceDefaults, InferenceService
from fastapi_foundry.services.keys import KeysService
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.response_cache import CacheLimits, ResponseCache
from fastapi_foundry.services.sessions import SessionsService
from fastapi_foundry.services.shared_windows import SharedWindows
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.services.truncation import Truncation
from fastapi_foundry.services.turns import Turns
from fastapi_foundry.services.upkeep import Upkeep
from fastapi_foundry.services.usage import UsageService
from fastapi_foundry.settings import FOUNDRY, QUALIFIER, LimitsSettings, Settings
from fastapi_foundry.settings.values import is_loopback_host
from fastapi_foundry.storage.address import database_address
from fastapi_foundry.storage.audit import AuditStore
from fastapi_foundry.storage.batches import BatchStore
from fastapi_foundry.storage.database import Database
from fastapi_foundry.storage.file_contents import FileContents
from fastapi_foundry.storage.stored_files import FileStore, Held
from fastapi_foundry.storage.usage import UsageStore

_WITHOUT_A_QUEUE: Final = frozenset({EngineKind.GEN1, EngineKind.GEN3})

__all__ = ["access_policy", "build_engine", "build_services"]


def build_services(
    settings: Settings,
    *,
    engine: Engine | None = None,
    foundry: FoundryLocalEngine | None = None,
    config_path: Path | None = None,
) -> Services:
    """Put the services together; nothing is started, opened or looked for yet.

    Args:
        engine: Instead of Foundry Local.
        foundry: Foundry Local, where it has been started already.
        config_path: The configuration file in use, for a service that has to be started with the same.
    """
    via = Via()
    router = build_engine(settings, engine=engine, foundry=foundry, config_path=config_path, via=via)
    ai, server = settings.foundry_ai, settings.fastapi_server
    cached = build_cache(settings, router)
    models = ModelsService(router) if cached is None else ModelsService(router, changed=cached.forget_all)
    defaults = InferenceDefaults(model=ai.default_model, temperature=ai.temperature, max_tokens=ai.max_tokens)
    database = Database(database_address(settings))
    usage_store, audit = UsageStore(database), AuditStore(database)
    usage = UsageService(usage_store)
    limits = build_limits(settings.limits, usage)
    queue = settings.queue
    admission = Admission(QueueLimits(queue.max_waiting, queue.max_wait_s, queue.aging_s))
    turns = Turns(admission, router.lane, models.state_of)
    inference = InferenceService(
        router,
        models,
        defaults,
        usage=usage,
        limits=limits,
        turns=turns,
        truncation=Truncation(ContextService(router, models)),
        cached=cached,
    )
    stopping = Stopping()
    key_store = KeyStore(database)
    access = AccessService(key_store, access_policy(settings))
    express = ExpressService(
        access=access,
        limits=limits,
        models=models,
        generations=inference.generations,
        router=router,
        admission=admission,
        stopping=stopping,
        uses_cache=cached is not None,
        notice_s=queue.notice_s,
        keepalive_s=server.keepalive_s,
    )
    files, batch_jobs, batch_worker = build_batches(
        settings,
        database,
        inference,
        limits,
        BatchOwners(key_store, admin_key_id=access.policy.admin_key_id),
        stopping,
        lambda: all(report.status.state.is_usable for report in router.reports()),
    )
    return Services(
        settings=settings,
        engine=router,
        models=models,
        inference=inference,
        express=express,
        batches=BatchesService(inference, max_prompts=server.max_batch_prompts, concurrency=server.batch_concurrency),
        files=files,
        batch_jobs=batch_jobs,
        batch_worker=batch_worker,
        access=access,
        keys=KeysService(key_store),
        sessions=SessionsService(key_store, access, hours=settings.security.session_hours),
        usage=usage,
        limits=limits,
        cache=None if cached is None else cached.cache,
        admission=admission,
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
    settings: Settings,
    *,
    engine: Engine | None = None,
    foundry: FoundryLocalEngine | None = None,
    config_path: Path | None = None,
    via: Via | None = None,
) -> Router:
    """Foundry Local and the configured engines behind one router; nothing is started or looked for yet.

    Args:
        engine: Instead of Foundry Local.
        foundry: Foundry Local, where it has been started already.
        config_path: The configuration file in use, for a service that has to be started with the same.
        via: Tells further engines which gateways a request has passed.

    Raises:
        ConfigurationError: An engine's key is not where the settings say.
    """
    if engine is not None:
        first = RoutedEngine(FOUNDRY, engine)
    else:
        local = foundry or FoundryLocalEngine(settings, config_path=config_path)
        first = RoutedEngine(FOUNDRY, _repaired(local, settings), places=_places(local, settings))
    others = [
        RoutedEngine(
            entry.name,
            _repaired(OpenAIHttpEngine(entry, settings.foundry_ai, index=index, via=via), settings),
            weight=entry.weight,
            places=_fixed_places(entry.max_active or MANY_PLACES),
        )
        for index, entry in enumerate(settings.engines)
    ]
    return Router(
        [first, *others],
        settings.model_aliases,
        patience_s=settings.foundry_ai.first_byte_timeout_s,
        ready_s=settings.foundry_service.start_timeout_s,
    )


def build_batches(
    settings: Settings,
    database: Database,
    inference: InferenceService,
    limits: LimitsService,
    owners: BatchOwners,
    stopping: Stopping,
    all_ready: Callable[[], bool],
) -> tuple[FilesService, BatchJobsService, BatchWorker]:
    """Files, the Batch API over them, and what works on batches in this process."""
    given, line_bytes = settings.batches, settings.fastapi_server.max_body_bytes
    contents = FileContents(given.files_directory(settings.home))
    most = Held(given.max_files_per_key, given.max_bytes_per_key)
    files = FilesService(FileStore(database), contents, FileLimits(given.max_file_bytes, most, given.file_days))
    store = BatchStore(database, lease_s=given.lease_s)
    tools = BatchTools(
        store=store,
        contents=contents,
        files=BatchFiles(store, contents, days=given.file_days, max_line_bytes=line_bytes),
        lines=LineRunner(inference, limits, owners, concurrency=given.concurrency, all_ready=all_ready),
        stopping=stopping,
        max_lines=given.max_requests,
        max_line_bytes=line_bytes,
        lease_s=given.lease_s,
    )
    worker = BatchWorker(
        tools,
        files,
        stopping,
        max_running=given.max_running,
        keep_days=given.keep_days,
        grace_s=settings.fastapi_server.shutdown_timeout_s,
    )
    jobs = BatchJobsService(store, files, worker, window_s=given.window_s, max_open=given.max_open_per_key)
    return files, jobs, worker


def build_limits(settings: LimitsSettings, usage: UsageService) -> LimitsService:
    """The limits of all clients together, counted in Redis where the settings name one."""
    url = settings.storage_url
    shared = None if url is None else SharedWindows(url.get_secret_value())
    return LimitsService(KeyLimits(**settings.model_dump(exclude={"storage_url"})), usage, shared)


def build_cache(settings: Settings, router: Router) -> CachedAnswers | None:
    """The cache of answers; None where there is to be none."""
    given = settings.cache
    if not given.enabled:
        return None

    def engine_of(model: str) -> str:
        """The queue of a model, and where those are that may answer: another process may have other models."""
        lane, _ = router.lane(model)
        name, qualifier, _ = lane.partition(QUALIFIER)
        engines = [router.engines[name]] if qualifier and name in router.engines else router.engines.values()
        states = [routed.engine.status for routed in engines]
        return f"{lane} {[(state.url, state.pid) for state in states]}"

    cache = ResponseCache(CacheLimits(given.max_bytes, given.max_entry_bytes, given.ttl_s))
    return CachedAnswers(cache, engine_of, shared=given.shared, max_entry_bytes=given.max_entry_bytes)


def access_policy(settings: Settings) -> AccessPolicy:
    """Who needs a key, as the settings say."""
    admin_key = settings.security.admin_key
    return AccessPolicy(
        require=settings.security.require_key,
        listens_remotely=not is_loopback_host(settings.fastapi_server.host),
        admin_key=None if admin_key is None else admin_key.get_secret_value(),
    )


def _fixed_places(count: int) -> Callable[[tuple[str, ...]], int]:
    return lambda _names: count


def _places(engine: FoundryLocalEngine, settings: Settings) -> Callable[[tuple[str, ...]], int]:
    """How many requests of a model Foundry Local, or what stands in its place, is to get at the same time."""
    service, given = settings.foundry_service, settings.foundry_ai.max_active

    def places(names: tuple[str, ...]) -> int:
        if given is not None:
            return given
        kind = engine.kind
        if kind in _WITHOUT_A_QUEUE:
            return service.max_active_per_model
        if kind is not EngineKind.OURS:
            return MANY_PLACES
        wanted = service.model_replicas
        replicas = (
            next((wanted[name] for name in names if name in wanted), service.replicas) if wanted else service.replicas
        )
        return service.max_active_per_model * replicas

    return places


def _repaired(engine: FoundryLocalEngine | OpenAIHttpEngine, settings: Settings) -> RepairingEngine:
    """The engine with what it does otherwise than OpenAI's API made good."""
    if not settings.foundry_ai.probe_engines:
        return RepairingEngine(engine, lambda: known_profile(engine.kind))
    cache = ProfileCache(settings.home / "engine-profiles.json")
    return RepairingEngine(engine, LearnedProfile(engine, lambda: engine.kind, lambda: engine.version, cache))
