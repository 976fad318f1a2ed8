"""Three levels of health: this gateway, the engine behind it, and a model that really generates.

The first two answer within a second whatever the engine does; the third is bounded to some seconds, shared
by everybody who asks at the same time, and its outcome is kept for a few seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fastapi_foundry.engines.base import Engine, EngineState, EngineStatus
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.services.inference import InferenceService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.stopping import Stopping
from fastapi_foundry.services.turns import Wish
from fastapi_foundry.wire.native import GenerateRequest

__all__ = ["CheckOutcome", "Health", "HealthLevel", "HealthService", "HealthStatus"]

_LIST_TIMEOUT_S: Final = 0.7
_MODEL_TIMEOUT_S: Final = 5.0
_MODEL_KEPT_S: Final = 5.0


class HealthLevel(StrEnum):
    """How deep to look; each level includes the ones before."""

    GATEWAY = "gateway"
    FOUNDRY = "foundry"
    MODEL = "model"


class HealthStatus(StrEnum):
    """The whole in one word."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  # answers, and something behind it is missing or on its way
    UNHEALTHY = "unhealthy"  # cannot do its work, and nothing is under way to change that


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """How one level did; ``duration`` in seconds."""

    passed: bool
    detail: str = ""
    duration: float = 0.0


@dataclass(frozen=True, slots=True)
class Health:
    """A report. ``checks`` holds the levels that were asked for."""

    status: HealthStatus
    engine: EngineStatus
    connected: bool
    models_count: int
    uptime_s: float
    default_model: str
    checks: dict[HealthLevel, CheckOutcome]

    def passed(self, level: HealthLevel) -> bool:
        """Whether ``level`` and all before it passed."""
        return all(outcome.passed for outcome in self.checks.values()) and level in self.checks


class HealthService:
    """Looks at the gateway and what is behind it.

    Args:
        clock: Monotonic seconds; the uptime counts from the construction.
    """

    def __init__(
        self,
        engine: Engine,
        models: ModelsService,
        inference: InferenceService,
        stopping: Stopping,
        *,
        default_model: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._models = models
        self._inference = inference
        self._stopping = stopping
        self._default_model = default_model
        self._clock = clock
        self._begun = clock()
        self._model_check: asyncio.Task[CheckOutcome] | None = None
        self._model_checked_at = float("-inf")

    async def report(self, level: HealthLevel) -> Health:
        """Look as deep as ``level``; never raises for what it finds."""
        checks = {HealthLevel.GATEWAY: CheckOutcome(not self._stopping.begun, self._gateway_detail())}
        if level is not HealthLevel.GATEWAY:
            checks[HealthLevel.FOUNDRY] = await self._check_foundry()
        if level is HealthLevel.MODEL:
            checks[HealthLevel.MODEL] = await self._check_model(checks[HealthLevel.FOUNDRY])
        engine = self._engine.status
        found = checks.get(HealthLevel.FOUNDRY)
        connected = engine.state.is_usable if found is None else found.passed
        return Health(
            status=self._status(engine, checks, connected=connected),
            engine=engine,
            connected=connected,
            models_count=len(self._models.last_known) if connected else 0,
            uptime_s=self._clock() - self._begun,
            default_model=self._default_model,
            checks=checks,
        )

    def _gateway_detail(self) -> str:
        return "The server is shutting down." if self._stopping.begun else ""

    def _status(
        self, engine: EngineStatus, checks: dict[HealthLevel, CheckOutcome], *, connected: bool
    ) -> HealthStatus:
        if self._stopping.begun or (engine.state is EngineState.ABSENT and not connected):
            return HealthStatus.UNHEALTHY
        if connected and all(outcome.passed for outcome in checks.values()):
            return HealthStatus.HEALTHY
        return HealthStatus.DEGRADED

    async def _check_foundry(self) -> CheckOutcome:
        begun = self._clock()
        status = self._engine.status
        if not status.state.is_usable:
            return CheckOutcome(passed=False, detail=status.reason or f"The engine is {status.state}.")
        try:
            async with asyncio.timeout(_LIST_TIMEOUT_S):
                cards = await self._models.cards()
        except TimeoutError:
            detail = f"The engine did not answer within {_LIST_TIMEOUT_S} s."
            return CheckOutcome(passed=False, detail=detail, duration=self._clock() - begun)
        except FoundryError as fact:
            return CheckOutcome(passed=False, detail=fact.message, duration=self._clock() - begun)
        detail = "" if cards else "The engine has no models."
        return CheckOutcome(passed=bool(cards), detail=detail, duration=self._clock() - begun)

    async def _check_model(self, foundry: CheckOutcome) -> CheckOutcome:
        if not foundry.passed:
            return CheckOutcome(passed=False, detail="Not tried, since the level before it failed.")
        if self._model_check is None or (
            self._model_check.done() and self._clock() - self._model_checked_at >= _MODEL_KEPT_S
        ):
            self._model_check = asyncio.create_task(self._generate_a_little())
        return await asyncio.shield(self._model_check)

    async def _generate_a_little(self) -> CheckOutcome:
        begun = self._clock()
        request = GenerateRequest(prompt="Hi", max_tokens=1, temperature=0.0)
        try:
            async with asyncio.timeout(_MODEL_TIMEOUT_S):
                await self._inference.generate(request, request_id="health", wish=Wish(cache="off"))
            outcome = CheckOutcome(passed=True, duration=self._clock() - begun)
        except TimeoutError:
            detail = f"The model '{self._default_model}' did not answer within {_MODEL_TIMEOUT_S:.0f} s."
            outcome = CheckOutcome(passed=False, detail=detail, duration=self._clock() - begun)
        except FoundryError as fact:
            outcome = CheckOutcome(passed=False, detail=fact.message, duration=self._clock() - begun)
        self._model_checked_at = self._clock()
        return outcome
