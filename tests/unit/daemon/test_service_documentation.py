from __future__ import annotations

from pathlib import Path

import pytest

from fastapi_foundry.daemon.app import ROUTES

TEXT = (Path(__file__).parents[3] / "docs" / "foundry-service.md").read_text("utf-8")


@pytest.mark.parametrize("route", [f"{method} {path.partition('{')[0]}" for method, path, _ in ROUTES])
def test_every_route_is_documented(route: str):
    assert f"`{route}" in TEXT


@pytest.mark.parametrize("state", ["cached", "loading", "loaded", "in_use", "put_aside", "unusable"])
def test_every_state_is_documented(state: str):
    assert f"| `{state}` |" in TEXT
