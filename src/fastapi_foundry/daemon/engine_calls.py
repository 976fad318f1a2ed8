"""What every call of the engine needs: its errors as facts, requests, and streams that count what they decode."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

import foundry_local_sdk as engine
import orjson

from fastapi_foundry.daemon.job import CancelledByClientError, Job
from fastapi_foundry.errors import EngineFailedError, InvalidInputError, ModelOutputError
from fastapi_foundry.wire.engine_text import INVALID_TOOL_CALL, clean_engine_text, is_invalid_tool_call

__all__ = ["engine_facts", "openai_json", "streamed", "text_request", "usage_dict"]

# FoundryLocalException.error_code, as measured.
_INVALID_ARGUMENT: Final = 3
_CANCELLED: Final = 5

Read = TypeVar("Read")


class engine_facts(AbstractContextManager[None]):  # noqa: N801 - reads as a statement
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


def streamed(
    session: engine.ChatSession,
    request: engine.Request,
    job: Job,
    take: Callable[[Any], None],
    read: Callable[[engine.Response], Read],
) -> Read:
    """Generate, piece by piece, and read the closing answer; a whole answer is made this way too.

    Only so can be counted what was decoded when the request is cancelled: the engine then tells nothing. What it
    still decodes after that is counted and not handed on.

    Args:
        session: Streams from now on.
        request: Is cancelled again with each piece that comes after a cancel.
        job: Counts the pieces.
        take: Gets each piece.
        read: Gets the closing answer, and reads from it what is needed; it is released afterwards.

    Raises:
        CancelledByClientError: ``job`` was cancelled, if only while the last piece came.
        FoundryLocalException: What the engine found wrong.
    """
    session.set_streaming(True)
    with session.process_streaming_request(request) as stream:
        for item in stream:
            if job.count_piece():
                take(item)
            else:
                request.cancel()
        job.stop_if_cancelled()
        with stream.final_response as final:
            return read(final)


def text_request(body: dict[str, Any]) -> engine.Request:
    """A request that holds OpenAI's JSON."""
    request = engine.Request()
    request.add_item(engine.TextItem(orjson.dumps(body).decode(), engine.TextItemType.OPENAI_JSON))
    return request


def openai_json(response: engine.Response) -> str:
    """OpenAI's JSON out of an answer to such a request."""
    return str(response.get_item(0).text)


def usage_dict(usage: engine.TokenUsage) -> dict[str, Any]:
    """The engine's count."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
