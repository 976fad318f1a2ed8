"""The web interface and the offline API documentation, served from files of this package alone."""

from __future__ import annotations

from fastapi_foundry.web.routes import mount_web

__all__ = ["mount_web"]
