"""One check for each feature of an engine's profile: ask as a client would, judge the answer by OpenAI's contract.

A check returns when the contract is kept and raises ``BrokenContractError`` when it is not. What may be refused
instead, and for which parameter, is said beside each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from fastapi_foundry.engines.repair.conformance_client import HELLO, BrokenContractError, Client, Seen, require
from fastapi_foundry.errors import InvalidInputError

__all__ = ["CHECKS", "Check"]

_TOOL: Final = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_STRICT_TOOL: Final = {**_TOOL, "function": {**_TOOL["function"], "strict": True}}  # type: ignore[dict-item]
_CALL: Final[Mapping[str, Any]] = {
    "messages": [{"role": "user", "content": "What is the weather in Lisbon?"}],
    "tool_choice": "required",
    "max_tokens": 200,
}
# One white pixel.
_IMAGE: Final = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mP8/x8AAwMCAO+ip1sAAAAASUVORK5CYII="
)
_REPETITION: Final = "echo: hello hello hello hello hello hello hello hello hello hello hello hello"
_MANY_REPETITIONS: Final = 8
_BEYOND_ANY_CONTEXT: Final = 9_000_000
_LEAVE_AFTER_CHUNKS: Final = 4
_LEAST_CREATED: Final = 1_600_000_000
_FEW_TOKENS: Final = 2


@dataclass(frozen=True, slots=True)
class Check:
    """How a feature is checked.

    Attributes:
        run: Asks and judges; may return what could not be shown, in words.
        may_refuse: Parameters that a 400 may name in place of an answer; the beginning counts.
        may_be_unmet: Whether a 422 may take the place of an answer.
    """

    run: Callable[[Client], Awaitable[str | None]]
    may_refuse: tuple[str, ...] = ()
    may_be_unmet: bool = False


async def _json_schema(client: Client) -> None:
    await _digit(client, {"type": "integer", "minimum": 1, "maximum": 9})


async def _grammar(client: Client) -> None:
    # ``not`` is no keyword of the grammars in use: the schema has to be kept to all the same.
    await _digit(client, {"type": "integer", "minimum": 1, "maximum": 9, "not": {"const": 5}}, never=5)


async def _digit(client: Client, digit: Mapping[str, Any], never: int = 0) -> None:
    schema = {"type": "object", "properties": {"zq": digit}, "required": ["zq"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "digit", "schema": schema, "strict": True}}
    for seen in await client.both(response_format=form, max_tokens=100):
        value = _object_in(seen)
        right = list(value) == ["zq"] and type(value["zq"]) is int and value["zq"] in range(1, 10)
        require(right and value["zq"] != never, f"{seen.form}: {value} breaks the schema")


async def _json_object(client: Client) -> None:
    messages = [{"role": "user", "content": "Answer with a small JSON object that holds your name."}]
    for seen in await client.both(messages=messages, response_format={"type": "json_object"}, max_tokens=200):
        _object_in(seen)


async def _n(client: Client) -> None:
    for seen in await client.both(n=2, temperature=1.0):
        require(set(seen.choices) == {0, 1}, f"{seen.form}: n of 2 gives the choices {sorted(seen.choices)}")
        require(all(choice.text for choice in seen.choices.values()), f"{seen.form}: a choice is empty")


async def _logprobs(client: Client) -> None:
    for seen in await client.both(logprobs=True, top_logprobs=2):
        content = (seen.first.logprobs or {}).get("content")
        require(content, f"{seen.form}: answered without log probabilities")


async def _logit_bias(client: Client) -> None:
    plain = (await client.plain()).text
    # A strong push of one token shows in the text of any engine that heeds it.
    for seen in await client.both(logit_bias={"100": 100}):
        require(seen.text != plain, f"{seen.form}: answered as if there was no bias")


async def _penalties(client: Client) -> str | None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": _REPETITION}], "max_tokens": 40}
    plain = (await client.reference(**asked)).text
    refused, changed = [], False
    for key in ("frequency_penalty", "presence_penalty"):
        try:
            changed |= any(seen.text != plain for seen in await client.both(**asked, **{key: 2.0}))
        except InvalidInputError as error:
            require(error.param == key, f"'{key}' is refused as '{error.param}'")
            refused.append(key)
    if refused:
        raise InvalidInputError("Penalties are refused.", param=", ".join(refused))
    # The penalty on a token grows with each repetition, so that no text which repeats one so often can stay the same.
    most = max(Counter(plain.split()).values(), default=0)
    require(changed or most < _MANY_REPETITIONS, "answered as if there was no penalty")
    return None if changed else "taken; this model does not repeat itself, so no effect shows"


async def _strict_tools(client: Client) -> None:
    _require_call(await client.whole(tools=[_STRICT_TOOL], **_CALL))


async def _tools(client: Client) -> None:
    _require_call(await client.whole(tools=[_TOOL], **_CALL))


async def _tool_deltas(client: Client) -> None:
    seen = await client.streamed(tools=[_TOOL], **_CALL)
    _require_call(seen)
    started: set[int] = set()
    for frame in seen.frames:
        for choice in frame.get("choices") or ():
            for call in (choice.get("delta") or {}).get("tool_calls") or ():
                require(type(call.get("index")) is int, "a delta of a tool call has no index")
                first = call["index"] not in started
                require(not first or (call.get("id") and call.get("type")), "a tool call starts without id or type")
                started.add(call["index"])


async def _stop(client: Client) -> None:
    plain = (await client.plain()).text
    words = plain.split()
    require(words, "the plain answer is empty")
    word = words[min(1, len(words) - 1)]
    before = plain[: plain.index(word)].strip()
    for seen in await client.both(stop=[word]):
        require(word not in seen.text, f"{seen.form}: the text holds the stop sequence")
        require(not before or seen.text.strip(), f"{seen.form}: nothing is left of the text before the stop sequence")
        require(seen.first.reason == "stop", f"{seen.form}: finish_reason is {seen.first.reason!r}")


async def _usage(client: Client) -> None:
    _require_usage((await client.whole()).frames[0].get("usage"), "whole")


async def _stream_usage(client: Client) -> None:
    *chunks, last = (await client.streamed(stream_options={"include_usage": True})).frames
    require(last.get("choices") == [], "the last frame is not the usage frame")
    _require_usage(last.get("usage"), "stream")
    require(not any(chunk.get("usage") for chunk in chunks), "usage comes before the last frame")
    require(all(chunk.get("choices") for chunk in (await client.streamed()).frames), "a usage frame comes unasked")


async def _finish_reason(client: Client) -> None:
    for seen in await client.both(max_tokens=_FEW_TOKENS):
        require(seen.first.reason == "length", f"{seen.form}: at the limit finish_reason is {seen.first.reason!r}")


async def _envelope(client: Client) -> None:
    (answer,) = (await client.whole()).frames
    _require_frame(answer, "chat.completion")
    (choice,) = answer["choices"]
    message = choice["message"]
    require(message.get("role") == "assistant", "whole: the role is missing")
    require("refusal" in message, "whole: refusal is missing")
    require("logprobs" in choice, "whole: logprobs is missing")
    chunks = (await client.streamed()).frames
    for chunk in chunks:
        _require_frame(chunk, "chat.completion.chunk")
    require(len({chunk["id"] for chunk in chunks}) == 1, "stream: the id changes")
    require(chunks[0]["choices"][0]["delta"].get("role") == "assistant", "stream: the first delta has no role")


async def _content_parts(client: Client) -> None:
    plain = await client.plain()
    parts = [{"type": "text", "text": HELLO[:9]}, {"type": "text", "text": HELLO[9:]}]
    whole, streamed = await client.both(messages=[{"role": "user", "content": parts}])
    for seen in (whole, streamed):
        require(seen.text == plain.text, f"{seen.form}: another text than for the same as one text")
    require(whole.prompt_tokens == plain.prompt_tokens, "whole: another prompt than for the same as one text")


async def _images(client: Client) -> None:
    plain = await client.plain()
    parts = [{"type": "text", "text": HELLO}, {"type": "image_url", "image_url": {"url": _IMAGE}}]
    for seen in await client.both(messages=[{"role": "user", "content": parts}]):
        require(seen.text != plain.text, f"{seen.form}: answered as if there was no image")


async def _developer_role(client: Client) -> str | None:
    plain, said = await client.plain(), {"role": "user", "content": HELLO}
    system = await client.reference(messages=[{"role": "system", "content": "Answer in one word."}, said])
    whole, streamed = await client.both(messages=[{"role": "developer", "content": "Answer in one word."}, said])
    for seen in (whole, streamed):
        require(seen.text == system.text, f"{seen.form}: another text than for the role system")
    require(whole.prompt_tokens == system.prompt_tokens > plain.prompt_tokens, "whole: not in the prompt as system is")
    same = system.text == plain.text
    return "in the prompt; this model does not heed the system, so no effect shows" if same else None


async def _max_tokens_overflow(client: Client) -> None:
    # A stream can be left early; a whole answer of that length could take minutes.
    seen = await client.streamed(max_tokens=_BEYOND_ANY_CONTEXT, at_most=_LEAVE_AFTER_CHUNKS)
    require(seen.text, "stream: no text")


async def _max_completion_tokens(client: Client) -> None:
    whole, streamed = await client.both(max_completion_tokens=_FEW_TOKENS, max_tokens=None)
    for seen in (whole, streamed):
        require(seen.first.reason == "length", f"{seen.form}: at the limit finish_reason is {seen.first.reason!r}")
    used = (whole.frames[0].get("usage") or {}).get("completion_tokens")
    require(type(used) is int and used <= _FEW_TOKENS, f"whole: {_FEW_TOKENS} tokens are allowed and {used} used")


async def _completions(client: Client) -> None:
    body = {"model": client.model, "prompt": HELLO, "max_tokens": 8, "temperature": 0}
    answer = await client.post("/v1/completions", body)
    _require_frame(answer, "text_completion")
    require(answer["choices"][0].get("text"), "whole: no text")
    _require_usage(answer.get("usage"), "whole")
    chunks = await client.frames("/v1/completions", body)
    require("".join(choice.get("text") or "" for chunk in chunks for choice in chunk["choices"]), "stream: no text")


def _object_in(seen: Seen) -> dict[str, Any]:
    try:
        value = orjson.loads(seen.text)
    except orjson.JSONDecodeError:
        raise BrokenContractError(f"{seen.form}: the text is not JSON") from None
    require(isinstance(value, dict), f"{seen.form}: the text is no JSON object")
    return dict(value)


def _require_call(seen: Seen) -> None:
    require(seen.first.calls, f"{seen.form}: no tool call")
    for call in seen.first.calls.values():
        require(call.get("id") and call.get("type") == "function", f"{seen.form}: a call without id or type")
        require(call.get("name") == "get_weather", f"{seen.form}: a call of '{call.get('name')}'")
        try:
            arguments = orjson.loads(call["arguments"])
        except orjson.JSONDecodeError:
            raise BrokenContractError(f"{seen.form}: the arguments are not JSON") from None
        fits = isinstance(arguments, dict) and isinstance(arguments.get("city"), str)
        require(fits, f"{seen.form}: the arguments do not fit the tool")
    require(seen.first.reason == "tool_calls", f"{seen.form}: with a call finish_reason is {seen.first.reason!r}")


def _require_usage(usage: Any, form: str) -> None:
    keys = ("prompt_tokens", "completion_tokens", "total_tokens")
    counts: list[Any] = [usage.get(key) for key in keys] if isinstance(usage, dict) else []
    require(counts and all(type(count) is int and count > 0 for count in counts), f"{form}: usage is missing")
    require(counts[0] + counts[1] == counts[2], f"{form}: usage does not add up")


def _require_frame(document: Mapping[str, Any], kind: str) -> None:
    created = document.get("created")
    require(document.get("object") == kind, f"object is {document.get('object')!r} and not {kind}")
    require(document.get("id") and document.get("model"), f"{kind}: id or model is missing")
    require(type(created) is int and created > _LEAST_CREATED, f"{kind}: created is {created!r}")


CHECKS: Final[Mapping[str, Check]] = {
    "json_schema": Check(_json_schema, may_be_unmet=True),
    "grammar": Check(_grammar, may_be_unmet=True),
    "json_object": Check(_json_object, may_be_unmet=True),
    "n": Check(_n),
    "logprobs": Check(_logprobs, ("logprobs",)),
    "logit_bias": Check(_logit_bias, ("logit_bias",)),
    "penalties": Check(_penalties, ("frequency_penalty", "presence_penalty")),
    "strict_tools": Check(_strict_tools, ("tools",)),
    "tools": Check(_tools, ("tools",)),
    "tool_deltas": Check(_tool_deltas, ("tools",)),
    "stop": Check(_stop),
    "usage": Check(_usage),
    "stream_usage": Check(_stream_usage),
    "finish_reason": Check(_finish_reason),
    "envelope": Check(_envelope),
    "content_parts": Check(_content_parts),
    "images": Check(_images, ("messages.0.content.1",)),
    "developer_role": Check(_developer_role),
    "max_tokens_overflow": Check(_max_tokens_overflow),
    "max_completion_tokens": Check(_max_completion_tokens),
    "completions": Check(_completions),
}
"""By the name of the profile's field, in its order."""
