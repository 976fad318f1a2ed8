"""The ``Engine`` port: what the gateway asks of whatever runs the models.

Everything here is asynchronous and may be called from many tasks at once. Requests and answers are
the bytes of OpenAI's JSON, so that what needs no repair is never parsed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

__all__ = ["Engine", "EngineState", "EngineStatus", "ModelCard", "Reply", "ReplyStream"]


class EngineState(StrEnum):
    """Where the engine stands. Issues of life cycle are settled by one owner, the supervisor."""

    ABSENT = "absent"  # nothing found, nothing started
    STARTING = "starting"  # ours, started, not ready yet
    READY = "ready"  # answered its last probe
    LOST = "lost"  # was ready, does not answer now; being looked for or restarted


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A snapshot; reading it never waits.

    Attributes:
        state: See ``EngineState``.
        url: Base URL without ``/v1``, such as ``http://127.0.0.1:50477``; None while absent.
        reason: In words, why it is not ready; empty when it is.
        supervised: Whether this gateway started the engine and may stop it.
        found_by: ``base_url``, ``daemon_file``, ``cli``, ``scan``, ``default_port`` or ``started``.
        pid: The engine's process id where it is known.
        tried: What discovery tried last, and why each candidate was not taken: (step, address, outcome).
        restarts: How often a supervised engine was started again.
    """

    state: EngineState
    url: str | None = None
    reason: str = ""
    supervised: bool = False
    found_by: str | None = None
    pid: int | None = None
    tried: tuple[tuple[str, str, str], ...] = ()
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One usable model as the engine describes it.

    Attributes:
        id: Full id, ``name:version``.
        state: ``cached``, ``loading``, ``loaded``, ``in_use``, ``put_aside``, ``unusable`` or ``unknown``.
        extra: Every further field of the engine's own entry (alias, context_length, demonstration, ...).
    """

    id: str
    created: int
    owned_by: str
    state: str = "unknown"
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole successful answer: the engine's JSON, untouched."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class ReplyStream(Protocol):
    """A running SSE answer whose first bytes have arrived; iterate it once, close it always.

    Iteration yields the engine's bytes as they arrive (not necessarily whole frames) and ends after the
    engine's normal end. It raises ``EngineFailedError`` when the connection ends before that, and
    ``EngineTimeoutError`` when nothing arrives within the time between chunks.
    """

    headers: Mapping[str, str]

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes, in order, starting with the first."""
        ...


class Engine(Protocol):
    """An OpenAI-compatible engine.

    Every call raises ``EngineUnavailableError`` when the engine cannot be reached within the configured
    start-up bound, ``EngineFailedError`` when it breaks, ``EngineTimeoutError`` when it is silent too long,
    and the fact behind an error answer otherwise (``ModelNotFoundError``, ``InvalidInputError``, ...).
    A call that failed before any byte of an answer arrived has been repeated once already.
    """

    @property
    def status(self) -> EngineStatus:
        """The last known status; never waits."""
        ...

    async def start(self) -> None:
        """Begin discovery and supervision in the background; returns at once."""
        ...

    async def aclose(self) -> None:
        """End supervision, stop what was started here and nothing else, close every connection."""
        ...

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until the engine is ready.

        Raises:
            EngineUnavailableError: When ``timeout_s`` seconds have passed, or it is known that waiting is in vain.
        """
        ...

    async def list_models(self) -> list[ModelCard]:
        """What can be used now. Bounded to about a second."""
        ...

    async def post(self, path: str, body: bytes, *, request_id: str, timeout_s: float | None = None) -> Reply:
        """Send JSON to ``path`` (``/v1/chat/completions``) and wait for the whole answer.

        Cancelling the task closes the connection, which cancels the work in the engine.

        Args:
            timeout_s: Bound on the whole call in seconds; the settings' ``foundry_ai.timeout_s`` when None.
        """
        ...

    def stream(self, path: str, body: bytes, *, request_id: str) -> AbstractAsyncContextManager[ReplyStream]:
        """Send JSON to ``path`` and stream the answer.

        Entering waits for the first bytes of the body, so an early failure is raised here. Leaving closes the
        connection if the stream has not ended, which cancels the work in the engine.
        """
        ...

    async def load_model(self, model: str) -> dict[str, Any]:
        """Load a model and wait until it is ready; the engine's own answer."""
        ...

    async def unload_model(self, model: str) -> dict[str, Any]:
        """Unload a model and wait until its memory is returned; the engine's own answer."""
        ...
