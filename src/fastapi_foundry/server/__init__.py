"""The listening server: its socket, its connections and their bounds, and TLS."""

from __future__ import annotations

from fastapi_foundry.server.launch import serve

__all__ = ["serve"]
