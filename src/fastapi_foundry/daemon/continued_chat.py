"""Chat that goes on in the session where the turn before it ended, so that only what is new has to be read.

The engine itself makes sure of the result: it renders the whole conversation, and uses what is in its KV cache only if
that is, token by token, the beginning of it. ADR 0009 has the measurements and the conditions.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import foundry_local_sdk as engine

from fastapi_foundry.daemon.chat_chunks import ChatAnswer, detailed_usage
from fastapi_foundry.daemon.conversation import Conversation, Turn, continuable
from fastapi_foundry.daemon.engine_calls import streamed
from fastapi_foundry.daemon.job import Job
from fastapi_foundry.daemon.kept_sessions import KeepLimits, KeptSession, KeptSessions, cache_bytes

__all__ = ["ContinuedChat", "Done"]

_ROLES: Final = {
    "system": engine.MessageRole.SYSTEM,
    "user": engine.MessageRole.USER,
    "assistant": engine.MessageRole.ASSISTANT,
}
# A prompt that took less than this share of the time to read it in whole was not read in whole.
_READ_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Done:
    """A finished answer: ``data`` is the whole of it, or None when it was streamed."""

    data: bytes | None


class ContinuedChat:
    """Answers the chat requests whose sessions are worth keeping.

    Args:
        model: The engine's.
        model_id: Its full id.
        path: Its directory.
        limits: What may stay open.
    """

    def __init__(self, model: Any, model_id: str, path: Path, limits: KeepLimits) -> None:
        self._model = model
        self._model_id = model_id
        number = limits.sessions_for(cache_bytes(path))
        self._kept: KeptSessions[engine.ChatSession] = KeptSessions(number, limits.idle_s, _close)

    def answer(self, body: Mapping[str, Any], job: Job, emit: Callable[[bytes], None]) -> Done | None:
        """Answer a request whose ``job.limits`` are known; None, and nothing done, when it is not one for this way.

        Raises:
            FoundryLocalException: What the engine found wrong.
            CancelledByClientError: ``job`` was cancelled.
        """
        conversation = continuable(body)
        if conversation is None:
            return None
        found = self._kept.take(conversation.earlier())
        if found is None:
            if not self._kept.admit():
                return None
            found = 0, self._opened()
        known, kept = found
        good = False
        try:
            with _request(conversation.turns[known:], body, job) as request:
                if not _says_the_same(kept.session, request, job.limits[0]):
                    return None
                job.running(request)
                try:
                    done, good = self._generate(kept, request, conversation, body, job, emit)
                    return done
                finally:
                    job.running(None)
        finally:
            if good:
                self._kept.put(kept)
            else:
                self._kept.drop(kept)

    def _opened(self) -> KeptSession[engine.ChatSession]:
        try:
            return KeptSession(engine.ChatSession(self._model))
        except BaseException:
            self._kept.drop(None)
            raise

    def _generate(
        self,
        kept: KeptSession[engine.ChatSession],
        request: engine.Request,
        conversation: Conversation,
        body: Mapping[str, Any],
        job: Job,
        emit: Callable[[bytes], None],
    ) -> tuple[Done, bool]:
        """The answer, and whether the session can go on after it."""
        streams = bool(body.get("stream"))
        answer = ChatAnswer(self._model_id)
        begun, first_s = time.perf_counter(), 0.0

        def take(item: Any) -> None:
            nonlocal first_s
            if not first_s:
                first_s = time.perf_counter() - begun
                if streams:
                    emit(answer.first_chunk())
            chunk = answer.chunk(item.text, reasoning=item.type == engine.TextItemType.REASONING)
            if streams:
                emit(chunk)

        counted, reason = streamed(kept.session, request, job, take, lambda end: (end.get_usage(), end.finish_reason))
        usage = detailed_usage(
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens,
            cached_tokens=_reused(kept, counted.prompt_tokens, first_s),
            reasoning_tokens=answer.reasoning_pieces,
        )
        job.tokens, job.usage = counted.completion_tokens, usage
        kept.key, kept.tokens = conversation.key_after(answer.text), counted.total_tokens
        # The engine drops its state after an answer that was cut off.
        good = reason == engine.FinishReason.STOP and bool(answer.text)
        word = "length" if reason == engine.FinishReason.LENGTH else "stop"
        if not streams:
            return Done(answer.whole(word, usage)), good
        if not first_s:
            emit(answer.first_chunk())
        emit(answer.last_chunk(word))
        if (body.get("stream_options") or {}).get("include_usage"):
            emit(answer.usage_chunk(usage))
        return Done(None), good


def _reused(kept: KeptSession[engine.ChatSession], prompt_tokens: int, first_s: float) -> int:
    """Tokens of the prompt that were not read again. The engine does not tell, so the clock does."""
    if not kept.tokens or not kept.read_s:
        kept.read_s = first_s / max(1, prompt_tokens)
        return 0
    in_whole_s = kept.read_s * prompt_tokens
    return min(kept.tokens, prompt_tokens) if first_s < _READ_SHARE * in_whole_s else 0


def _says_the_same(session: engine.ChatSession, request: engine.Request, prompt_tokens: int) -> bool:
    """Whether the engine makes a prompt of that many tokens of what the session holds and ``request`` adds."""
    try:
        return bool(session.preflight_request(request).prompt_tokens == prompt_tokens)
    except engine.FoundryLocalException:
        return False


def _request(turns: tuple[Turn, ...], body: Mapping[str, Any], job: Job) -> engine.Request:
    request = engine.Request()
    try:
        for turn in turns:
            request.add_item(engine.MessageItem(_ROLES[turn.role], turn.text))
        search = engine.SearchOptions(max_output_tokens=job.limits[1])
        for name in ("temperature", "top_p", "top_k", "seed", "do_sample"):
            setattr(search, name, body.get(name))
        request.set_options(engine.RequestOptions(search=search))
    except BaseException:
        request.__exit__()
        raise
    return request


def _close(session: engine.ChatSession) -> None:
    session.__exit__(None, None, None)
    _return_memory()


def _return_memory() -> None:
    """Give freed memory back to the system, where the C library would keep it: glibc. Takes a few milliseconds."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
