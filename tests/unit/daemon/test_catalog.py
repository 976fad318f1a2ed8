from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.daemon.catalog import CatalogWorkers, OnlineCatalog
from fastapi_foundry.daemon.routes_models import with_states
from fastapi_foundry.errors import CatalogUnavailableError

MODELS = [{"id": "Big:2", "alias": "big"}, {"id": "Big-gpu:1", "alias": "big"}, {"id": "NoAlias:1", "alias": None}]


def workers(tmp_path: Path, *, offline: bool) -> CatalogWorkers:
    return CatalogWorkers(
        scratch=tmp_path, model_cache_dir=tmp_path, catalog_urls=[], offline=offline, env={"PATH": "/nowhere"}
    )


def catalog(
    tmp_path: Path, now: list[float], *, offline: bool = False, cached_at: float | None = None
) -> OnlineCatalog:
    cache_file = tmp_path / "cache.json"
    if cached_at is not None:
        cache_file.write_text(json.dumps({"fetched_at": cached_at, "models": [*MODELS, "odd"]}))
    made = OnlineCatalog(workers(tmp_path, offline=offline), cache_file, 3600.0, wall_clock=lambda: now[0])
    made.read_cache()
    return made


async def test_offline_the_list_of_before_is_shown_and_nothing_is_started(tmp_path: Path):
    made = catalog(tmp_path, [1000.0], offline=True, cached_at=5.0)
    view = await made.view({"Big:2"}, wait_s=5)
    assert view["status"] == "offline"
    assert [(model["id"], model["cached"]) for model in view["models"]] == [
        ("Big:2", True),
        ("Big-gpu:1", False),
        ("NoAlias:1", False),
    ]


async def test_a_young_list_is_fresh_and_starts_no_refresh(tmp_path: Path):
    made = catalog(tmp_path, [1000.0], cached_at=900.0)
    made._ask = None  # type: ignore[assignment,method-assign]
    assert (await made.view(set()))["status"] == "fresh"
    await made.close()


async def test_an_old_list_is_stale_and_stays_when_the_refresh_fails(tmp_path: Path):
    now = [10_000.0]
    made = catalog(tmp_path, now, cached_at=1.0)
    asked = 0

    async def fail() -> list[dict[str, Any]]:
        nonlocal asked
        asked += 1
        raise CatalogUnavailableError("no way out")

    made._ask = fail  # type: ignore[method-assign]
    view = await made.view(set(), wait_s=5)
    assert (view["status"], view["reason"]) == ("stale", "no way out")
    assert view["models"]
    await made.view(set())
    assert asked == 1
    now[0] += 61
    await made.view(set())
    await asyncio.sleep(0)
    assert asked == 2
    await made.close()


async def test_a_wait_for_a_refresh_is_bounded(tmp_path: Path):
    made = catalog(tmp_path, [0.0])
    release = asyncio.Event()

    async def wait() -> list[dict[str, Any]]:
        await release.wait()
        return MODELS

    made._ask = wait  # type: ignore[method-assign]
    assert (await made.view(set(), wait_s=0.05))["status"] == "loading"
    release.set()
    assert (await made.view(set(), wait_s=5))["status"] == "fresh"
    assert made.aliases() == {"big": "Big:2"}
    assert made.knows("BIG")
    assert made.knows("noalias:1")
    assert not made.knows("other")


async def test_closing_ends_a_refresh_under_way(tmp_path: Path):
    made = catalog(tmp_path, [0.0])

    async def forever() -> list[dict[str, Any]]:
        await asyncio.Event().wait()
        return []

    made._ask = forever  # type: ignore[method-assign]
    await made.view(set(), wait_s=0.01)
    await made.close()
    assert (await made.view(set()))["status"] == "unavailable"


@pytest.mark.parametrize("text", ["{", "[]", '{"models": 5, "fetched_at": 1}', '{"models": [], "fetched_at": "x"}'])
def test_a_cache_of_garbage_is_ignored(tmp_path: Path, text: str):
    (tmp_path / "cache.json").write_text(text)
    made = OnlineCatalog(workers(tmp_path, offline=True), tmp_path / "cache.json", 1.0)
    made.read_cache()
    assert made.aliases() == {}


async def test_offline_no_worker_starts(tmp_path: Path):
    with pytest.raises(CatalogUnavailableError, match="Offline"):
        await workers(tmp_path, offline=True).start()


async def test_a_worker_that_does_not_start_is_a_catalogue_that_cannot_be_used(tmp_path: Path):
    broken = CatalogWorkers(
        scratch=tmp_path,
        model_cache_dir=tmp_path,
        catalog_urls=[],
        offline=False,
        env={"PYTHONPATH": str(tmp_path), "FOUNDRY_LOCAL_LIB_DIR": str(tmp_path)},
    )
    (tmp_path / "orjson.py").write_text("raise SystemExit(4)")
    with pytest.raises(CatalogUnavailableError, match="does not start"):
        await broken.start()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name.startswith("tmp")] == []


def test_an_entry_tells_whether_its_model_is_here_or_on_its_way() -> None:
    entries = [
        {"id": "Far-cpu:1", "alias": "far"},
        {"id": "here:1"},
        {"id": "coming:2", "alias": None},
        {"id": "off:1"},
    ]
    told = with_states(entries, {"here:1": "loaded", "coming:2": "unusable"}, {"FAR": 12.5, "coming:2": 0.0})
    assert [(entry["state"], entry["percent"]) for entry in told] == [
        ("downloading", 12.5),
        ("loaded", None),
        ("downloading", 0.0),
        ("available", None),
    ]
