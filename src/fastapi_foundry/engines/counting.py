"""How each kind of engine is asked for the exact length of a chat's prompt, where it can tell at all.

Nothing is generated for it. An engine of a kind that is not known may be vLLM or llama.cpp, which have routes for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import Call, TokenCount
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.transport import Ask, Transport
from fastapi_foundry.errors import EngineFailedError, EngineTimeoutError, InvalidInputError, ModelNotFoundError
from fastapi_foundry.wire.context_length import numbers_in

__all__ = ["count_tokens"]

# A model that is not loaded is loaded for it; nobody waits for that longer than for an answer.
_GUESS_S: Final = 5.0
_COUNTED: Final = ("model", "messages", "tools", "tool_choice")
# Asked for so many, Foundry Local's own service refuses before it does anything, and says how long the prompt is.
_TOO_MANY_TOKENS: Final = 2_000_000_000


async def count_tokens(transport: Transport, call: Call) -> TokenCount | None:
    """The length of the prompt that a chat request makes; None where the engine cannot tell.

    Raises:
        EngineError: The engine cannot be asked.
        InvalidInputError: The request is wrong.
    """
    request = {key: call.parsed[key] for key in _COUNTED if call.parsed.get(key) is not None}
    match transport.supervisor.kind:
        case EngineKind.OURS:
            return _of_tokenize(await _ask(transport, "/tokenize", request, call))
        case EngineKind.GATEWAY:
            return _of_gateway(await _ask(transport, "/api/v1/tokens/count", request, call))
        case EngineKind.GEN3:
            return await _by_refusal(transport, request, call)
        case EngineKind.OPENAI:
            return await _of_stranger(transport, request, call)
        case _:
            return None


async def _ask(
    transport: Transport, path: str, body: Mapping[str, Any], call: Call, limit_s: float | None = None
) -> dict[str, Any]:
    """The engine's answer.

    Raises:
        EngineFailedError: It is no JSON object.
    """
    patience = transport.patience
    timeouts = patience.timeouts(total_s=limit_s or patience.answer_s)
    ask = Ask("POST", path, timeouts, patience.ready_s, orjson.dumps(body), call.request_id, call.model)
    _, answer = await transport.whole(ask)
    try:
        document = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise EngineFailedError("The engine's count of tokens is not JSON.") from error
    if not isinstance(document, dict):
        raise EngineFailedError("The engine's count of tokens makes no sense.")
    return document


def _of_tokenize(answer: Mapping[str, Any]) -> TokenCount | None:
    count, limit = answer.get("count"), answer.get("max_model_len")
    return TokenCount(count, limit if isinstance(limit, int) else None) if isinstance(count, int) else None


def _of_gateway(answer: Mapping[str, Any]) -> TokenCount | None:
    count, limit = answer.get("prompt_tokens"), answer.get("context_length")
    if answer.get("exact") is not True or not isinstance(count, int):
        return None
    return TokenCount(count, limit if isinstance(limit, int) else None)


async def _by_refusal(transport: Transport, request: Mapping[str, Any], call: Call) -> TokenCount | None:
    try:
        await _ask(transport, call.path, {**request, "max_tokens": _TOO_MANY_TOKENS}, call)
    except InvalidInputError as refusal:
        numbers = numbers_in(f"{refusal.message} {refusal.context.get('engine_body', '')}")
        return None if numbers is None else TokenCount(numbers.prompt_tokens, numbers.context_length)
    return None


async def _of_stranger(transport: Transport, request: Mapping[str, Any], call: Call) -> TokenCount | None:
    """Of vLLM, which counts messages, or llama.cpp, which makes a prompt of them and tokens of that."""
    try:
        counted = _of_tokenize(await _ask(transport, "/tokenize", request, call, _GUESS_S))
        if counted is not None:
            return counted
        prompt = (await _ask(transport, "/apply-template", request, call, _GUESS_S)).get("prompt")
        if not isinstance(prompt, str):
            return None
        asked = {"content": prompt, "add_special": True, "parse_special": True}
        tokens = (await _ask(transport, "/tokenize", asked, call, _GUESS_S)).get("tokens")
    except (EngineFailedError, EngineTimeoutError, InvalidInputError, ModelNotFoundError):
        return None  # it has no such routes
    return TokenCount(len(tokens)) if isinstance(tokens, list) and tokens else None
