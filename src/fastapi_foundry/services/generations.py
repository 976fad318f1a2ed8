"""What becomes of each generation: a line in the log, its place in the record of use, and its tokens counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from fastapi_foundry.errors import (
    ForbiddenError,
    InvalidInputError,
    LimitExceededError,
    ModelNotFoundError,
    QueueFullError,
    QueueTimeoutError,
)
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.security.principal import Principal
from fastapi_foundry.services.limit_tickets import Meter
from fastapi_foundry.services.usage import UNKNOWN_MODEL, Use

__all__ = ["Generation", "Generations", "NullLimits", "NullUsage", "TokenLimits", "UseRecorder"]

logger = get_logger(__name__)

_BYTES_PER_TOKEN: Final = 4  # of English text, by common tokenizers; other languages have fewer
_MOST_TOKENS: Final = 10**9
_NOT_FAILED: Final = frozenset({"ok", "cancelled"})


class UseRecorder(Protocol):
    """Where use is recorded."""

    def record(self, use: Use) -> None:
        """Note what a request used; never waits."""
        ...


class TokenLimits(Protocol):
    """Where tokens are held against limits."""

    def spend(self, principal: Principal, tokens: int) -> None:
        """Count tokens that have been used; never waits."""
        ...

    def meter(self, principal: Principal) -> Meter | None:
        """What watches over a stream; None where nothing limits it."""
        ...


class NullUsage:
    """Records nothing."""

    def record(self, use: Use) -> None:
        """Nothing to do."""


class NullLimits:
    """Limits nothing."""

    def spend(self, principal: Principal, tokens: int) -> None:
        """Nothing to do."""

    def meter(self, principal: Principal) -> Meter | None:
        """None is needed."""


@dataclass(slots=True, eq=False)
class Generation:
    """One generation while it goes on.

    Attributes:
        usage: The engine's own figures, once they are known.
        content_frames: Frames with text that the client has got.
        status: ``ok``, ``failed``, ``refused`` (the request is at fault), ``limited`` or ``cancelled``.
        first_byte_s: Seconds until the first byte of a stream.
        cache: What the cache of answers had to do with it; empty where it was not used.
    """

    principal: Principal
    model_id: str
    path: str
    parsed: Mapping[str, Any]
    begun: float
    meter: Meter | None = None
    usage: Mapping[str, Any] = field(default_factory=dict)
    content_frames: int = 0
    status: str = "failed"
    first_byte_s: float | None = None
    cache: str = ""

    def ended_by(self, error: BaseException) -> None:
        """Note what kind of end ``error`` makes."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.status = "cancelled"
        elif isinstance(error, LimitExceededError):
            self.status = "limited"
        elif isinstance(
            error, InvalidInputError | ModelNotFoundError | QueueFullError | QueueTimeoutError | ForbiddenError
        ):
            self.status = "refused"

    def tokens(self) -> tuple[int, int]:
        """Tokens of the prompt and of the completion: the engine's figures, or what was seen where it gave none.

        An engine that is cut short says nothing. The tokens of the prompt are estimated then, and each frame counts
        for one, so that nobody gets text for nothing by hanging up before the end.
        """
        prompt, completion = self.usage.get("prompt_tokens"), self.usage.get("completion_tokens")
        if type(prompt) is type(completion) is int and 0 <= prompt <= _MOST_TOKENS >= completion >= 0:
            return prompt, completion
        prompt, completion = _sensible(prompt), _sensible(completion)
        if prompt is None and completion is None and (self.content_frames or self.status == "cancelled"):
            prompt = _estimated_prompt_tokens(self.parsed)
        return prompt or 0, self.content_frames if completion is None else completion


class Generations:
    """Keeps the books.

    Args:
        usage: Where use is recorded.
        limits: Where tokens are held against limits.
        is_known: Whether a model of that id is listed; other names that lead nowhere are recorded under one name, for
            else anybody could fill the record with names of his own making.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        usage: UseRecorder,
        limits: TokenLimits,
        *,
        is_known: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._usage = usage
        self._limits = limits
        self._is_known = is_known
        self._clock = clock

    def refused(self, principal: Principal, model_id: str) -> None:
        """Record a request that asked for a model which there is not, or which it may not use."""
        model = model_id if self._is_known(model_id) else UNKNOWN_MODEL
        self._usage.record(Use(principal.key_id, model, 0, 0, 0.0, failed=True))

    def begin(
        self, principal: Principal, model_id: str, path: str, parsed: Mapping[str, Any], *, metered: bool = True
    ) -> Generation:
        """Open the books for one generation; ``conclude`` has to follow.

        Args:
            metered: Whether it may end in the middle for its budget, as streams may.
        """
        meter = self._limits.meter(principal) if metered else None
        return Generation(principal, model_id, path, parsed, self._clock(), meter)

    def elapsed_s(self, generation: Generation) -> float:
        """Seconds since it began."""
        return self._clock() - generation.begun

    @contextmanager
    def recorded(
        self, principal: Principal, model_id: str, path: str, parsed: Mapping[str, Any]
    ) -> Iterator[Generation]:
        """Log and count what becomes of what happens inside."""
        generation = self.begin(principal, model_id, path, parsed)
        try:
            yield generation
        except BaseException as error:
            generation.ended_by(error)
            raise
        finally:
            self.conclude(generation)

    def close(self, generation: Generation) -> tuple[float, int, int]:
        """Count what became of it, once: how many seconds it took, and the tokens of its prompt and its completion."""
        duration = self._clock() - generation.begun
        prompt, completion = generation.tokens()
        model = generation.model_id
        if generation.status != "ok" and not completion and not self._is_known(model):
            model = UNKNOWN_MODEL
        failed = generation.status not in _NOT_FAILED
        self._usage.record(Use(generation.principal.key_id, model, prompt, completion, duration, failed))
        self._limits.spend(generation.principal, prompt + completion)
        if generation.meter is not None:
            generation.meter.settle()
        return duration, prompt, completion

    def conclude(self, generation: Generation) -> None:
        """Log and count what became of it, once."""
        duration, prompt, completion = self.close(generation)
        logger.log_model_operation(
            model_id=generation.model_id,
            operation="embed" if generation.path.endswith("/embeddings") else "generate",
            status=generation.status,
            duration=duration,
            tokens_generated=completion,
            input_tokens=prompt,
            output_tokens=completion,
            generation_time=duration,
            first_byte_time=generation.first_byte_s,
            user_id=generation.principal.key_id,
            **({"cache": generation.cache} if generation.cache else {}),
        )


def _sensible(value: object) -> int | None:
    """A figure of an engine, if it makes sense."""
    return value if type(value) is int and 0 <= value <= _MOST_TOKENS else None


def _estimated_prompt_tokens(body: Mapping[str, Any]) -> int:
    """What the text of a request may come to; pictures and sounds are left out."""
    texts, tokens = [], 0
    waiting: list[Any] = [body.get("messages"), body.get("prompt"), body.get("input")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, list):
            if all(type(item) is int for item in part):
                tokens += len(part)
            else:
                waiting += part
        elif isinstance(part, dict):
            waiting += [part.get("content"), part.get("text")]
    return tokens + -(-sum(len(text.encode()) for text in texts) // _BYTES_PER_TOKEN)
