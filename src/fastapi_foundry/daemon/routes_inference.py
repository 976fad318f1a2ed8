"""``/v1/chat/completions``, ``/v1/completions``, ``/v1/embeddings``: OpenAI's shapes, streamed or whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from fastapi_foundry.daemon import validation
from fastapi_foundry.daemon.http import ClientGoneError, Exchange
from fastapi_foundry.daemon.keep_alive import parse_keep_alive
from fastapi_foundry.daemon.model_files import CHAT, EMBEDDINGS
from fastapi_foundry.daemon.runner_call import RunnerCall
from fastapi_foundry.daemon.service import Service
from fastapi_foundry.daemon.store import LocalModel
from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.observability.logging import get_logger
from fastapi_foundry.wire.errors import error_frame
from fastapi_foundry.wire.openai_completions import (
    CompletionRequest,
    CompletionStream,
    completion_answer,
    parse_completion_request,
)

__all__ = ["chat_completions", "chat_model", "completions", "embeddings", "leaving_with_the_client"]

logger = get_logger(__name__)

_DONE = b"data: [DONE]\n\n"
_SSE = "text/event-stream; charset=utf-8"


async def chat_completions(service: Service, exchange: Exchange) -> None:
    """Answer a chat request; a client that leaves cancels it wherever it is: queued, loading or decoding."""
    body = await exchange.json()
    validation.check_chat(body)
    async with leaving_with_the_client(exchange):
        model = await chat_model(service, body["model"])
        async with _logged_call(service, model, "chat", body) as call:
            if not body.get("stream"):
                end = await call.result()
                await exchange.answer(end.data or b"null")
                return
            first = await call.next_chunks()
            if first is None and call.end is not None and call.end.fact is not None:
                raise call.end.fact
            await exchange.stream(_SSE, _chat_frames(call, first))


async def completions(service: Service, exchange: Exchange) -> None:
    """Answer a text completion through chat, one prompt after the other."""
    given = await exchange.json()
    request = parse_completion_request(given)
    request.chat_bodies[-1]["keep_alive"] = parse_keep_alive(given.get("keep_alive"))
    for body in request.chat_bodies:
        validation.check_chat(body)
    async with leaving_with_the_client(exchange):
        model = await chat_model(service, request.model)
        if not request.stream:
            answers = []
            for body in request.chat_bodies:
                async with _logged_call(service, model, "chat", body) as call:
                    answers.append(orjson.loads((await call.result()).data or b"null"))
            await exchange.answer(completion_answer(request, answers))
            return
        frames = _completion_frames(service, model, request)
        # The first frame is made before the headers go out, so that an early failure keeps its status.
        first = await anext(frames)
        await exchange.stream(_SSE, _prepend(first, frames))


async def embeddings(service: Service, exchange: Exchange) -> None:
    """Answer an embeddings request for a model whose task that is."""
    body = await exchange.json()
    validation.check_embeddings(body)
    async with leaving_with_the_client(exchange):
        model = await service.find(body["model"])
        if model.task != EMBEDDINGS and not model.problem:
            raise InvalidInputError(
                f"The model '{model.id}' cannot embed; its task is {model.task}.",
                param="model",
                code="model_cannot_embed",
            )
        async with _logged_call(service, model, "embeddings", body) as call:
            await exchange.answer((await call.result()).data or b"null")


async def chat_model(service: Service, name: str) -> LocalModel:
    """The model of that name, which has to be one that chats."""
    model = await service.find(name)
    if model.task != CHAT:
        raise InvalidInputError(
            f"The model '{model.id}' cannot chat; its task is {model.task}.", param="model", code="model_cannot_chat"
        )
    return model


async def _chat_frames(call: RunnerCall, chunks: list[bytes] | None) -> AsyncIterator[bytes]:
    while chunks is not None:
        yield b"".join(b"data: %b\n\n" % chunk for chunk in chunks)
        chunks = await call.next_chunks()
    fact = call.end.fact if call.end is not None else None
    yield _DONE if fact is None else error_frame(fact)


async def _completion_frames(service: Service, model: LocalModel, request: CompletionRequest) -> AsyncIterator[bytes]:
    """The frames of a whole completion stream; raises what goes wrong before the first one."""
    stream = CompletionStream(request)
    begun = False
    for index, body in enumerate(request.chat_bodies):
        async with _logged_call(service, model, "chat", body) as call:
            while (chunks := await call.next_chunks()) is not None:
                frame = b"".join(stream.frame(index, chunk) for chunk in chunks)
                if frame:
                    begun = True
                    yield frame
            fact = call.end.fact if call.end is not None else None
            if fact is not None:
                if not begun:
                    raise fact
                yield error_frame(fact)
                return
    yield stream.end()


async def _prepend(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for frame in rest:
        yield frame


@asynccontextmanager
async def _logged_call(
    service: Service, model: LocalModel, operation: str, body: dict[str, Any]
) -> AsyncIterator[RunnerCall]:
    """A call in the pool whose end is logged with its tokens and time."""
    started = time.perf_counter()
    async with service.pool.call(model, operation, body) as call:
        try:
            yield call
        finally:
            end = call.end
            usage = (end.usage if end is not None else None) or {}
            logger.info(
                "generation" if operation == "chat" else operation,
                model_id=model.id,
                input_tokens=usage.get("prompt_tokens"),
                output_tokens=usage.get("completion_tokens"),
                generation_time=round(time.perf_counter() - started, 6),
                outcome="given_up" if end is None else "ok" if end.fact is None else end.fact.code,
            )


@asynccontextmanager
async def leaving_with_the_client(exchange: Exchange) -> AsyncIterator[None]:
    """Cancel the body of this block when the client closes its connection.

    Raises:
        ClientGoneError: It did.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    watcher = asyncio.create_task(exchange.disconnected(), name="client watch")
    gone = False

    def leave(done: asyncio.Task[None]) -> None:
        nonlocal gone
        if not done.cancelled() and not finished:
            gone = True
            task.cancel()

    finished = False
    watcher.add_done_callback(leave)
    try:
        yield
    except asyncio.CancelledError:
        if not gone:
            raise
        task.uncancel()
        raise ClientGoneError from None
    finally:
        finished = True
        watcher.cancel()
