"""Structured answers: asked for in the engine's own form, checked against the client's schema, repaired within bounds.

The order is: read the text as it stands, find the JSON among fences and prose, close brackets, turn a quoted number
into a number where the schema wants one; then ask again, at most twice, with a schema that leaves less room and with
the error shown; then ``StructuredOutputError``. An answer that breaks the schema never leaves here as a success.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.engines.repair.grammar_schema import TIGHT, for_grammar, generous, narrowed
from fastapi_foundry.engines.repair.json_text import Found, find_json, is_cut_number
from fastapi_foundry.engines.repair.profile import EngineProfile
from fastapi_foundry.engines.repair.schema_check import CheckedSchema, prepare
from fastapi_foundry.errors import FoundryError, InvalidInputError, StructuredOutputError

__all__ = ["MAX_ASKED", "StructuredFormat", "Verdict", "ask_until_valid", "is_grammar_failure", "prepare_format"]

MAX_ASKED: Final = 3
"""How often a model is asked at most for one answer."""

Ask = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]

_ANY_OBJECT: Final = {"type": "object", "additionalProperties": True}
_DEFAULT_MAX_TOKENS: Final = 2048
_SHOWN_CHARS: Final = 400
_MOST_COERCIONS: Final = 32
# Below this a retry would repeat what was tried; far apart from the seeds that clients count up.
_SEED_STEP: Final = 7919
_RETRY_TEMPERATURES: Final = (0.4, 0.0)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check of one answer came to.

    Attributes:
        text: The valid JSON; None when there is none.
        problem: Why not, in words.
        how: What was done to the text; empty when it was valid as it stood.
        whole: Whether the document was complete by itself, whatever the finish_reason says.
    """

    text: str | None = None
    problem: str = ""
    how: str = ""
    whole: bool = True


