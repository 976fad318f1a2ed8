"""Whose things are whose: what a key made is its own, and an administrator sees everything."""

from __future__ import annotations

from fastapi_foundry.security.principal import Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.usage import LOCAL_KEY

__all__ = ["owner_of", "sees", "visible_owner"]


def owner_of(principal: Principal) -> str:
    """What stands for somebody in what he makes: his key's id, or ``local`` where none was needed."""
    return principal.key_id or LOCAL_KEY


def sees(principal: Principal, owner: str) -> bool:
    """Whether somebody may know of what ``owner`` made."""
    return principal.may(Scope.ADMIN) or owner_of(principal) == owner


def visible_owner(principal: Principal) -> str | None:
    """Whose things somebody is shown; None for those of all."""
    return None if principal.may(Scope.ADMIN) else owner_of(principal)
