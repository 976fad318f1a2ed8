"""A chat request on its way to an engine that is not quite OpenAI: what to change, what to refuse, what is left to do.

Pure functions. A request that needs nothing comes back as the very same object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi_foundry.engines.repair.profile import EngineProfile, ModelFacts
from fastapi_foundry.errors import ContextLengthExceededError, FoundryError, UnsupportedParameterError

__all__ = ["Plan", "clamped_after", "is_plain", "passes_plain_requests", "plan_chat", "refuse_unsupported"]

_UNKNOWN_MODEL: Final = ModelFacts()
# A token of the tokenizers in use is rarely shorter than this on average; JSON around each message included.
_BYTES_PER_TOKEN: Final = 2
_TEXT_PARTS: Final = {"text": "text", "refusal": "refusal", "input_text": "text"}
_TOTAL: Final = re.compile(r"requires (\d+) total tokens|requested (\d+) tokens|max_length \((\d+)\)", re.IGNORECASE)
_LIMIT: Final = re.compile(
    r"(?:context(?: length| window| limit| size)?)\D{0,40}?(\d{2,})|max_length is over (\d+)", re.IGNORECASE
)
_PROMPT: Final = re.compile(
    r"resulted in (\d+) tokens|(\d+) (?:tokens )?(?:in|from) the (?:messages|input|prompt)|\((\d+) input\b"
    r"|input_ids size \((\d+)\)|prompt\D{0,20}(\d+)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of one chat request.

    Attributes:
        request: What is sent; the client's own object where nothing was changed.
        alterations: What was changed, each as ``feature: what was done``.
        choices: How many requests it takes; each is asked for one choice.
        stops: Stop sequences that have to be enforced here.
        tools_as_text: Whether tool calls may arrive as text.
        structured: ``json_object`` or ``json_schema`` where the answer has to be checked, else empty.
        fills_answer: Whether parts of the answer may be missing or wrong.
        wants_usage: Whether a stream ends with a usage frame.
    """

    request: Mapping[str, Any]
    alterations: tuple[str, ...] = ()
    choices: int = 1
    stops: tuple[str, ...] = ()
    tools_as_text: bool = False
    structured: str = ""
    fills_answer: bool = False
    wants_usage: bool = False

    @property
    def touches_answer(self) -> bool:
        """Whether the answer has to be looked at; if not, its bytes pass through."""
        return bool(self.choices > 1 or self.stops or self.tools_as_text or self.structured or self.fills_answer)


@dataclass(slots=True)
class _Draft:
    """A request under repair; copied when it is first changed."""

    request: Mapping[str, Any]
    alterations: list[str] = field(default_factory=list)

    def change(self, what: str, **values: Any) -> None:
        self.request = {**self.request, **values}
        self.alterations.append(what)

    def drop(self, what: str, *keys: str) -> None:
        self.request = {key: value for key, value in self.request.items() if key not in keys}
        self.alterations.append(what)


_PLAIN_KEYS: Final = frozenset(
    {"model", "messages", "max_tokens", "seed", "stream", "stream_options", "temperature", "top_p", "user"}
)
_PLAIN_REQUEST: Final[dict[str, Any]] = {
    "model": "x",
    "messages": [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "x"},
    ],
    "max_tokens": 1,
    "seed": 1,
    "temperature": 0.5,
    "top_p": 0.5,
    "user": "x",
}


def is_plain(request: Mapping[str, Any]) -> bool:
    """Whether a request uses nothing but what every chat does; one look, since nearly all of them are so."""
    if not request.keys() <= _PLAIN_KEYS:
        return False
    return all(
        message.get("role") != "developer" and type(message.get("content")) is str for message in request["messages"]
    )


def passes_plain_requests(profile: EngineProfile) -> bool:
    """Whether plain requests, streamed or not, and their answers need nothing at this engine."""
    for stream in (False, True):
        plan = plan_chat({**_PLAIN_REQUEST, "stream": stream}, profile)
        if plan.touches_answer or plan.alterations:
            return False
    return True


