"""What the probes make of an OpenAI-compatible server and its bad habits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fastapi_foundry.engines.openai_http import OpenAIHttpEngine
from fastapi_foundry.engines.repair.conformance import Outcome, judge
from fastapi_foundry.engines.repair.conformance_checks import CHECKS
from fastapi_foundry.engines.repair.conformance_client import Client
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.probing import Probed, probe_profile
from fastapi_foundry.engines.repair.profile import CONFORMING, EngineProfile, known_profile
from fastapi_foundry.settings import EngineSettings, FoundryAISettings
from tests.support.doubles import running_double

MODEL = "double-small-generic-cpu:1"
KNOWN = known_profile("openai")


@asynccontextmanager
async def engine_with(home: Path, habits: Sequence[str]) -> AsyncIterator[OpenAIHttpEngine]:
    with running_double("openai", home, habits=habits) as double:
        engine = OpenAIHttpEngine(EngineSettings(name="probed", url=double.url), FoundryAISettings())
        await engine.start()
        yield engine
        await engine.aclose()


async def probed(home: Path, *habits: str, start: EngineProfile = KNOWN) -> Probed:
    async with engine_with(home, habits) as engine:
        return await probe_profile(engine, MODEL, start=start)


def words_for(found: Probed, feature: str) -> str:
    return next(each.raw for each in found.findings if each.feature == feature)


@pytest.mark.parametrize(
    ("habits", "start", "believed", "words"),
    [
        ([], "ignored", "native", "a word is said less often"),
        (["penalties_ignored"], "native", "ignored", "a word is said 24 times in spite of them"),
        (["penalties_refused"], "native", "refused", "refused: penalties are not supported"),
        # Nothing can be told from these, so what is known of the kind stands.
        (["never_twice"], "ignored", "ignored", "taken; no effect shows, as no two answers are the same"),
        (
            ["never_twice", "penalties_ignored"],
            "native",
            "native",
            "taken; no effect shows, as no two answers are the same",
        ),
        (["terse"], "ignored", "ignored", "taken; no effect shows, as the model repeats nothing"),
    ],
)
async def test_penalties_that_are_ignored_are_told_from_those_that_are_heeded(
    tmp_path: Path, habits: list[str], start: str, believed: str, words: str
) -> None:
    found = await probed(tmp_path, *habits, start=KNOWN.changed(penalties=start))
    assert found.profile.penalties == believed
    assert words_for(found, "penalties").startswith(words)


@pytest.mark.parametrize(
    ("habits", "believed", "words"),
    [
        ([], "complete", "every field is there"),
        (["no_index"], "incomplete", "deltas lack index"),
        (["no_id", "no_type"], "incomplete", "deltas lack id, type"),
        (["no_name"], "incomplete", "deltas lack name"),
    ],
)
async def test_deltas_of_tool_calls_need_every_field(
    tmp_path: Path, habits: list[str], believed: str, words: str
) -> None:
    found = await probed(tmp_path, *habits)
    assert found.profile.tool_deltas == believed
    assert words_for(found, "tool_deltas") == words


async def test_what_was_found_is_what_a_client_then_gets(tmp_path: Path) -> None:
    async with engine_with(tmp_path, ["penalties_ignored", "no_id", "no_type"]) as engine:
        profile = (await probe_profile(engine, MODEL, start=KNOWN)).profile
        for believed, outcomes in ((profile, [Outcome.REFUSED, Outcome.WORKS]), (CONFORMING, [Outcome.FAILED] * 2)):
            client = Client(RepairingEngine(engine, lambda p=believed: p), MODEL, timeout_s=5.0)
            judged = [await judge(CHECKS[name], client, limit_s=5.0) for name in ("penalties", "tool_deltas")]
            assert [outcome for outcome, _ in judged] == outcomes, judged
