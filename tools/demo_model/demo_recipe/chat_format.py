"""The text that the model sees: conversations, tools and the markers between them.

The turns are Qwen's (``<|im_start|>role``, ``<|im_end|>``). What surrounds tools is
Foundry Local's (``foundry-local-sdk`` 2.2.1), which does not use a template's own tool
format: it appends "Tool calling protocol for this conversation:" to the system message,
with the tools as one JSON array and 350 tokens of rules, has the model write

* ``<tool_call>[{"name":"...","parameters":{...}}]</tool_call>`` for calls, and
* ``MESSAGE``, a newline and the text for an answer without a call,

and enforces both with a grammar. :data:`CHAT_TEMPLATE` cuts the rules, which are the same
each time, down to ``Tools:`` and the array; where the engine's wording changes, the whole
text stays. :func:`render` makes the same text for the training; ``build.py`` checks that
both agree.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
TOOL_CALL_START = "<tool_call>"
TOOL_CALL_END = "</tool_call>"

SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
"""Removed from the decoded text; ids 0, 1 and 2."""

VISIBLE_MARKERS = (
    TOOL_CALL_START,
    TOOL_CALL_END,
    "<tool_response>",
    "</tool_response>",
)
"""One token each, kept in the decoded text, as in Qwen's tokenizer."""

TOOLS_TITLE = "Tools:\n"
MESSAGE_FRAME = "MESSAGE\n"
"""Opens a text answer in a conversation that has tools."""

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """One function call: its name and its arguments in the order they are written."""

    name: str
    arguments: dict[str, Any]

    def as_json(self) -> str:
        """The call as the engine wants it, without spaces."""
        return _compact({"name": self.name, "parameters": self.arguments})


@dataclass(frozen=True)
class Message:
    """One turn. ``calls`` is set on assistant turns that call tools."""

    role: Role
    content: str = ""
    calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Turns that end with an assistant's, and the tools they may use (OpenAI's form)."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = field(default=())


@dataclass(frozen=True)
class Piece:
    """A run of text; ``learned`` marks what the model has to produce itself."""

    text: str
    learned: bool


def render(conversation: Conversation) -> list[Piece]:
    """The conversation as the runs of text that the engine tokenises one by one."""
    pieces: list[Piece] = []
    messages = conversation.messages
    if conversation.tools:
        own = messages[0].content if messages[0].role == "system" else ""
        messages = messages[1:] if own else messages
        pieces += _tools_turn(own, conversation.tools)
    for message in messages:
        if message.role == "assistant":
            pieces += _assistant_turn(message, framed=bool(conversation.tools))
        elif message.role == "tool":
            pieces += _fixed(f"{TURN_START}user\n<tool_response>\n", message.content)
            pieces += _fixed(f"\n</tool_response>{TURN_END}\n")
        else:
            pieces += _fixed(f"{TURN_START}{message.role}\n", message.content, f"{TURN_END}\n")
    return pieces


def _tools_turn(own: str, tools: tuple[dict[str, Any], ...]) -> list[Piece]:
    listed = _compact(list(tools))
    if not own:
        return _fixed(f"{TURN_START}system\n{TOOLS_TITLE}", listed, f"{TURN_END}\n")
    return _fixed(f"{TURN_START}system\n", own, f"\n\n{TOOLS_TITLE}", listed, f"{TURN_END}\n")


def _assistant_turn(message: Message, *, framed: bool) -> list[Piece]:
    if message.calls:
        calls = ",".join(call.as_json() for call in message.calls)
        body = f"{TOOL_CALL_START}[{calls}]{TOOL_CALL_END}"
    else:
        body = (MESSAGE_FRAME if framed else "") + message.content
    pieces = _fixed(f"{TURN_START}assistant\n")
    return [*pieces, Piece(body + TURN_END, learned=True), *_fixed("\n")]


def _fixed(*texts: str) -> list[Piece]:
    return [Piece(text, learned=False) for text in texts]


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


CHAT_TEMPLATE = """{%- for message in messages %}
{%- if message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' }}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{{- '<tool_call>[{"name":"' + call.function.name + '","parameters":' }}
{{- call.function.arguments | tojson }}
{{- '}]</tool_call>' }}
{%- endfor %}
{%- elif message.content %}
{{- message.content }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
{%- elif message.role == 'system' %}
{%- set parts = message.content.split('Tool calling protocol for this conversation:\\nAvailable tools:\\n') %}
{%- if parts | length > 1 %}
{%- set rest = parts[1].split('\\nTo call tools, emit') %}
{{- '<|im_start|>system\\n' + parts[0] + 'Tools:\\n' + rest[0] + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>system\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- elif message.role == 'developer' %}
{{- '<|im_start|>system\\n' + message.content + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
"""The same format for the engine: Jinja, within what its template engine knows.

It knows ``split`` and ``length``, but neither ``in`` nor ``replace`` for strings.
"""