def plan_chat(request: Mapping[str, Any], profile: EngineProfile, facts: ModelFacts = _UNKNOWN_MODEL) -> Plan:
    """Fit a checked chat request to an engine.

    ``response_format`` is left as it is, since its schema has to be checked first; see ``structured``.

    Raises:
        UnsupportedParameterError: What is asked for cannot be honoured by this engine and model.
    """
    refuse_unsupported(request, profile)
    draft = _Draft(request)
    _fit_messages(draft, profile, facts)
    _fit_tools(draft, profile)
    _fit_tokens(draft, profile, facts)
    stops = _fit_stop(draft, profile)
    wanted = request.get("response_format")
    structured = wanted.get("type", "") if isinstance(wanted, Mapping) else ""
    structured = structured if structured in ("json_object", "json_schema") else ""
    choices = request.get("n") or 1
    if choices > 1 and (profile.n != "native" or structured or stops):
        draft.drop(f"n: answered by {choices} requests", "n")
    else:
        choices = 1
    tools_as_text = profile.tools == "text" and bool(draft.request.get("tools"))
    return Plan(
        request=draft.request,
        alterations=tuple(draft.alterations),
        choices=choices,
        stops=stops,
        tools_as_text=tools_as_text,
        structured=structured,
        fills_answer=_fills_answer(draft.request, profile),
        wants_usage=bool((request.get("stream_options") or {}).get("include_usage")),
    )


def refuse_unsupported(request: Mapping[str, Any], profile: EngineProfile) -> None:
    """Refuse what the engine would ignore or fail on and nobody can do in its place.

    Raises:
        UnsupportedParameterError: It names the parameter.
    """
    for key, behaviour, reason in (
        ("logprobs", profile.logprobs, "the engine does not report them"),
        ("top_logprobs", profile.logprobs, "the engine does not report them"),
        ("logit_bias", profile.logit_bias, "the engine does not know it"),
        ("frequency_penalty", profile.penalties, "the engine knows no value other than 0"),
        ("presence_penalty", profile.penalties, "the engine knows no value other than 0"),
    ):
        if request.get(key) and behaviour != "native":
            raise UnsupportedParameterError(key, f"'{key}' is not supported: {reason}.")


def clamped_after(
    request: Mapping[str, Any], refusal: FoundryError, facts: ModelFacts = _UNKNOWN_MODEL
) -> dict[str, Any] | None:
    """The request with ``max_tokens`` clamped to the room that the context leaves, after an engine refused it.

    Returns:
        None when the refusal is about something else.

    Raises:
        ContextLengthExceededError: There is no room at all.
    """
    text = f"{refusal.message} {refusal.context.get('engine_body', '')}"
    limit = facts.context_length or _figure(_LIMIT, text)
    asked = _asked_tokens(request)
    total, prompt = _figure(_TOTAL, text), _figure(_PROMPT, text)
    if limit is None or (total is None and prompt is None and "context" not in text.lower()):
        return None
    if prompt is None and total is not None:
        # Without a bound of its own a request stands for 2048 tokens, as measured with Foundry Local 2.2.
        prompt = total - (asked or 2048)
    known = prompt is not None and prompt > 0
    used = prompt if prompt is not None and known else _most_prompt_tokens(request)
    if known and used >= limit:
        model = str(request.get("model"))
        raise ContextLengthExceededError(prompt_tokens=used, context_length=limit, model=model) from refusal
    room = limit - used
    if room < 1 or (asked is not None and room >= asked):
        return None
    return {key: value for key, value in request.items() if key != "max_completion_tokens"} | {"max_tokens": room}


