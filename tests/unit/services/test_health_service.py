from __future__ import annotations

import asyncio
import time

import pytest

from fastapi_foundry.engines.base import EngineState
from fastapi_foundry.errors import EngineFailedError, EngineUnavailableError
from fastapi_foundry.services import health as health_module
from fastapi_foundry.services.health import HealthLevel, HealthService, HealthStatus
from fastapi_foundry.services.inference import InferenceDefaults, InferenceService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.stopping import Stopping
from tests.support.fake_engine import FakeEngine


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def service(engine: FakeEngine, *, stopping: Stopping | None = None, clock: Clock | None = None) -> HealthService:
    models = ModelsService(engine)
    inference = InferenceService(engine, models, InferenceDefaults("m:1", 0.7, 2048))
    return HealthService(
        engine, models, inference, stopping or Stopping(), default_model="m:1", clock=clock or time.monotonic
    )


async def test_all_is_well_when_every_level_passes() -> None:
    report = await service(FakeEngine()).report(HealthLevel.MODEL)
    assert report.status is HealthStatus.HEALTHY
    assert report.passed(HealthLevel.MODEL)
    assert (report.connected, report.models_count) == (True, 2)


async def test_level_gateway_asks_the_engine_nothing() -> None:
    engine = FakeEngine()
    report = await service(engine).report(HealthLevel.GATEWAY)
    assert (engine.lists, engine.calls, report.status) == (0, [], HealthStatus.HEALTHY)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (EngineState.STARTING, HealthStatus.DEGRADED),
        (EngineState.CRASHED, HealthStatus.DEGRADED),
        (EngineState.ABSENT, HealthStatus.UNHEALTHY),
    ],
)
async def test_an_engine_that_is_not_ready_shows(state: EngineState, status: HealthStatus) -> None:
    report = await service(FakeEngine(state=state, reason="why not")).report(HealthLevel.FOUNDRY)
    assert (report.status, report.connected, report.models_count) == (status, False, 0)
    assert report.checks[HealthLevel.FOUNDRY].detail == "why not"


async def test_a_silent_engine_is_reported_within_a_second() -> None:
    engine = FakeEngine(list_gate=asyncio.Event())
    begun = time.monotonic()
    report = await service(engine).report(HealthLevel.FOUNDRY)
    assert time.monotonic() - begun < 1.0
    assert (report.status, report.connected) == (HealthStatus.DEGRADED, False)
    engine.list_gate.set()


async def test_an_engine_that_fails_to_tell_its_models_is_reported_with_the_reason() -> None:
    report = await service(FakeEngine(list_error=EngineUnavailableError("gone fishing"))).report(HealthLevel.MODEL)
    assert report.checks[HealthLevel.FOUNDRY].detail == "gone fishing"
    assert not report.checks[HealthLevel.MODEL].passed
    assert not report.passed(HealthLevel.MODEL)


async def test_a_model_that_does_not_generate_degrades() -> None:
    report = await service(FakeEngine(error=EngineFailedError("broken"))).report(HealthLevel.MODEL)
    assert (report.status, report.connected) == (HealthStatus.DEGRADED, True)
    assert report.checks[HealthLevel.MODEL].detail == "broken"


async def test_a_model_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_module, "_MODEL_TIMEOUT_S", 0.05)
    engine = FakeEngine(gate=asyncio.Event())
    report = await service(engine).report(HealthLevel.MODEL)
    assert not report.checks[HealthLevel.MODEL].passed
    assert engine.calls[0].cancelled


async def test_a_generation_is_tried_once_for_everybody_and_kept_for_some_seconds() -> None:
    engine, clock = FakeEngine(), Clock()
    health = service(engine, clock=clock)
    await asyncio.gather(*(health.report(HealthLevel.MODEL) for _ in range(10)))
    await health.report(HealthLevel.MODEL)
    assert len(engine.calls) == 1
    clock.now += 5
    await health.report(HealthLevel.MODEL)
    assert len(engine.calls) == 2


async def test_a_gateway_that_is_about_to_end_is_unhealthy() -> None:
    stopping = Stopping()
    stopping.begin(0.0)
    report = await service(FakeEngine(), stopping=stopping).report(HealthLevel.FOUNDRY)
    assert report.status is HealthStatus.UNHEALTHY
    assert not report.passed(HealthLevel.GATEWAY)


async def test_uptime_counts_from_the_start() -> None:
    clock = Clock()
    health = service(FakeEngine(), clock=clock)
    clock.now += 12.5
    assert (await health.report(HealthLevel.GATEWAY)).uptime_s == 12.5
