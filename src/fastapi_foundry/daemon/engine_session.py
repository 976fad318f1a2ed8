"""One loaded model inside a runner. Only this module and those it is made of, and ``catalog_worker``, import the SDK.

Importing it loads the engine's native libraries (0.1 s, 25 MB); ``runner`` does so after the network is denied.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import foundry_local_sdk as engine
import orjson

from fastapi_foundry.daemon import contract
from fastapi_foundry.daemon.continued_chat import ContinuedChat
from fastapi_foundry.daemon.engine_calls import engine_facts, openai_json, streamed, text_request, usage_dict
from fastapi_foundry.daemon.job import Job
from fastapi_foundry.daemon.kept_sessions import KeepLimits
from fastapi_foundry.errors import ContextLengthExceededError, EngineFailedError
from fastapi_foundry.wire.engine_text import clean_engine_text, is_cut_tool_call

__all__ = ["LoadedModel", "ModelSpec", "make_manager"]

_INPUT_TOO_LONG: Final = re.compile(r"max_length \((\d+)\) cannot be greater than model context_length \((\d+)\)")
_CHAT: Final = "chat-completion"
_APP_NAME: Final = "fastapi-foundry"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a runner loads; the ``init`` frame's ``model``.

    Attributes:
        id: Full id, ``name:version``.
        alias: Short name.
        path: Directory that holds ``genai_config.json``.
        task: ``chat-completion`` or ``embeddings``.
        tool_calling: Whether the chat template knows tools.
        context_length: Tokens, from ``genai_config.json``.
    """

    id: str
    alias: str
    path: str
    task: str
    tool_calling: bool
    context_length: int


def make_manager(data_dir: Path, *, model_cache_dir: Path, catalog_urls: list[str] | None = None) -> Any:
    """The engine's manager for this process; there can be one.

    Args:
        data_dir: Where the engine keeps its own data and logs; a directory of this process alone.
        model_cache_dir: Where the engine puts downloads.
        catalog_urls: Catalogues to use instead of the engine's default.
    """
    return engine.FoundryLocalManager(
        engine.Configuration(
            _APP_NAME,
            app_data_dir=str(data_dir),
            model_cache_dir=str(model_cache_dir),
            logs_dir=str(data_dir / "logs"),
            log_level=engine.LogLevel.WARNING,
            catalog_urls=[(url, None) for url in catalog_urls or ()] or None,
            disable_nonessential_telemetry=True,
        )
    )


