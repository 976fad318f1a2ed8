"""OpenAI's legacy text completions as a facade over chat completions; pure functions.

Foundry Local has chat only. A completion request becomes one chat request per prompt
(``parse_completion_request``), the chat answers become one ``text_completion``
(``completion_answer``), and the chunks of streamed chats become ``text_completion`` frames
(``CompletionStream``). The service and the gateway both use this module, so that they cannot differ.

Source of the shapes: OpenAI's published specification, ``/v1/completions``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.errors import InvalidInputError, UnsupportedParameterError

__all__ = [
    "MAX_PROMPTS",
    "CompletionRequest",
    "CompletionStream",
    "completion_answer",
    "parse_completion_request",
]

MAX_PROMPTS: Final = 256
"""Most prompts in one request; the same bound as the gateway's batches."""

# These mean the same in both APIs and are checked where chat requests are checked.
_PASSED_ON: Final = (
    "frequency_penalty",
    "logit_bias",
    "max_tokens",
    "presence_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "user",
)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked completions request.

    Attributes:
        model: The model's name as the caller gave it.
        prompts: At least one; ``choices[i]`` of the answer belongs to ``prompts[i]``.
        chat_bodies: The chat request for each prompt, in the same order. A streaming one always asks for its
            usage, because ``CompletionStream`` adds them up.
        echo: Whether each text starts with its prompt.
        stream: Whether the caller wants SSE.
        include_usage: Whether the caller wants the usage frame of a stream.
    """

    model: str
    prompts: tuple[str, ...]
    chat_bodies: tuple[dict[str, Any], ...]
    echo: bool
    stream: bool
    include_usage: bool


def parse_completion_request(body: Mapping[str, Any]) -> CompletionRequest:
    """Check a completions request and make its chat requests.

    Parameters that mean the same in chat are handed on unchecked; the chat side checks them. Unknown ones are
    tolerated and dropped.

    Raises:
        InvalidInputError: A field is missing or has a wrong type; ``param`` names it.
        UnsupportedParameterError: Token arrays, ``suffix``, ``logprobs``, ``n`` or ``best_of`` above 1.
    """
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidInputError("'model' must be a non-empty string.", param="model")
    prompts = _prompts(body.get("prompt"))
    stream = _boolean(body, "stream")
    options = body.get("stream_options")
    if options is not None and not isinstance(options, Mapping):
        raise InvalidInputError("'stream_options' must be an object.", param="stream_options")
    include_usage = stream and bool(options and options.get("include_usage"))
    _refuse_unsupported(body)
    shared = {key: body[key] for key in _PASSED_ON if body.get(key) is not None} | {"model": model}
    if stream:
        shared |= {"stream": True, "stream_options": {"include_usage": True}}
    return CompletionRequest(
        model=model,
        prompts=prompts,
        chat_bodies=tuple(shared | {"messages": [{"role": "user", "content": prompt}]} for prompt in prompts),
        echo=_boolean(body, "echo"),
        stream=stream,
        include_usage=include_usage,
    )


def completion_answer(request: CompletionRequest, chats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make one ``text_completion`` of the chat answers, which are in the order of ``request.chat_bodies``."""
    choices = []
    for index, (prompt, chat) in enumerate(zip(request.prompts, chats, strict=True)):
        choice = chat["choices"][0]
        text = choice["message"].get("content") or ""
        choices.append(_choice(index, prompt + text if request.echo else text, choice.get("finish_reason")))
    first = chats[0]
    return {
        "id": _completion_id(first["id"]),
        "object": "text_completion",
        "created": first["created"],
        "model": first["model"],
        "system_fingerprint": first.get("system_fingerprint"),
        "choices": choices,
        "usage": _sum_usage([chat.get("usage") for chat in chats]),
    }


