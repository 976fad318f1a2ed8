"""Which models somebody may use: a key that is for one of a model's names is for the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.errors import FoundryError, ModelNotAllowedError, ModelNotFoundError
from fastapi_foundry.security.principal import Principal

__all__ = ["allows_card", "allows_name", "require_allowed", "unseen"]


def allows_card(principal: Principal, card: ModelCard) -> bool:
    """Whether a listed model is allowed, by any name that it goes by."""
    return principal.allows_model(*_names(card.id, card.names, card.extra))


def allows_name(principal: Principal, name: str, cards: Iterable[ModelCard]) -> bool:
    """Whether the model that goes by ``name`` among ``cards``, or the name itself, is allowed."""
    if principal.allowed_models is None or principal.allows_model(name):
        return True
    return any(name in _names(card.id, card.names, card.extra) and allows_card(principal, card) for card in cards)


def require_allowed(principal: Principal, name: str, cards: Iterable[ModelCard]) -> None:
    """Let somebody pass who may use that model.

    Raises:
        ModelNotAllowedError: When he may not, whether there is such a model or not.
    """
    if not allows_name(principal, name, cards):
        raise ModelNotAllowedError(principal.name, name)


def unseen(fact: ModelNotFoundError, principal: Principal, name: str) -> FoundryError:
    """What somebody is told who asked for a model that there is not.

    Nobody learns which models there are that he may not see: not by a message that names some, nor by its absence.
    """
    if principal.allowed_models is None:
        return fact
    return ModelNotFoundError(name) if principal.allows_model(name) else ModelNotAllowedError(principal.name, name)


def _names(model_id: str, names: Iterable[str], extra: Mapping[str, Any]) -> tuple[str, ...]:
    alias = extra.get("alias")
    return (model_id, *names, alias) if isinstance(alias, str) else (model_id, *names)
