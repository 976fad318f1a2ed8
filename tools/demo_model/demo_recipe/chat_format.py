"""The text that the model sees: conversations, tools and the markers between them.

The format is Qwen 2.5's with a shorter tool preamble, because a preamble of 150 tokens
would cost a model of this size more than it helps. :func:`render` and
:data:`CHAT_TEMPLATE` are two statements of one format: the first makes the training text,
the second is what the engine applies; ``build.py`` checks that both agree.
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
    "<tools>",
    "</tools>",
    "<tool_response>",
    "</tool_response>",
)
"""One token each, kept in the decoded text, as in Qwen's tokenizer."""

TOOL_PREAMBLE = "# Tools\nCall a function inside <tool_call></tool_call> when one fits.\n<tools>"

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class ToolCall:
    """One function call: its name and its arguments in the order they are written."""

    name: str
    arguments: dict[str, Any]

    def text(self) -> str:
        """The call as the model writes it, markers included."""
        body = json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)
        return f"{TOOL_CALL_START}\n{body}\n{TOOL_CALL_END}"


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


def _system_pieces(conversation: Conversation) -> tuple[list[Piece], int]:
    """The opening system turn and the number of messages that it used up."""
    first = conversation.messages[0]
    own = first.content if first.role == "system" else ""
    used = 1 if first.role == "system" else 0
    if not conversation.tools:
        if not used:
            return [], 0
        return [Piece(f"{TURN_START}system\n{own}{TURN_END}\n", learned=False)], used
    lines = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in conversation.tools)
    lead = f"{own}\n\n" if own else ""
    text = f"{TURN_START}system\n{lead}{TOOL_PREAMBLE}{lines}\n</tools>{TURN_END}\n"
    return [Piece(text, learned=False)], used


def _assistant_body(message: Message) -> str:
    calls = "\n".join(call.text() for call in message.calls)
    if message.content and calls:
        return f"{message.content}\n{calls}"
    return message.content or calls


def render(conversation: Conversation) -> list[Piece]:
    """The whole conversation as pieces, each assistant turn split at what is learned."""
    pieces, used = _system_pieces(conversation)
    messages = conversation.messages[used:]
    for index, message in enumerate(messages):
        if message.role == "assistant":
            pieces.append(Piece(f"{TURN_START}assistant\n", learned=False))
            pieces.append(Piece(_assistant_body(message) + TURN_END, learned=True))
            pieces.append(Piece("\n", learned=False))
        elif message.role == "tool":
            before = messages[index - 1].role == "tool" if index else False
            after = index + 1 < len(messages) and messages[index + 1].role == "tool"
            head = "" if before else f"{TURN_START}user"
            tail = "" if after else f"{TURN_END}\n"
            body = f"\n<tool_response>\n{message.content}\n</tool_response>"
            pieces.append(Piece(head + body + tail, learned=False))
        else:
            text = f"{TURN_START}{message.role}\n{message.content}{TURN_END}\n"
            pieces.append(Piece(text, learned=False))
    return pieces


CHAT_TEMPLATE = (
    "{%- if tools %}"
    "{{- '<|im_start|>system\\n' }}"
    "{%- if messages[0]['role'] == 'system' %}"
    "{{- messages[0]['content'] + '\\n\\n' }}"
    "{%- endif %}"
    "{{- '# Tools\\nCall a function inside <tool_call></tool_call> when one fits.\\n<tools>' }}"
    "{%- for tool in tools %}"
    "{{- '\\n' }}{{- tool | tojson }}"
    "{%- endfor %}"
    "{{- '\\n</tools><|im_end|>\\n' }}"
    "{%- elif messages[0]['role'] == 'system' %}"
    "{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- elif message.role == 'assistant' %}"
    "{{- '<|im_start|>assistant' }}"
    "{%- if message.content %}{{- '\\n' + message.content }}{%- endif %}"
    "{%- if message.tool_calls %}"
    "{%- for tool_call in message.tool_calls %}"
    "{%- if tool_call.function is defined %}"
    "{%- set tool_call = tool_call.function %}"
    "{%- endif %}"
    '{{- \'\\n<tool_call>\\n{"name": "\' + tool_call.name + \'", "arguments": \' }}'
    "{%- if tool_call.arguments is string %}{{- tool_call.arguments }}"
    "{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}"
    "{{- '}\\n</tool_call>' }}"
    "{%- endfor %}"
    "{%- endif %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}"
    "{{- '<|im_start|>user' }}"
    "{%- endif %}"
    "{{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}"
    "{{- '<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
"""The same format for the engine (Jinja, within what its template engine knows)."""
