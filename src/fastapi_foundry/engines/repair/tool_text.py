"""Tool calls that a model wrote into its text: found, read, checked against the tools on offer. Pure functions.

The forms that local models use: ``<tool_call>{...}</tool_call>`` (Hermes, Qwen), ``[TOOL_CALLS] [...]`` (Mistral),
``functools[...]`` (Phi), a fenced block of JSON, and JSON alone (Llama).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.engines.repair.schema_check import prepare
from fastapi_foundry.errors import InvalidInputError

__all__ = ["MARKS", "FoundCalls", "check_calls", "find_calls", "may_begin_call", "wants_call"]

MARKS: Final = ("<tool_call>", "[TOOL_CALLS]", "functools[")
"""What begins a call anywhere in a text."""

_TAGGED: Final = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_LISTED: Final = re.compile(r"(?:\[TOOL_CALLS\]\s*|functools)(\[.*)", re.DOTALL)
_FENCED: Final = re.compile(r"\A\s*```(?:json|tool_call|tool_code)?\s*\n(.*?)```\s*\Z", re.DOTALL)
_STARTS: Final = ("```", "{", "[")
_MOST_CALLS: Final = 64


@dataclass(frozen=True, slots=True)
class FoundCalls:
    """What a text holds besides text.

    Attributes:
        calls: Name and arguments of each call, in their order.
        text: What stands around the calls.
        problem: Why what looks like a call is none; empty when all is well.
    """

    calls: tuple[tuple[str, dict[str, Any]], ...] = ()
    text: str = ""
    problem: str = ""


def may_begin_call(text: str) -> bool:
    """Whether a text that has just begun may turn out to be a call as a whole."""
    start = text.lstrip()
    return not start or any(start.startswith(mark) or mark.startswith(start) for mark in _STARTS)


def find_calls(text: str, tools: Sequence[Mapping[str, Any]]) -> FoundCalls | None:
    """The calls in ``text``; None when nothing in it looks like one.

    Bare JSON counts as a call only if it names one of the tools, since JSON may as well be an answer.
    """
    pieces, around, marked = _pieces(text)
    if not pieces:
        return None
    names = {str(tool["function"]["name"]) for tool in tools}
    calls: list[tuple[str, dict[str, Any]]] = []
    for piece in pieces:
        try:
            value = orjson.loads(piece)
        except orjson.JSONDecodeError:
            return FoundCalls(text=text, problem="the call is not valid JSON") if marked else None
        for entry in value if isinstance(value, list) else [value]:
            call = _call(entry)
            if call is None or (not marked and call[0] not in names):
                return FoundCalls(text=text, problem="the call has no name or no arguments") if marked else None
            calls.append(call)
    return FoundCalls(tuple(calls[:_MOST_CALLS]), around.strip()) if calls else None


async def check_calls(found: FoundCalls, tools: Sequence[Mapping[str, Any]]) -> str:
    """Why these calls cannot be handed to the client, in words; empty when they can."""
    if found.problem:
        return found.problem
    offered = {str(tool["function"]["name"]): tool["function"] for tool in tools}
    for name, arguments in found.calls:
        function = offered.get(name)
        if function is None:
            return f"there is no tool '{name[:64]}'"
        schema = function.get("parameters")
        if not isinstance(schema, Mapping) or not schema:
            continue
        try:
            checked = await prepare(schema)
        except InvalidInputError:
            continue  # the client's own affair: the call is handed on as the model made it
        breach = await checked.breach(arguments)
        if breach is not None:
            return f"the arguments of '{name}' are wrong: {breach.words}"
    return ""


def wants_call(request: Mapping[str, Any]) -> bool:
    """Whether the request leaves the model no choice but to call a tool."""
    choice = request.get("tool_choice")
    return choice == "required" or isinstance(choice, Mapping)


def _pieces(text: str) -> tuple[list[str], str, bool]:
    """The parts that may be calls, what stands around them, and whether a mark says that they are calls."""
    if "<tool_call>" in text:
        return [match.group(1) for match in _TAGGED.finditer(text)], _TAGGED.sub("", text), True
    if match := _LISTED.search(text):
        return [match.group(1).strip()], text[: match.start()], True
    if match := _FENCED.match(text):
        return [match.group(1)], "", False
    stripped = text.strip()
    return ([stripped], "", False) if stripped[:1] in {"{", "["} else ([], text, False)


def _call(entry: Any) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(entry, Mapping):
        return None
    if isinstance(entry.get("function"), Mapping):
        entry = entry["function"]
    name = entry.get("name") or entry.get("function")
    arguments = entry.get("arguments", entry.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return None
    return (name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None
