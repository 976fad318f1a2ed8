"""One loaded model inside a runner: the only module, with ``catalog_worker``, that imports foundry_local_sdk.

Importing it loads the engine's native libraries (0.1 s, 25 MB); ``runner`` does so after the network is denied.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import foundry_local_sdk as engine
import orjson

from fastapi_foundry.daemon import contract
from fastapi_foundry.daemon.job import CancelledByClientError, Job
from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineFailedError,
    InvalidInputError,
    ModelOutputError,
)
from fastapi_foundry.wire.engine_text import (
    INVALID_TOOL_CALL,
    clean_engine_text,
    is_cut_tool_call,
    is_invalid_tool_call,
)

__all__ = ["LoadedModel", "ModelSpec", "make_manager"]

# FoundryLocalException.error_code, as measured.
_INVALID_ARGUMENT: Final = 3
_CANCELLED: Final = 5
_INPUT_TOO_LONG: Final = re.compile(r"max_length \((\d+)\) cannot be greater than model context_length \((\d+)\)")
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

    def __init__(self, spec: ModelSpec, data_dir: Path) -> None:
        """Load the model; takes from 0.1 s to minutes.

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
        self.context_length: int = spec.context_length or self._model.info.context_length or 0

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
        with _facts(), engine.ChatSession(self._model) as session:
            request = self._fitting_request(session, body, job)
            with request:
                try:
                    job.running(request)
                    if body.get("stream"):
                        self._stream(session, request, body, job, emit)
                        return None
                    return self._answer(session, request, body, job)
                finally:
                    job.running(None)

    def count(self, body: dict[str, Any], job: Job) -> bytes:
        """The exact prompt length of a chat request, as ``{"prompt_tokens", "context_length"}``."""
        with _facts(), engine.ChatSession(self._model) as session:
            body = contract.engine_request(body, model_id=self._spec.id, max_tokens=1)
            with _text_request(body) as request:
                prompt_tokens = session.preflight_request(request).prompt_tokens
        job.usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 0, "total_tokens": prompt_tokens}
        return orjson.dumps({"prompt_tokens": prompt_tokens, "context_length": self.context_length})

    def embeddings(self, body: dict[str, Any], job: Job) -> bytes:
        """Answer one embeddings request; vectors have unit length and come in the order of the inputs."""
        inputs = [body["input"]] if isinstance(body["input"], str) else body["input"]
        with (
            _facts(),
            engine.EmbeddingsSession(self._model) as session,
            _text_request({"model": self._spec.id, "input": inputs}) as request,
        ):
            try:
                job.running(request)
                with session.process_request(request) as response:
                    answer = orjson.loads(_openai_json(response))
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
        request = _text_request(contract.engine_request(body, model_id=self._spec.id, max_tokens=max_tokens))
        try:
            return request, session.preflight_request(request)
        except BaseException:
            request.__exit__()
            raise

    def _answer(self, session: engine.ChatSession, request: engine.Request, body: dict[str, Any], job: Job) -> bytes:
        try:
            with session.process_request(request) as response:
                usage = response.get_usage()
                text = _openai_json(response)
        except engine.FoundryLocalException as error:
            if not is_cut_tool_call(str(error)):
                raise
            return orjson.dumps(contract.cut_answer(self._spec.id, job.cut_off()))
        job.tokens = usage.completion_tokens
        job.usage = _usage_dict(usage)
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
        session.set_streaming(True)
        try:
            with session.process_streaming_request(request) as stream:
                for item in stream:
                    job.stop_if_cancelled()
                    job.tokens += 1
                    data = item.text.encode()
                    emit(data if indexes is None else orjson.dumps(indexes.repair_chunk(orjson.loads(data))))
                with stream.final_response as final:
                    usage = final.get_usage()
                    text = _openai_json(final)
        except engine.FoundryLocalException as error:
            if indexes is None or not is_cut_tool_call(str(error)):
                raise
            counted = job.cut_off()
            for chunk in indexes.cut_off(self._spec.id, counted if wants_usage else None):
                emit(orjson.dumps(chunk))
            return
        job.tokens = usage.completion_tokens
        job.usage = _usage_dict(usage)
        if wants_usage:
            emit(orjson.dumps(contract.usage_chunk(orjson.loads(text))))


def _text_request(body: dict[str, Any]) -> engine.Request:
    request = engine.Request()
    request.add_item(engine.TextItem(orjson.dumps(body).decode(), engine.TextItemType.OPENAI_JSON))
    return request


def _openai_json(response: engine.Response) -> str:
    return str(response.get_item(0).text)


def _usage_dict(usage: engine.TokenUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


class _facts(AbstractContextManager[None]):  # noqa: N801 - reads as a statement
    """Turns the engine's exceptions into facts."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if not isinstance(error, engine.FoundryLocalException):
            return
        message = clean_engine_text(str(error))
        if error.error_code == _CANCELLED:
            raise CancelledByClientError from error
        if error.error_code == _INVALID_ARGUMENT:
            raise InvalidInputError(message) from error
        if is_invalid_tool_call(message):
            raise ModelOutputError(INVALID_TOOL_CALL) from error
        raise EngineFailedError(f"The engine failed: {message}") from error
