"""The one table of who may do what: every method and path of the server, and the right that it takes.

What is not in here takes the right ``admin``; a test compares the table with the routes of the application.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from fastapi_foundry.security.scopes import Scope

__all__ = ["ANYBODY", "RULES", "UNDECLARED", "Rule", "rule_for"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may use a route.

    Attributes:
        scopes: One of these is needed; empty means that being known is enough.
        public: Nobody is asked who he is.
        limited: Requests and tokens count for the limits of the key and of the server.
    """

    scopes: frozenset[Scope] = frozenset()
    public: bool = False
    limited: bool = False


def _needs(*scopes: Scope, limited: bool = False) -> Rule:
    return Rule(frozenset(scopes), limited=limited)


ANYBODY: Final = Rule(public=True)
UNDECLARED: Final = _needs(Scope.ADMIN)
_KNOWN: Final = Rule()
_CHAT: Final = _needs(Scope.CHAT, limited=True)
_EMBEDDINGS: Final = _needs(Scope.EMBEDDINGS, limited=True)
_SEE_MODELS: Final = _needs(Scope.CHAT, Scope.EMBEDDINGS, Scope.MODELS_MANAGE, Scope.RAG_READ, Scope.RAG_WRITE)
_MANAGE_MODELS: Final = _needs(Scope.MODELS_MANAGE)
_ADMIN: Final = _needs(Scope.ADMIN)
# What the lines of a batch take is for the service to say; each counts for the limits when it is run.
_BATCH: Final = _needs(Scope.CHAT, Scope.EMBEDDINGS)

# "METHOD template" as the routes are declared. A path that matches none of the exact ones is tried against those with
# parameters, in this order.
RULES: Final[dict[str, Rule]] = {
    # Pages and what they are made of hold no data of anybody; the data comes from the API.
    "GET /": ANYBODY,
    "GET /chat.html": ANYBODY,
    "GET /static/{path:path}": ANYBODY,
    "GET /docs": ANYBODY,
    "GET /openapi.json": _KNOWN,
    "GET /api/v1/health": ANYBODY,  # tells strangers no more than whether it is well
    "GET /api/v1/session": ANYBODY,  # whether a browser is signed in
    "POST /api/v1/session": ANYBODY,  # signing in with a key or a one-time link
    "DELETE /api/v1/session": _KNOWN,
    "GET /api/v1/version": _KNOWN,
    "GET /api/v1/foundry/status": _SEE_MODELS,
    "GET /v1/models": _SEE_MODELS,
    "GET /api/v1/models": _SEE_MODELS,
    "GET /api/v1/models/catalog": _SEE_MODELS,
    "POST /v1/chat/completions": _CHAT,
    "POST /v1/completions": _CHAT,
    "POST /v1/embeddings": _EMBEDDINGS,
    "GET /v1/files": _BATCH,
    "POST /v1/files": _BATCH,
    "GET /v1/batches": _BATCH,
    "POST /v1/batches": _BATCH,
    "POST /api/v1/tokens/count": _CHAT,
    "POST /api/v1/generate": _CHAT,
    "POST /api/v1/generate/batch": _CHAT,
    "GET /api/v1/keys": _ADMIN,
    "POST /api/v1/keys": _ADMIN,
    "GET /api/v1/usage": _KNOWN,  # one's own; that of others is admin's, which the route sees to
    "GET /api/v1/audit": _ADMIN,
    "POST /api/v1/session/links": _ADMIN,
    "GET /v1/models/{model_id:path}": _SEE_MODELS,
    "GET /v1/files/{file_id}": _BATCH,
    "GET /v1/files/{file_id}/content": _BATCH,
    "DELETE /v1/files/{file_id}": _BATCH,
    "GET /v1/batches/{batch_id}": _BATCH,
    "POST /v1/batches/{batch_id}/cancel": _BATCH,
    "POST /api/v1/models/{model_id:path}/load": _MANAGE_MODELS,
    "POST /api/v1/models/{model_id:path}/unload": _MANAGE_MODELS,
    "POST /api/v1/models/{model_id:path}/download": _MANAGE_MODELS,
    "POST /api/v1/models/{model_id:path}/download/cancel": _MANAGE_MODELS,
    "GET /api/v1/keys/{key_id}": _ADMIN,
    "POST /api/v1/keys/{key_id}/rotate": _ADMIN,
    "POST /api/v1/keys/{key_id}/revoke": _ADMIN,
}


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\{", "{").replace(r"\}", "}")
    text = re.sub(r"\{\w+:path\}", ".*", text)
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", text))


_EXACT: Final = {key: rule for key, rule in RULES.items() if "{" not in key}
_PATTERNS: Final = [(_pattern(key), rule) for key, rule in RULES.items() if "{" in key]


def rule_for(method: str, path: str) -> Rule:
    """Who may ask for ``path`` with ``method``."""
    key = f"{'GET' if method == 'HEAD' else method} {path}"
    exact = _EXACT.get(key)
    if exact is not None:
        return exact
    return next((rule for pattern, rule in _PATTERNS if pattern.fullmatch(key)), UNDECLARED)
