"""The ``Engine`` port: what the gateway asks of whatever runs the models.

Everything here is asynchronous and may be called from many tasks at once. Requests and answers are
the bytes of OpenAI's JSON, so that what needs no repair is never parsed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import orjson

from fastapi_foundry.engines.catalog import Catalog, DownloadProgress

if TYPE_CHECKING:
    from fastapi_foundry.engines.direct import DirectLine

__all__ = [
    "NO_NOTES",
    "Call",
    "Engine",
    "EngineReport",
    "EngineState",
    "EngineStatus",
    "ModelCard",
    "NotedStream",
    "Notes",
    "Reply",
    "ReplyStream",
    "TokenCount",
]


class EngineState(StrEnum):
    """Where the engine stands. Issues of life cycle are settled by one owner, the supervisor."""

    ABSENT = "absent"  # nothing found, nothing started
    STARTING = "starting"  # ours, started, not ready yet
    READY = "ready"  # answered its last probe
    LOADING = "loading"  # ready, and said a moment ago that it is loading a model
    DEGRADED = "degraded"  # was ready, and answers something else than an engine would
    WEDGED = "wedged"  # was ready, accepts connections, answers nothing
    CRASHED = "crashed"  # was ready, has ended or refuses connections; being looked for or restarted

    @property
    def is_usable(self) -> bool:
        """Whether a request may be sent."""
        return self in {EngineState.READY, EngineState.LOADING}


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
        names: Further names that mean it, and that its engine does not take in a request.
    """

    id: str
    created: int
    owned_by: str
    state: str = "unknown"
    extra: Mapping[str, Any] = field(default_factory=dict)
    names: frozenset[str] = frozenset()


@dataclass(slots=True)
class Call:
    """One request of OpenAI's API on its way to an engine.

    Attributes:
        path: Such as ``/v1/chat/completions``.
        body: A JSON object, sent as it is.
        request_id: Handed on to the engine, so that one id finds the request in every log.
        timeout_s: Bound on a whole answer in seconds; the engine's own settings apply when None.
        known: ``body`` parsed, where somebody has done that already; never changed in place.
    """

    path: str
    body: bytes
    request_id: str = ""
    timeout_s: float | None = None
    known: Mapping[str, Any] | None = None

    @property
    def parsed(self) -> Mapping[str, Any]:
        """``body`` parsed, at most once."""
        if self.known is None:
            self.known = dict(orjson.loads(self.body))
        return self.known

    @property
    def model(self) -> str:
        """The model that is asked for, by the name that the body gives."""
        return str(self.parsed.get("model") or "")

    def with_parsed(self, parsed: Mapping[str, Any]) -> Self:
        """The same call with another body."""
        return replace(self, body=orjson.dumps(parsed), known=parsed)


@dataclass(frozen=True, slots=True)
class Notes:
    """What happened to a request on its way, for a response header and the log.

    Attributes:
        engine: Name of the engine that answered; empty where there is only one.
        alterations: What was changed in the request or the answer, each as ``feature: what was done``.
        fallback: What was tried before in vain, each as ``engine::model: why``.
        queued_s: Seconds that the request waited for its turn.
        truncated: What was left out of a conversation that was too long, ``messages=4; tokens=812``; empty for nothing.
        cache: ``hit``, ``miss`` or ``shared``; empty where the cache of answers was not used.
        age_s: Seconds since the answer of a ``hit`` was made.
    """

    engine: str = ""
    alterations: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    queued_s: float = 0.0
    truncated: str = ""
    cache: str = ""
    age_s: float = 0.0


NO_NOTES: Final = Notes()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole successful answer: the engine's JSON, untouched unless ``notes`` says so."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    notes: Notes = NO_NOTES


@dataclass(frozen=True, slots=True)
class TokenCount:
    """How long a prompt is, as the engine counts.

    Attributes:
        prompt_tokens: Exact.
        context_length: What prompt and answer may take together, in tokens; None where the engine does not say.
    """

    prompt_tokens: int
    context_length: int | None = None


class ReplyStream(Protocol):
    """A running SSE answer whose first bytes have arrived; iterate it once, close it always.

    Iteration yields the engine's bytes as they arrive (not necessarily whole frames) and ends after the
    engine's normal end. It raises ``EngineFailedError`` when the connection ends before that, and
    ``EngineTimeoutError`` when nothing arrives within the time between chunks.
    """

    headers: Mapping[str, str]
    notes: Notes

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes, in order, starting with the first."""
        ...


@dataclass(slots=True)
class NotedStream:
    """A ``ReplyStream`` over any frames, with notes of its own."""

    frames: AsyncIterator[bytes]
    headers: Mapping[str, str]
    notes: Notes

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.frames


@dataclass(frozen=True, slots=True)
class EngineReport:
    """One of several engines, as the gateway's status shows it.

    Attributes:
        name: In the configuration; ``foundry`` for Foundry Local.
        breaker: ``closed``, ``open`` or ``half_open``.
        retry_after_s: Seconds until it is asked again where there is another; 0 when it may be asked.
        active: Requests that are with it now.
        models: How many it last listed.
    """

    name: str
    status: EngineStatus
    breaker: str
    retry_after_s: float
    active: int
    models: int


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

    def direct_line(self) -> DirectLine | None:
        """The line on which plain chat requests may be sent at this moment; None where they go by the calls below."""
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

    async def post(self, call: Call) -> Reply:
        """Send ``call`` and wait for the whole answer.

        Cancelling the task closes the connection, which cancels the work in the engine.
        """
        ...

    async def count_tokens(self, call: Call) -> TokenCount | None:
        """The length of the prompt that the chat request ``call`` makes; nothing is generated.

        None where the engine cannot tell. Our own service loads the model for it.
        """
        ...

    def stream(self, call: Call) -> AbstractAsyncContextManager[ReplyStream]:
        """Send ``call``, whose body asks for a stream, and stream the answer.

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

    async def catalog(self, *, refresh: bool = False) -> Catalog:
        """What can be downloaded. Bounded to about a second; ``refresh`` waits some more for news of the network."""
        ...

    def download(self, model: str) -> AbstractAsyncContextManager[AsyncIterator[DownloadProgress]]:
        """Download a model. Entering waits until the engine has taken the job, so a refusal is raised here.

        The last item carries the model's full id. Raises ``CatalogUnavailableError`` or ``EngineFailedError`` while
        it is iterated when the download fails. Leaving early leaves the job to the engine.
        """
        ...

    async def cancel_download(self, model: str) -> dict[str, Any]:
        """End a download and wait until it has ended; the engine's own answer."""
        ...
