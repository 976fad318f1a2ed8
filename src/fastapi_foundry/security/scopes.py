"""What a key may be allowed to do."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Scope"]


class Scope(StrEnum):
    """One right; ``ADMIN`` holds every other one."""

    CHAT = "chat"  # generate text, see the models
    EMBEDDINGS = "embeddings"  # turn text into vectors, see the models
    RAG_READ = "rag:read"  # search documents
    RAG_WRITE = "rag:write"  # add and remove documents
    MODELS_MANAGE = "models:manage"  # load, unload, download models
    ADMIN = "admin"  # everything, keys, usage and audit log of all included