def _figure(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return int(next(group for group in match.groups() if group)) if match else None


def _asked_tokens(request: Mapping[str, Any]) -> int | None:
    value = request.get("max_completion_tokens") or request.get("max_tokens")
    return int(value) if value else None


def _most_prompt_tokens(request: Mapping[str, Any]) -> int:
    return len(str(request.get("messages", ""))) // _BYTES_PER_TOKEN


def _fits_text_alone(profile: EngineProfile, facts: ModelFacts) -> bool:
    return profile.images != "native" or facts.vision is False


def _fit_messages(draft: _Draft, profile: EngineProfile, facts: ModelFacts) -> None:
    messages = draft.request.get("messages") or ()
    if any(isinstance(message.get("content"), list) for message in messages):
        if _fits_text_alone(profile, facts):
            for place, kind in _other_parts(messages):
                raise UnsupportedParameterError(place, f"Content of type '{kind}' is not supported by this model.")
        if profile.content_parts != "native" and not any(_other_parts(messages)):
            messages = [_flat(message) for message in messages]
            draft.change("content: text parts joined", messages=messages)
    if profile.developer_role != "native" and any(message.get("role") == "developer" for message in messages):
        roles = [{**each, "role": "system"} if each.get("role") == "developer" else each for each in messages]
        draft.change("role: developer sent as system", messages=roles)


def _other_parts(messages: Any) -> Iterator[tuple[str, str]]:
    """Places and types of the parts that are no text."""
    for index, message in enumerate(messages):
        content = message.get("content")
        for number, part in enumerate(content if isinstance(content, list) else ()):
            kind = part.get("type")
            if kind not in _TEXT_PARTS:
                yield f"messages.{index}.content.{number}", str(kind)


def _flat(message: Mapping[str, Any]) -> Mapping[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return message
    return {**message, "content": "".join(part.get(_TEXT_PARTS[part["type"]]) or "" for part in content)}


def _fit_tools(draft: _Draft, profile: EngineProfile) -> None:
    tools = draft.request.get("tools")
    if not tools:
        return
    if draft.request.get("tool_choice") == "none" and profile.tools != "native":
        draft.drop("tools: left out since tool_choice is none", "tools", "tool_choice")
        return
    if profile.tools == "none":
        raise UnsupportedParameterError("tools", "'tools' is not supported: the engine does not know tools.")
    if profile.strict_tools == "refused" and any("strict" in tool.get("function", {}) for tool in tools):
        loose = [
            {**tool, "function": {key: value for key, value in tool["function"].items() if key != "strict"}}
            for tool in tools
        ]
        draft.change("strict: left out of the tools", tools=loose)


def _fit_tokens(draft: _Draft, profile: EngineProfile, facts: ModelFacts) -> None:
    request = draft.request
    newer = request.get("max_completion_tokens")
    if newer is not None and profile.max_completion_tokens != "native":
        draft.drop("max_completion_tokens: sent as max_tokens", "max_completion_tokens")
        draft.request = {**draft.request, "max_tokens": newer}
    asked, limit = _asked_tokens(draft.request), facts.context_length
    if profile.max_tokens_overflow == "refused" and asked and limit and asked >= limit:
        # What the prompt takes is the engine's to count: should this be too much still, it is asked once more.
        key = "max_completion_tokens" if draft.request.get("max_completion_tokens") else "max_tokens"
        room = max(1, limit - _most_prompt_tokens(draft.request) // 2)
        draft.change(f"max_tokens: {asked} clamped to {room}", **{key: room})


def _fit_stop(draft: _Draft, profile: EngineProfile) -> tuple[str, ...]:
    stop = draft.request.get("stop")
    if not stop or profile.stop == "native":
        return ()
    if profile.stop == "refused":
        draft.drop("stop: enforced by the gateway", "stop")
    else:
        draft.alterations.append("stop: enforced by the gateway")
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _fills_answer(request: Mapping[str, Any], profile: EngineProfile) -> bool:
    if profile.envelope != "complete":
        return True
    if request.get("tools") and (profile.tool_deltas != "complete" or profile.finish_reason != "right"):
        return True
    if profile.finish_reason != "right":
        return True
    if request.get("stream"):
        return profile.stream_usage != "present" and bool((request.get("stream_options") or {}).get("include_usage"))
    return profile.usage != "present"
