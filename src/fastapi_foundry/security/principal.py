"""Who asks, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fastapi_foundry.security.key_limits import UNLIMITED, KeyLimits
from fastapi_foundry.security.scopes import Scope

__all__ = ["LOCAL", "Principal"]

_EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whom the server knows.

    Attributes:
        key_id: Of the key that was presented; None for somebody on this machine who needs none.
        name: The key's name, for people.
        scopes: Rights.
        allowed_models: Names, or beginnings of names that end in ``*``; None allows all. The other two likewise.
        session: Whether a browser's session stands for the key, so that requests may come from a page.
        limits: What it may use.
    """

    key_id: str | None
    name: str
    scopes: frozenset[Scope]
    allowed_models: tuple[str, ...] | None = None
    allowed_tools: tuple[str, ...] | None = None
    allowed_stores: tuple[str, ...] | None = None
    session: bool = False
    limits: KeyLimits = UNLIMITED

    def may(self, scope: Scope) -> bool:
        """Whether it has the right."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_any(self, scopes: frozenset[Scope]) -> bool:
        """Whether it has one of the rights; none wanted means that being known is enough."""
        return not scopes or Scope.ADMIN in self.scopes or not self.scopes.isdisjoint(scopes)

    def allows_model(self, *names: str) -> bool:
        """Whether one of a model's names is allowed."""
        return _allows(self.allowed_models, names)

    def allows_tool(self, name: str) -> bool:
        """Whether an MCP tool of that name is allowed."""
        return _allows(self.allowed_tools, (name,))

    def allows_store(self, name: str) -> bool:
        """Whether a store of documents of that name is allowed."""
        return _allows(self.allowed_stores, (name,))


LOCAL: Final = Principal(key_id=None, name="this machine", scopes=frozenset({Scope.ADMIN}))
"""Whoever asks on loopback where no key is demanded."""


def _allows(patterns: tuple[str, ...] | None, names: tuple[str, ...]) -> bool:
    if patterns is None:
        return True
    return any(_matches(pattern, name) for pattern in patterns for name in names)


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith(_EVERYTHING) else name == pattern
