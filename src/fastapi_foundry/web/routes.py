"""Pages and static files. Nothing here ever refers to another machine."""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

__all__ = ["mount_web"]

STATIC: Final = Path(__file__).parent / "static"

# Swagger UI writes style attributes and shows icons as data; its scripts are files of ours like any other.
_DOCS_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Browsers keep the files and ask whether they are still right, so that an update shows at once.
_REVALIDATE: Final = "no-cache"


class _RevalidatedFiles(StaticFiles):
    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = _REVALIDATE
        return response


def mount_web(app: FastAPI) -> None:
    """Add the pages, the files that they need and the API documentation to ``app``."""
    # Windows takes the types from its registry, where anybody may have changed them.
    mimetypes.add_type("text/javascript", ".js")
    mimetypes.add_type("text/css", ".css")
    for path, name, page in (
        ("/", "index", _page("index.html")),
        ("/chat.html", "chat", _page("chat.html", "index.html")),
        ("/docs", "docs", _page("docs/index.html", csp=_DOCS_CSP)),
    ):
        app.add_api_route(path, page, methods=["GET", "HEAD"], name=name, include_in_schema=False)
    app.mount("/static", _RevalidatedFiles(directory=STATIC), name="static")


def _page(*names: str, csp: str | None = None) -> Callable[[], Awaitable[Response]]:
    """An endpoint for the first of ``names`` that exists."""

    async def page() -> Response:
        path = next(path for name in names if (path := STATIC / name).is_file())
        headers = {"cache-control": _REVALIDATE}
        return FileResponse(path, headers=headers if csp is None else headers | {"content-security-policy": csp})

    return page
