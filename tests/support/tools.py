"""Programs beside Python that some tests use."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["require_tool"]

_NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome")}


def require_tool(name: str) -> str:
    """The program's path; without it the test is skipped, or fails where ``CI=true`` promises everything."""
    for program in _NAMES.get(name, (name,)):
        path = shutil.which(program)
        if path is not None:
            return path
    reason = f"{name} is not installed"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(reason)
    pytest.skip(reason)