class CompletionStream:
    """Turns the chunks of the chats into the frames of one completion stream.

    Feed each chat's SSE payloads (the JSON after ``data:``, without ``[DONE]``) to ``frame`` in their order;
    chats may follow one another or interleave. When all have ended normally, send ``end()``. Every frame
    carries one id, which comes from the first chunk.
    """

    def __init__(self, request: CompletionRequest) -> None:
        self._request = request
        self._head: dict[str, Any] | None = None
        self._usages: list[Mapping[str, Any] | None] = []
        self._echoed: set[int] = set()

    def frame(self, index: int, payload: bytes | str) -> bytes:
        """The SSE bytes for one chat chunk of prompt ``index``; empty when the chunk has nothing to show.

        An error payload (``{"error": ...}``) is passed on as it is; the caller ends the stream after it,
        without ``end()``.
        """
        chunk = orjson.loads(payload)
        if "error" in chunk:
            return _sse(chunk)
        if self._head is None:
            self._head = {
                "id": _completion_id(chunk["id"]),
                "object": "text_completion",
                "created": chunk["created"],
                "model": chunk["model"],
                "system_fingerprint": chunk.get("system_fingerprint"),
            }
        if not chunk["choices"]:
            self._usages.append(chunk.get("usage"))
            return b""
        choice = chunk["choices"][0]
        text = choice["delta"].get("content") or ""
        if self._request.echo and index not in self._echoed:
            self._echoed.add(index)
            text = self._request.prompts[index] + text
        finish_reason = choice.get("finish_reason")
        if not text and finish_reason is None:
            return b""
        return _sse(self._head | {"choices": [_choice(index, text, finish_reason)]})

    def end(self) -> bytes:
        """The usage frame, if it was asked for, and ``[DONE]``."""
        done = b"data: [DONE]\n\n"
        if not self._request.include_usage or self._head is None:
            return done
        return _sse(self._head | {"choices": [], "usage": _sum_usage(self._usages)}) + done


def _prompts(prompt: object) -> tuple[str, ...]:
    if isinstance(prompt, str):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise InvalidInputError("'prompt' must be a string or a non-empty list of strings.", param="prompt")
    if all(isinstance(item, int | list) and not isinstance(item, bool) for item in prompt):
        raise UnsupportedParameterError("prompt", "Token arrays are not supported as 'prompt'; send text.")
    if len(prompt) > MAX_PROMPTS:
        raise InvalidInputError(
            f"'prompt' holds {len(prompt)} prompts; at most {MAX_PROMPTS} are allowed.", param="prompt"
        )
    for index, item in enumerate(prompt):
        if not isinstance(item, str) or not item:
            raise InvalidInputError(f"'prompt.{index}' must be a non-empty string.", param=f"prompt.{index}")
    return tuple(prompt)


def _boolean(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidInputError(f"'{key}' must be true or false.", param=key)
    return bool(value)


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for key, reason in (
        ("suffix", "'suffix' is not supported: the models here write forward only."),
        ("logprobs", "'logprobs' is not supported: the engine does not report them."),
    ):
        if body.get(key) is not None:
            raise UnsupportedParameterError(key, reason)
    for key in ("n", "best_of"):
        value = body.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InvalidInputError(f"'{key}' must be a positive integer.", param=key)
        if value > 1:
            raise UnsupportedParameterError(key, f"'{key}' above 1 is not supported: send several prompts instead.")


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    # A facade without tools can only stop or run out; anything else counts as a stop.
    known = finish_reason if finish_reason in {None, "length", "content_filter"} else "stop"
    return {"text": text, "index": index, "logprobs": None, "finish_reason": known}


def _completion_id(chat_id: str) -> str:
    return "cmpl-" + chat_id.removeprefix("chatcmpl-")


def _sum_usage(usages: Sequence[Mapping[str, Any] | None]) -> dict[str, int]:
    prompt = sum(int(usage["prompt_tokens"]) for usage in usages if usage)
    completion = sum(int(usage["completion_tokens"]) for usage in usages if usage)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _sse(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"
