"""One line of a batch: run until it has an answer, or until it is certain that it will get none."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from fastapi_foundry.errors import (
    EngineFailedError,
    EngineTimeoutError,
    EngineUnavailableError,
    FoundryError,
    InsufficientScopeError,
    LimitExceededError,
    ModelNotFoundError,
    ModelUnavailableError,
    OverloadedError,
    QueueFullError,
    QueueTimeoutError,
    StoppingError,
    StorageError,
    TokenBudgetExceededError,
)
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.admission import Priority
from fastapi_foundry.services.batch_owners import BatchOwners, OwnerGoneError
from fastapi_foundry.services.inference import InferenceService, OpenAIRequest
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.turns import Wish
from fastapi_foundry.storage.batches import BatchRecord, LineResult
from fastapi_foundry.wire.batches import BatchLine, checked_body, response_line
from fastapi_foundry.wire.errors import openai_error

__all__ = ["LineRunner", "needed_scope"]

logger = get_logger(__name__)

# The engine is away or has no room, or the owner has used up his minute: a matter of time.
_WAITED_FOR: Final = (
    EngineUnavailableError,
    QueueFullError,
    QueueTimeoutError,
    LimitExceededError,
    OverloadedError,
    StoppingError,
    StorageError,
)
# The engine broke, perhaps because of this very line.
_TRIED_AGAIN: Final = (EngineFailedError, EngineTimeoutError, ModelUnavailableError)
_MOST_TRIES: Final = 3
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 30.0
_DOUBLINGS: Final = 6
_SETTLING_S: Final = 120.0  # after a start, in which engines are found and started


def needed_scope(endpoint: str) -> Scope:
    """The right that the requests of a batch take."""
    return Scope.EMBEDDINGS if endpoint == "/v1/embeddings" else Scope.CHAT


class LineRunner:
    """Runs lines for all batches of this process.

    Args:
        inference: What generates.
        limits: The owners' limits.
        owners: Knows with whose rights a line runs.
        concurrency: Lines of one batch at the same time; one batch never waits for another one's model.
        all_ready: Whether every engine answers, so that a model which is not listed is nowhere.
        clock: Monotonic seconds.
        jitter: From 0 to 1, so that lines which wait for the same do not come back together.
    """

    def __init__(
        self,
        inference: InferenceService,
        limits: LimitsService,
        owners: BatchOwners,
        *,
        concurrency: int,
        all_ready: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.concurrency: Final = concurrency
        self._inference = inference
        self._limits = limits
        self._owners = owners
        self._all_ready = all_ready
        self._clock = clock
        self._patient_until = clock() + _SETTLING_S
        self._jitter = jitter

    async def run(self, batch: BatchRecord, line: BatchLine, stop: asyncio.Event) -> LineResult | None:
        """Run a line; None when ``stop`` was set while it waited for something.

        It waits for as long as the engine is away, whoever cancels this task bounds that.

        Raises:
            OwnerGoneError: The batch's key has been revoked or has expired.
        """
        request_id = f"{batch.id}-{line.number}"
        tries = waits = 0
        while not stop.is_set():
            try:
                # Rights and limits are those of this moment, so they are asked for each time.
                principal = await self._owners.principal(batch.key_id)
                return await self._once(batch, line, request_id, principal)
            except FoundryError as fact:
                if self._passes(fact):
                    waits += 1
                else:
                    tries += 1
                    if not isinstance(fact, _TRIED_AGAIN) or tries >= _MOST_TRIES:
                        return _failed(batch, line, request_id, fact)
                pause_s = self._pause_s(fact, max(waits, tries))
            except OwnerGoneError:
                raise
            # The top of one line: the others go on, whatever this was.
            except Exception as error:
                logger.exception("batch line crashed", batch_id=batch.id, line=line.number)
                return _failed(batch, line, request_id, error)
            await _pause(pause_s, stop)
        return None

    def _passes(self, error: FoundryError) -> bool:
        """Whether what stands in the way of a line is a matter of time."""
        if isinstance(error, ModelNotFoundError):
            return not self._all_ready() and self._clock() < self._patient_until
        return isinstance(error, _WAITED_FOR) and not isinstance(error, TokenBudgetExceededError)

    async def _once(self, batch: BatchRecord, line: BatchLine, request_id: str, principal: Principal) -> LineResult:
        scope = needed_scope(batch.endpoint)
        if not principal.may(scope):
            raise InsufficientScopeError(f"This takes the right '{scope}', which the key '{principal.name}' lacks.")
        request = _request(batch, line, request_id, principal)
        if not self._limits.apply_to(principal):
            return _done(batch, line, request_id, (await self._inference.complete(request)).body)
        ticket = await self._limits.take(principal)
        if ticket.refusal is not None:
            raise ticket.refusal
        try:
            return _done(batch, line, request_id, (await self._inference.complete(request)).body)
        finally:
            ticket.release()

    def _pause_s(self, fact: FoundryError, count: int) -> float:
        asked = getattr(fact, "retry_after_s", None)
        own = _FIRST_PAUSE_S * 2 ** min(count - 1, _DOUBLINGS) * (1 + self._jitter())
        return min(_LONGEST_PAUSE_S, own if asked is None else max(float(asked), _FIRST_PAUSE_S * self._jitter()))


def _request(batch: BatchRecord, line: BatchLine, request_id: str, principal: Principal) -> OpenAIRequest:
    """The line as the request that it would be by itself, but behind everybody who waits for an answer.

    Raises:
        InvalidInputError: It is wrong.
    """
    checked = checked_body(batch.endpoint, line.body)
    raw = orjson.dumps(line.body)
    return OpenAIRequest(batch.endpoint, raw, line.body, checked, request_id, principal, Wish(Priority.LOW))


def _done(batch: BatchRecord, line: BatchLine, request_id: str, body: bytes) -> LineResult:
    # Parsed and written again: an engine's own line ends would break the lines of the file.
    answer: dict[str, Any] = orjson.loads(body)
    usage = answer.get("usage")
    prompt, completion = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    text = response_line(batch.id, line, status=200, request_id=request_id, body=answer)
    return LineResult(line.number, ok=True, result=text, prompt_tokens=prompt, completion_tokens=completion)


def _failed(batch: BatchRecord, line: BatchLine, request_id: str, error: Exception) -> LineResult:
    said = openai_error(error)
    text = response_line(batch.id, line, status=said.status, request_id=request_id, body=said.body)
    return LineResult(line.number, ok=False, result=text)


def _count(usage: Any, name: str) -> int:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 2**31 else 0


async def _pause(seconds: float, stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
