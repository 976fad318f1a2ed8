"""Opt-in: a conversation that has grown too long loses its oldest turns until it fits its model's context.

What is never left out: messages of the system and the developer, the last message of the user, and what follows it but
for whole exchanges with tools. A tool's result goes with its call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fastapi_foundry.engines.base import Call
from fastapi_foundry.errors import ContextLengthExceededError, InvalidInputError
from fastapi_foundry.services.context import ContextService, PromptSize

__all__ = ["TRUNCATION_HEADER", "Truncated", "Truncation", "droppable", "is_asked", "reserve_for", "without"]

TRUNCATION_HEADER: Final = "x-foundry-truncation"
"""With the value ``auto`` it asks for what ``"truncation": "auto"`` in the body asks for."""

_AUTO: Final = "auto"
_OFF: Final = "disabled"
_INSTRUCTIONS: Final = frozenset({"system", "developer"})
# For the answer, where the request names no limit.
_RESERVE_TOKENS: Final = 2048
_RESERVE_SHARE: Final = 4
Messages = Sequence[Mapping[str, Any]]
Unit = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Truncated:
    """What was left out of a request.

    Attributes:
        messages: How many.
        tokens: What they took, by the engine's count or by the estimate that stood for it.
    """

    messages: int
    tokens: int

    @property
    def header(self) -> str:
        """The value of ``x-foundry-truncated``."""
        return f"messages={self.messages}; tokens={self.tokens}"


class Truncation:
    """Fits requests that ask for it into the context of their model.

    Args:
        context: Measures them.
    """

    def __init__(self, context: ContextService) -> None:
        self._context = context

    async def fitted(self, call: Call) -> tuple[Call, Truncated | None]:
        """The chat request ``call`` as it fits, and what was left out of it; ``truncation`` is taken out of its body.

        Where no length of the context is known nothing is left out: the engine then has the last word.

        Raises:
            ContextLengthExceededError: What may not be left out is too long.
            FoundryError: The request is wrong, or the engine cannot be asked.
        """
        request = {key: value for key, value in call.parsed.items() if key != "truncation"}
        messages = request["messages"]
        sizes: dict[int, PromptSize] = {}
        units = droppable(messages)

        async def size(dropped: int) -> PromptSize:
            if dropped not in sizes:
                shorter = call.with_parsed({**request, "messages": without(messages, units[:dropped])})
                sizes[dropped] = await self._context.measure(shorter)
            return sizes[dropped]

        whole = await size(0)
        if whole.context_length is None:
            return call.with_parsed(request), None
        budget = whole.context_length - reserve_for(request, whole.context_length)
        number = await least_that_fits(len(units), size, budget)
        left = await size(number)
        if left.exact and left.prompt_tokens >= whole.context_length:
            raise ContextLengthExceededError(
                prompt_tokens=left.prompt_tokens, context_length=whole.context_length, model=whole.model
            )
        kept = without(messages, units[:number])
        cut = Truncated(len(messages) - len(kept), whole.prompt_tokens - left.prompt_tokens) if number else None
        return call.with_parsed({**request, "messages": kept}), cut


def is_asked(body: Mapping[str, Any], header: str | None = None) -> bool:
    """Whether a request asks to be shortened, in its body or by its header; the body wins.

    Raises:
        InvalidInputError: It asks for something else.
    """
    wanted, param = body.get("truncation"), "truncation"
    if wanted is None and header is not None:
        wanted, param = header.strip().lower(), TRUNCATION_HEADER
    if wanted in {None, _OFF}:
        return False
    if wanted != _AUTO:
        raise InvalidInputError(f"'{param}' must be 'auto' or 'disabled'.", param=param)
    return True


def reserve_for(request: Mapping[str, Any], context_length: int) -> int:
    """Tokens that are kept free for the answer: what it may have, but no more than half of the context."""
    asked = request.get("max_completion_tokens") or request.get("max_tokens")
    if isinstance(asked, int):
        return min(asked, context_length // 2)
    return min(_RESERVE_TOKENS, context_length // _RESERVE_SHARE)


def droppable(messages: Messages) -> list[Unit]:
    """The places of what may be left out, in the order in which it goes: earlier turns, then exchanges with tools.

    A turn is a message of the user with all that follows until his next one. The latest exchange with tools stays:
    the model is about to answer it.
    """
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    last_user = users[-1] if users else -1
    turns = _groups(messages, range(max(0, last_user)), opens=lambda message: message.get("role") == "user")
    exchanges = _groups(
        messages, range(last_user + 1, len(messages)), opens=lambda message: message.get("role") != "tool"
    )
    return turns + exchanges[:-1]


def without(messages: Messages, units: Sequence[Unit]) -> list[Mapping[str, Any]]:
    """The messages that are not in ``units``."""
    dropped = {index for unit in units for index in unit}
    return [message for index, message in enumerate(messages) if index not in dropped]


async def least_that_fits(most: int, size: Callable[[int], Awaitable[PromptSize]], budget: int) -> int:
    """The smallest number of units, up to ``most``, without which the prompt has at most ``budget`` tokens.

    ``most`` where none is enough. Takes about as many counts as ``most`` has binary digits.
    """
    if (await size(0)).prompt_tokens <= budget:
        return 0
    too_few, enough = 0, most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if (await size(middle)).prompt_tokens <= budget:
            enough = middle
        else:
            too_few = middle
    return enough


def _groups(messages: Messages, places: range, *, opens: Callable[[Mapping[str, Any]], bool]) -> list[Unit]:
    """The messages at ``places`` in groups, each begun by one that ``opens``; instructions belong to none."""
    groups: list[list[int]] = []
    for index in places:
        if messages[index].get("role") in _INSTRUCTIONS:
            continue
        if not groups or opens(messages[index]):
            groups.append([])
        groups[-1].append(index)
    return [tuple(group) for group in groups]
