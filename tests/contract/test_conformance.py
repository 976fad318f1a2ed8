"""``fastapi-foundry conformance`` against real services and doubles, and the page that is made of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fastapi_foundry.engines.openai_http import OpenAIHttpEngine
from fastapi_foundry.engines.repair.conformance import Outcome, judge
from fastapi_foundry.engines.repair.conformance_checks import CHECKS
from fastapi_foundry.engines.repair.conformance_client import Client
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.profile import CONFORMING
from fastapi_foundry.settings import EngineSettings, FoundryAISettings
from tests.contract.make_conformance_page import cells_of, measured, written_cells
from tests.support.cli import CliOutcome, cli_in_a_pipe, cli_on_a_terminal, end_service_of
from tests.support.doubles import RunningDouble, running_double

MODEL = "double-small-generic-cpu:1"


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDouble]:
    with running_double("gen3", tmp_path_factory.mktemp("gen3")) as running:
        yield running


@pytest.fixture
def healed(double: RunningDouble) -> Iterator[RunningDouble]:
    yield double
    double.heal()


@pytest.fixture
async def unrepaired(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of the worst generation through a repair that takes it for a conforming engine."""
    with running_double("gen1", tmp_path) as worst:
        engine = OpenAIHttpEngine(EngineSettings(name="worst", url=worst.url), FoundryAISettings())
        await engine.start()
        yield Client(RepairingEngine(engine, lambda: CONFORMING), MODEL, timeout_s=5.0)
        await engine.aclose()


def conformance(home: Path, double: RunningDouble, *arguments: str) -> CliOutcome:
    return cli_in_a_pipe(home, "conformance", "--engine", double.url, *arguments)


@pytest.mark.parametrize("engine", ["ours", "gen3"])
def test_the_command_says_what_the_page_says(engine: str, tmp_path: Path) -> None:
    outcome = measured(engine, tmp_path)
    assert outcome.code == 0, outcome.out
    assert outcome.err == ""
    assert outcome.json["failed"] == []
    assert cells_of(outcome.json) == written_cells()[engine]


@pytest.mark.parametrize(
    "feature",
    [
        "json_schema",
        "grammar",
        "json_object",
        "n",
        "logprobs",
        "logit_bias",
        "penalties",
        "strict_tools",
        "tools",
        "tool_deltas",
        "stop",
        "usage",
        "stream_usage",
        "finish_reason",
        "envelope",
        "images",
        "max_tokens_overflow",
        "max_completion_tokens",
        "completions",
    ],
)
async def test_a_repair_that_does_nothing_is_seen(unrepaired: Client, feature: str) -> None:
    outcome, notes = await judge(CHECKS[feature], unrepaired, limit_s=10.0)
    # An answer to a schema is checked whatever the profile says, so it ends as a 422.
    assert outcome is (Outcome.UNMET if CHECKS[feature].may_be_unmet else Outcome.FAILED), notes
    assert notes


async def test_a_refusal_of_what_has_to_work_is_a_failure(double: RunningDouble) -> None:
    engine = OpenAIHttpEngine(EngineSettings(name="bare", url=double.url), FoundryAISettings())
    await engine.start()
    client = Client(engine, MODEL, timeout_s=5.0)
    refused = {name: await judge(CHECKS[name], client, limit_s=5.0) for name in ("strict_tools", "json_schema")}
    await engine.aclose()
    assert {outcome for outcome, _ in refused.values()} == {Outcome.FAILED}
    assert refused["strict_tools"][1][0].startswith("refused: ")


async def test_what_could_not_be_asked_in_time_is_not_said_to_work(double: RunningDouble) -> None:
    engine = OpenAIHttpEngine(EngineSettings(name="bare", url=double.url), FoundryAISettings())
    client = Client(engine, MODEL, timeout_s=5.0)
    assert await judge(CHECKS["usage"], client, limit_s=0.0) == (
        Outcome.FAILED,
        ("not asked: the time for all checks is up",),
    )
    await engine.aclose()


@pytest.mark.parametrize("on", ["list", "inference"])
def test_a_key_that_is_refused_is_said(healed: RunningDouble, tmp_path: Path, on: str) -> None:
    healed.fault("unauthorized", on=on)
    without = conformance(tmp_path, healed)
    assert without.code == 2
    assert "wants a key" in without.err
    arguments = ("conformance", "--engine", healed.url, "--api-key-env", "WRONG_KEY")
    wrong = cli_in_a_pipe(tmp_path, *arguments, env={"WRONG_KEY": "sk-wrong"})
    assert wrong.code == 2
    assert "does not take the key" in wrong.err
    assert "sk-wrong" not in wrong.err + wrong.out


def test_the_key_is_sent(double: RunningDouble, tmp_path: Path) -> None:
    double.forget()
    outcome = cli_in_a_pipe(
        tmp_path, "conformance", "--engine", double.url, "--api-key-env", "RIGHT_KEY", env={"RIGHT_KEY": "sk-right"}
    )
    assert outcome.code == 0, outcome.err
    requests = double.seen("/v1/chat")
    assert requests
    assert all("sk-right" in json.dumps(request["headers"]) for request in requests)


def test_a_silent_engine_is_named_in_time(healed: RunningDouble, tmp_path: Path) -> None:
    healed.freeze()
    try:
        outcome = cli_in_a_pipe(tmp_path, "conformance", "--engine", healed.url, timeout_s=30)
    finally:
        healed.thaw()
    assert outcome.code == 3
    assert "does not answer" in outcome.err


def test_an_unknown_model_is_named_with_those_that_there_are(double: RunningDouble, tmp_path: Path) -> None:
    outcome = conformance(tmp_path, double, "--model", "nobody-has-this")
    assert outcome.code == 4
    assert MODEL in outcome.err


def test_the_loaded_chat_model_is_taken_and_an_alias_is_understood(double: RunningDouble, tmp_path: Path) -> None:
    assert conformance(tmp_path, double, "--json").json["engine"]["model"] == MODEL
    named = conformance(tmp_path, double, "-m", "double-other", "--json").json
    assert named["engine"] == {"url": double.url, "kind": "gen3", "model": "double-other-generic-cpu:2"}


def test_an_engine_without_a_chat_model_is_said_to_have_none(tmp_path: Path) -> None:
    models = ["double-embedding-generic-cpu:1,state=loaded,task=embeddings"]
    with running_double("gen3", tmp_path / "double", models=models) as embedding:
        outcome = conformance(tmp_path, embedding)
    assert outcome.code == 4
    assert "no model that chats" in outcome.err


def test_without_an_engine_our_service_is_started_and_found_the_next_time(tmp_path: Path) -> None:
    try:
        first = cli_in_a_pipe(tmp_path, "conformance")
        second = cli_in_a_pipe(tmp_path, "conformance", "--json")
    finally:
        end_service_of(tmp_path)
    assert first.code == 0, first.err
    assert "Starting the Foundry service" in first.err
    assert "FEATURE" in first.out
    assert "refused by name (400): logprobs" in first.out
    assert second.code == 0
    assert second.json["engine"]["kind"] == "ours"
    assert second.json["engine"]["url"] in first.out


def test_on_a_terminal_there_is_a_bar_and_a_table(double: RunningDouble, tmp_path: Path) -> None:
    with cli_on_a_terminal(tmp_path, "conformance", "--engine", double.url) as session:
        session.until("Asking the engine itself|Asking through the repair")
        session.until("FEATURE")
        session.until("Every feature works or is refused by name")
        assert session.ended() == 0