@dataclass(frozen=True, slots=True)
class StructuredFormat:
    """One request's ``response_format``, checked.

    Attributes:
        name: The client's name for the schema.
        checked: The schema that answers have to keep to.
        profile: How the engine wants to be asked.
    """

    name: str
    checked: CheckedSchema
    profile: EngineProfile

    @property
    def prepares(self) -> str:
        """What is changed in the request for the engine's sake; empty where it takes the format as it is."""
        if not self.held_by_grammar:
            return "response_format: schema put into the prompt"
        if self.profile.grammar == "llguidance":
            return "response_format: schema fitted to the engine's grammar"
        return "response_format: sent as a bare schema" if self.profile.json_schema == "bare" else ""

    @property
    def held_by_grammar(self) -> bool:
        """Whether the engine holds the model to the schema, so that a stream of its text can be passed on at once."""
        return self.profile.json_schema in ("wrapped", "bare")

    def asking(self, request: Mapping[str, Any], attempt: int) -> dict[str, Any]:
        """``request`` with the format in the engine's form.

        Args:
            attempt: 0 for the first of several, which leaves the model all room. A stream cannot be asked for again:
                it starts at 1, where what could go on for ever has generous bounds.
        """
        changed = {key: value for key, value in request.items() if key != "response_format"}
        profile = self.profile
        if self.held_by_grammar:
            return changed | {"response_format": self._format(self._schema(request, attempt))}
        if profile.json_schema == "json_object_only" or profile.json_object == "native":
            changed["response_format"] = {"type": "json_object"}
        return changed | {"messages": [_instruction(self.checked.schema), *request["messages"]]}

    def asking_loosely(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """As ``asking``, where the engine cannot compile the schema: its outermost type alone."""
        kind = self.checked.schema.get("type", "object")
        schema = for_grammar({"type": kind if isinstance(kind, str) else "object"})
        messages = [_instruction(self.checked.schema), *request["messages"]]
        return {**request, "messages": messages, "response_format": self._format(schema)}

    async def verdict(self, text: str | None, finish_reason: str | None) -> Verdict:
        """Check the text of one answer."""
        problem = ""
        for found in find_json(text or ""):
            cut = finish_reason == "length" and not found.how and is_cut_number((text or "").rstrip("\0"))
            if cut and isinstance(found.value, int | float):
                continue
            outcome = await self._checked(found)
            if outcome.text is not None:
                return outcome
            problem = problem or outcome.problem
        if finish_reason == "length":
            return Verdict(problem="the token limit (max_tokens or the context) cut the answer off")
        return Verdict(problem=problem or "the answer is not JSON")

    async def _checked(self, found: Found) -> Verdict:
        breach = await self.checked.breach(found.value)
        if breach is None:
            return Verdict(text=found.text, how=found.how, whole=found.how != "brackets closed")
        value, changes = found.value, 0
        while breach is not None and changes < _MOST_COERCIONS:
            coerced = _coerced(breach.instance, breach.expected) if breach.rule == "type" else _NOTHING
            if coerced is _NOTHING:
                return Verdict(problem=breach.words)
            value = _with(value, breach.path, coerced)
            changes += 1
            breach = await self.checked.breach(value)
        if breach is not None:
            return Verdict(problem=breach.words)
        return Verdict(
            text=orjson.dumps(value).decode(), how="quoted values unquoted", whole=found.how != "brackets closed"
        )

    def _format(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        if self.profile.json_schema == "bare":
            return {"type": "json_schema", "json_schema": schema}
        return {"type": "json_schema", "json_schema": {"name": self.name, "schema": schema, "strict": True}}

    def _schema(self, request: Mapping[str, Any], attempt: int) -> Mapping[str, Any]:
        schema = self.checked.schema
        if self.profile.grammar != "llguidance":
            return schema
        if attempt == 0:
            return for_grammar(schema)
        limit = request.get("max_completion_tokens") or request.get("max_tokens") or _DEFAULT_MAX_TOKENS
        bounds = generous(int(limit)) if attempt == 1 else TIGHT
        return narrowed(schema, bounds) or for_grammar(schema)


async def prepare_format(request: Mapping[str, Any], profile: EngineProfile) -> StructuredFormat:
    """Check the ``response_format`` of a request; a first look at a schema takes tens of milliseconds in a thread.

    Raises:
        InvalidInputError: The schema is none, is too large, or refers to something outside itself.
    """
    wanted = request["response_format"]
    if wanted["type"] == "json_object":
        return StructuredFormat("json_object", await prepare(_ANY_OBJECT), profile)
    wrapper = wanted.get("json_schema")
    schema = wrapper.get("schema") if isinstance(wrapper, Mapping) else None
    if not isinstance(schema, Mapping):
        raise InvalidInputError(
            "'response_format.json_schema.schema' must be a JSON Schema object.",
            param="response_format.json_schema.schema",
        )
    return StructuredFormat(str(wrapper.get("name") or "answer"), await prepare(schema), profile)


async def ask_until_valid(
    ask: Ask, request: Mapping[str, Any], form: StructuredFormat
) -> tuple[dict[str, Any], list[str]]:
    """Ask for one choice until its text keeps to the schema.

    Returns:
        The answer, whose text is valid JSON, and what was done for it. Answers with tool calls or a refusal
        instead of text are returned as they are.

    Raises:
        StructuredOutputError: It did not, however often the model was asked.
        FoundryError: What ``ask`` raises.
    """
    asked = form.asking(request, 0)
    notes: list[str] = []
    problem = ""
    for attempt in range(MAX_ASKED):
        try:
            answer = await _ask_with_grammar(ask, asked, request, form)
        except InvalidInputError:
            if attempt:
                break  # what was added to the conversation no longer fits the context
            raise
        choice = answer["choices"][0]
        text = choice["message"].get("content")
        if choice["message"].get("tool_calls") or choice["message"].get("refusal"):
            return answer, notes
        verdict = await form.verdict(text, choice.get("finish_reason"))
        if verdict.text is not None:
            if verdict.how:
                notes.append(f"response_format: {verdict.how}")
            choice["message"]["content"] = verdict.text
            if verdict.whole:
                choice["finish_reason"] = "stop"
            if attempt:
                notes.append(f"response_format: asked {attempt + 1} times")
            return answer, notes
        problem = verdict.problem
        asked = _asking_again(form.asking(request, attempt + 1), text or "", problem, attempt)
    raise StructuredOutputError(
        f"The model was asked {attempt + 1} times, and no answer kept to 'response_format': {problem}."
    )


async def _ask_with_grammar(
    ask: Ask, asked: Mapping[str, Any], request: Mapping[str, Any], form: StructuredFormat
) -> dict[str, Any]:
    try:
        return await ask(asked)
    except FoundryError as error:
        if not is_grammar_failure(error) or not form.held_by_grammar:
            raise
    return await ask(form.asking_loosely(request))


def is_grammar_failure(error: FoundryError) -> bool:
    """Whether an engine could not make a grammar of the schema it was given."""
    return "grammar" in f"{error.message} {error.context.get('engine_body', '')}".lower()


def _asking_again(asked: Mapping[str, Any], text: str, problem: str, attempt: int) -> dict[str, Any]:
    shown = text.strip()
    shown = shown if len(shown) <= _SHOWN_CHARS else shown[:_SHOWN_CHARS] + " ..."
    wish = f"That is not a valid answer: {problem}. Answer again, with JSON that keeps to the schema and nothing else."
    messages = [*asked["messages"], {"role": "assistant", "content": shown or "{}"}, {"role": "user", "content": wish}]
    given = asked.get("temperature")
    temperature = min(1.0 if given is None else given, _RETRY_TEMPERATURES[min(attempt, 1)])
    seed = (asked.get("seed") or 0) + _SEED_STEP * (attempt + 1)
    return {**asked, "messages": messages, "temperature": temperature, "seed": seed}


def _instruction(schema: Mapping[str, Any]) -> dict[str, Any]:
    text = orjson.dumps(schema).decode()
    return {"role": "system", "content": f"Answer with one JSON document and nothing else. Its JSON Schema: {text}"}


class _Nothing:
    """The absence of a value, where None is a value."""


_NOTHING: Final = _Nothing()


def _coerced(value: Any, expected: Any) -> Any:
    """A quoted number, boolean or null without its quotes, where that is what is expected and nothing is lost."""
    types = {expected} if isinstance(expected, str) else set(expected)
    if not isinstance(value, str) or "string" in types:
        return _NOTHING
    try:
        inner = json.loads(value)
    except ValueError:
        return _NOTHING
    kind = _json_type(inner)
    if kind is None or orjson.dumps(inner).decode() != value:
        return _NOTHING
    return inner if kind in types or (kind == "integer" and "number" in types) else _NOTHING


def _json_type(value: Any) -> str | None:
    if value is None:
        return "null"
    return {"bool": "boolean", "int": "integer", "float": "number"}.get(type(value).__name__)


def _with(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of ``document`` with ``value`` at ``path``."""
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = _with(document[path[0]], path[1:], value)
    return copy
