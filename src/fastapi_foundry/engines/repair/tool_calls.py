"""Tool calls that arrived as text in a whole answer: read, checked, asked for once more, or left as text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson

from fastapi_foundry.engines.repair.answers import complete_call
from fastapi_foundry.engines.repair.tool_text import FoundCalls, check_calls, find_calls, wants_call
from fastapi_foundry.errors import EngineFailedError, InvalidInputError

__all__ = ["with_calls"]

_SHOWN_CHARS: Final = 1000

Ask = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


async def with_calls(answer: dict[str, Any], request: Mapping[str, Any], ask: Ask) -> list[str]:
    """Turn the text of ``answer`` into tool calls where it is some; in place.

    A call that is wrong is shown to the model with the error, once.

    Returns:
        What was done.

    Raises:
        EngineFailedError: The request demands a call, and the model made none that can be used.
    """
    notes: list[str] = []
    for choice in answer["choices"]:
        if not choice["message"].get("tool_calls"):
            notes += await _with_calls(choice, request, ask)
    return notes


async def _with_calls(choice: dict[str, Any], request: Mapping[str, Any], ask: Ask) -> list[str]:
    tools = request["tools"]
    text = choice["message"].get("content") or ""
    found = find_calls(text, tools)
    problem = await check_calls(found, tools) if found else _missing(request)
    note = "tools: calls read from the text"
    if problem:
        try:
            again = await ask(_asking_again(request, text, problem))
        except InvalidInputError:
            again = None  # what was added no longer fits the context
        second = again["choices"][0]["message"] if again else {}
        if second.get("tool_calls"):
            _take(choice, second["tool_calls"], None)
            return ["tools: asked twice"]
        later = find_calls(second.get("content") or "", tools)
        later_problem = await check_calls(later, tools) if later else problem
        if later is None or later_problem:
            if wants_call(request):
                raise EngineFailedError(f"The model did not produce a valid tool call: {later_problem}.")
            return [f"tools: left as text ({_plain(later_problem)})"]
        found, note = later, "tools: calls read from the text of a second answer"
    if found is None:
        return []
    _take(choice, _calls_of(found), found.text or None)
    return [note]


def _missing(request: Mapping[str, Any]) -> str:
    return "a tool has to be called" if wants_call(request) else ""


def _calls_of(found: FoundCalls) -> list[dict[str, Any]]:
    return [
        complete_call({"function": {"name": name, "arguments": orjson.dumps(arguments).decode()}})
        for name, arguments in found.calls
    ]


def _take(choice: dict[str, Any], calls: list[dict[str, Any]], text: str | None) -> None:
    choice["message"] |= {"content": text, "tool_calls": calls}
    choice["finish_reason"] = "tool_calls"


def _asking_again(request: Mapping[str, Any], text: str, problem: str) -> dict[str, Any]:
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + " ..."
    wish = (
        f"That tool call cannot be used: {problem}. Answer with the call alone, as "
        '<tool_call>{"name": ..., "arguments": {...}}</tool_call>.'
    )
    messages = [*request["messages"], {"role": "assistant", "content": shown}, {"role": "user", "content": wish}]
    return {**request, "messages": messages}


def _plain(text: str) -> str:
    """For a header: printable ASCII without commas."""
    return "".join(each if " " <= each <= "~" and each != "," else " " for each in text)[:120]
