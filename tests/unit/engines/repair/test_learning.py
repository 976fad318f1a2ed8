"""Which engines are probed, and by what a profile is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.repair.learning import LearnedProfile
from fastapi_foundry.engines.repair.profile import CONFORMING
from fastapi_foundry.engines.repair.profile_cache import ProfileCache
from tests.support.fake_engine import FakeEngine
from tests.support.waiting import eventually

URL = "http://127.0.0.1:11434"


async def test_a_profile_belongs_to_the_version_that_was_probed(tmp_path: Path) -> None:
    version = "1"
    engine = FakeEngine(url=URL)
    cache = ProfileCache(tmp_path / "profiles.json")
    learned = LearnedProfile(engine, lambda: EngineKind.OPENAI, lambda: version, cache, quiet_s=0.0)
    learned()
    learned.answered("m:1")
    await eventually(lambda: cache.get(URL, "openai", "1") is not None)
    await eventually(lambda: learned().n == "ignored")
    asked = len(engine.calls)

    version = "2"
    assert learned().n == "native"
    learned.answered("m:1")
    await eventually(lambda: cache.get(URL, "openai", "2") is not None)
    assert len(engine.calls) > asked
    await learned.aclose()


@pytest.mark.parametrize("kind", [EngineKind.OURS, EngineKind.GATEWAY])
async def test_what_is_known_exactly_is_never_probed(tmp_path: Path, kind: EngineKind) -> None:
    engine = FakeEngine(url=URL)
    cache = ProfileCache(tmp_path / "profiles.json")
    learned = LearnedProfile(engine, lambda: kind, lambda: "1", cache, quiet_s=0.0)
    learned()
    learned.answered("m:1")
    assert learned._task is None
    assert engine.calls == []
    if kind is EngineKind.GATEWAY:
        assert learned() == CONFORMING