class LoadedModel:
    """A model in memory. Its methods may be called from several threads at once; each blocks until its answer."""

    def __init__(self, spec: ModelSpec, data_dir: Path, keep: KeepLimits = KeepLimits()) -> None:  # noqa: B008 - frozen
        """Load the model; takes from 0.1 s to minutes.

        Args:
            spec: What to load.
            data_dir: A directory of this process alone.
            keep: What may stay open between the turns of a chat.

        Raises:
            EngineFailedError: The engine cannot load it; the message says why in the engine's words.
        """
        self._spec = spec
        manager = make_manager(data_dir, model_cache_dir=data_dir / "models")
        try:
            with engine.ModelInfoBuilder() as info:
                info.set_string_property("task", spec.task).set_string_property("alias", spec.alias)
                info.set_int_property("supports_tool_calling", int(spec.tool_calling))
                self._model = manager.get_catalog(engine.CatalogType.LOCAL).register_model(spec.path, spec.id, info)
            self._model.load()
        except engine.FoundryLocalException as error:
            raise EngineFailedError(clean_engine_text(str(error))) from error
        self.context_length = self._accepted_context() or spec.context_length or self._model.info.context_length or 0
        self._continued = ContinuedChat(self._model, spec.id, Path(spec.path), keep)

    def chat(self, body: dict[str, Any], job: Job, emit: Callable[[bytes], None]) -> bytes | None:
        """Answer one chat request.

        Args:
            body: A checked OpenAI chat request.
            job: Its handle; ``job.tokens`` and ``job.usage`` are kept up to date.
            emit: Gets each chunk's JSON when the request streams; blocks while the pipe is full.

        Returns:
            The whole answer as JSON, or None when it was streamed.

        Raises:
            ContextLengthExceededError: The prompt leaves no room for an answer.
            InvalidInputError: The engine refuses a parameter.
            EngineFailedError: The engine broke.
            CancelledByClientError: ``job`` was cancelled.
        """
        with (
            engine_facts(),
            engine.ChatSession(self._model) as session,
            self._fitting_request(session, body, job) as request,
        ):
            done = self._continued.answer(body, job, emit)
            if done is not None:
                return done.data
            try:
                job.running(request)
                if body.get("stream"):
                    self._stream(session, request, body, job, emit)
                    return None
                return self._answer(session, request, body, job)
            finally:
                job.running(None)

    def _accepted_context(self) -> int:
        """What the engine takes, prompt and answer together; 0 for a model that does not chat."""
        if self._spec.task != _CHAT:
            return 0
        probe = {"messages": [{"role": "user", "content": "x"}]}
        try:
            with engine.ChatSession(self._model) as session:
                request, budget = self._measured(session, probe, 1)
                request.__exit__()
        except engine.FoundryLocalException:
            return 0
        return int(budget.context_limit_tokens)

    def count(self, body: dict[str, Any], job: Job) -> bytes:
        """The exact prompt length of a chat request, as ``{"prompt_tokens", "context_length"}``."""
        with engine_facts(), engine.ChatSession(self._model) as session:
            body = contract.engine_request(body, model_id=self._spec.id, max_tokens=1)
            with text_request(body) as request:
                prompt_tokens = session.preflight_request(request).prompt_tokens
        job.usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 0, "total_tokens": prompt_tokens}
        return orjson.dumps({"prompt_tokens": prompt_tokens, "context_length": self.context_length})

    def embeddings(self, body: dict[str, Any], job: Job) -> bytes:
        """Answer one embeddings request; vectors have unit length and come in the order of the inputs."""
        inputs = [body["input"]] if isinstance(body["input"], str) else body["input"]
        with (
            engine_facts(),
            engine.EmbeddingsSession(self._model) as session,
            text_request({"model": self._spec.id, "input": inputs}) as request,
        ):
            try:
                job.running(request)
                with session.process_request(request) as response:
                    answer = orjson.loads(openai_json(response))
            except engine.FoundryLocalException as error:
                raise self._too_long(error) or error from error
            finally:
                job.running(None)
        made = contract.embeddings_answer(answer, body, self._spec.id)
        job.usage = made["usage"]
        return orjson.dumps(made)

    def _too_long(self, error: engine.FoundryLocalException) -> ContextLengthExceededError | None:
        """The fact behind the engine's words for an input over the context; None for other errors."""
        match = _INPUT_TOO_LONG.search(str(error))
        if match is None:
            return None
        prompt_tokens, context_length = int(match[1]), int(match[2])
        fact = ContextLengthExceededError(
            prompt_tokens=prompt_tokens, context_length=context_length, model=self._spec.id
        )
        fact.param = "input"
        fact.message = f"An input has {prompt_tokens} tokens; this model's maximum context length is {context_length}."
        return fact

    def _fitting_request(self, session: engine.ChatSession, body: dict[str, Any], job: Job) -> engine.Request:
        """The engine's request with ``max_tokens`` clamped to the room that the prompt leaves; noted in ``job``."""
        wanted = min(contract.wanted_tokens(body) or contract.DEFAULT_MAX_TOKENS, self.context_length)
        request, budget = self._measured(session, body, wanted)
        if budget.fits:
            job.limits = (budget.prompt_tokens, wanted)
            return request
        request.__exit__()
        room = budget.context_limit_tokens - budget.prompt_tokens
        if room < 1:
            raise ContextLengthExceededError(
                prompt_tokens=budget.prompt_tokens, context_length=budget.context_limit_tokens, model=self._spec.id
            )
        job.stop_if_cancelled()
        job.limits = (budget.prompt_tokens, room)
        return self._measured(session, body, room)[0]

    def _measured(
        self, session: engine.ChatSession, body: dict[str, Any], max_tokens: int
    ) -> tuple[engine.Request, engine.RequestPreflightResult]:
        request = text_request(contract.engine_request(body, model_id=self._spec.id, max_tokens=max_tokens))
        try:
            return request, session.preflight_request(request)
        except BaseException:
            request.__exit__()
            raise

    def _answer(self, session: engine.ChatSession, request: engine.Request, body: dict[str, Any], job: Job) -> bytes:
        # The first piece names the speaker and holds no token.
        job.tokens = -1
        try:
            usage, text = streamed(session, request, job, lambda _item: None, _closing)
        except engine.FoundryLocalException as error:
            if not is_cut_tool_call(str(error)):
                raise
            return orjson.dumps(contract.cut_answer(self._spec.id, job.cut_off()))
        finally:
            job.tokens = max(0, job.tokens)
        job.tokens = usage.completion_tokens
        job.usage = usage_dict(usage)
        if body.get("tools"):
            return orjson.dumps(contract.repair_answer(orjson.loads(text)))
        return text.encode()

    def _stream(
        self,
        session: engine.ChatSession,
        request: engine.Request,
        body: dict[str, Any],
        job: Job,
        emit: Callable[[bytes], None],
    ) -> None:
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        indexes = contract.CallIndexes() if body.get("tools") else None

        def take(item: Any) -> None:
            data = item.text.encode()
            emit(data if indexes is None else orjson.dumps(indexes.repair_chunk(orjson.loads(data))))

        job.tokens = -1
        try:
            usage, text = streamed(session, request, job, take, _closing)
        except engine.FoundryLocalException as error:
            if indexes is None or not is_cut_tool_call(str(error)):
                raise
            counted = job.cut_off()
            for chunk in indexes.cut_off(self._spec.id, counted if wants_usage else None):
                emit(orjson.dumps(chunk))
            return
        finally:
            job.tokens = max(0, job.tokens)
        job.tokens = usage.completion_tokens
        job.usage = usage_dict(usage)
        if wants_usage:
            emit(orjson.dumps(contract.usage_chunk(orjson.loads(text))))


def _closing(response: engine.Response) -> tuple[engine.TokenUsage, str]:
    return response.get_usage(), openai_json(response)
