"""A whole chat answer as the contract wants it: what an engine left out is filled in, what is wrong put right."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.engines.repair.requests import Plan
from fastapi_foundry.errors import EngineFailedError
from fastapi_foundry.wire.errors import fact_from_error_event

__all__ = [
    "complete_call",
    "ended_by",
    "estimated_prompt_tokens",
    "estimated_tokens",
    "new_id",
    "parse_answer",
    "raise_hidden_error",
    "repair_answer",
    "usage_of",
]

_HIDDEN_ERROR: Final = re.compile(rb'\s*\{\s*"error"\s*:\s*[{"]')
# English text in the tokenizers of today's models; only used where an engine does not count itself.
_CHARS_PER_TOKEN: Final = 4


def raise_hidden_error(body: bytes) -> None:
    """Raise the fact behind an error that came with status 200; a look at the first bytes, not a parse.

    Raises:
        FoundryError: The body is an error.
    """
    if _HIDDEN_ERROR.match(body):
        raise fact_from_error_event(body)


def parse_answer(body: bytes) -> dict[str, Any]:
    """A chat answer as an object.

    Raises:
        EngineFailedError: It is none.
        FoundryError: It is an error that came with status 200.
    """
    raise_hidden_error(body)
    try:
        answer = orjson.loads(body)
        if all(isinstance(choice["message"], dict) for choice in answer["choices"]) and answer["choices"]:
            return dict(answer)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise EngineFailedError("The engine's answer makes no sense.", cause=repr(error)) from error
    raise EngineFailedError("The engine's answer holds no choices.")


def repair_answer(answer: dict[str, Any], plan: Plan) -> list[str]:
    """Put ``answer`` right, in place.

    Returns:
        The alterations that a client may care about; fields that were merely absent are not among them.
    """
    answer["id"] = answer.get("id") or new_id()
    answer["object"] = "chat.completion"
    answer["created"] = answer.get("created") or int(time.time())
    answer["model"] = answer.get("model") or plan.request.get("model")
    notes = []
    for index, choice in enumerate(answer["choices"]):
        choice.setdefault("index", index)
        if _cut_at_stop(choice, plan.stops):
            notes.append("stop: text cut by the gateway")
    usage = usage_of(answer.get("usage"))
    if usage is None:
        usage = _estimated_usage(answer, plan.request)
        notes.append("usage: estimated from the text")
    answer["usage"] = usage
    for choice in answer["choices"]:
        _complete_choice(choice, plan, usage)
    return list(dict.fromkeys(notes))


def usage_of(value: Any) -> dict[str, Any] | None:
    """An engine's usage with a total that adds up; None where it does not count, or not in whole numbers."""
    if not isinstance(value, Mapping):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(completion, int) or prompt <= 0:
        return None
    return {**value, "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def estimated_tokens(text: str) -> int:
    """About how many tokens a text has."""
    return -(-len(text) // _CHARS_PER_TOKEN)


def estimated_prompt_tokens(request: Mapping[str, Any]) -> int:
    """About how many tokens the messages of a request have; at least one."""
    return max(1, sum(estimated_tokens(_text_of(each.get("content"))) for each in request.get("messages", ())))


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, Mapping))
    return str(content or "")


def complete_call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with an id, a type and arguments that are text; in place and returned."""
    call["id"] = call.get("id") or f"call_{secrets.token_hex(12)}"
    call["type"] = "function"
    function = call.setdefault("function", {})
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        function["arguments"] = orjson.dumps(arguments if arguments is not None else {}).decode()
    return call


def new_id() -> str:
    """An id for an answer that has none."""
    return f"chatcmpl-{secrets.token_hex(12)}"


def _complete_choice(choice: dict[str, Any], plan: Plan, usage: Mapping[str, Any]) -> None:
    message = choice["message"]
    choice.pop("delta", None)  # Gen 1 says everything twice
    message["role"] = message.get("role") or "assistant"
    message.setdefault("content", None)
    message.setdefault("refusal", None)
    choice.setdefault("logprobs", None)
    if message.get("tool_calls"):
        for call in message["tool_calls"]:
            complete_call(call).pop("index", None)
        message["content"] = message["content"] or None
        choice["finish_reason"] = "tool_calls"
    else:
        message.pop("tool_calls", None)
        choice["finish_reason"] = choice.get("finish_reason") or ended_by(plan.request, usage)


def ended_by(request: Mapping[str, Any], usage: Mapping[str, Any]) -> str:
    """The finish reason that an engine left out: whether the answer has as many tokens as it may."""
    limit = request.get("max_completion_tokens") or request.get("max_tokens")
    return "length" if limit and usage["completion_tokens"] >= limit else "stop"


def _cut_at_stop(choice: dict[str, Any], stops: tuple[str, ...]) -> bool:
    text = choice["message"].get("content")
    if not isinstance(text, str):
        return False
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if not places:
        return False
    choice["message"]["content"] = text[: min(places)]
    choice["finish_reason"] = "stop"
    return True


def _estimated_usage(answer: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, int]:
    texts = (str(choice["message"].get("content") or "") for choice in answer["choices"])
    prompt = estimated_prompt_tokens(request)
    completion = sum(estimated_tokens(text) for text in texts)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
