"""``fastapi-foundry conformance`` in this process, and that docs/conformance.md is whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

import pytest

from fastapi_foundry.engines.repair.conformance import Outcome
from fastapi_foundry.engines.repair.conformance_checks import CHECKS
from fastapi_foundry.engines.repair.profile import EngineProfile
from tests.contract.engines import ENGINES
from tests.contract.make_conformance_page import OUTCOMES, PAGE, TITLES, page_of, written_cells
from tests.unit.cli.stub_server import Said, StubServer, stub_server

FEATURES = [field.name for field in fields(EngineProfile)]
TEXT = "Hello hello and hello again."
ANSWER = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1_700_000_000,
    "model": "always",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
}


@pytest.fixture
def parrot() -> Iterator[StubServer]:
    """An engine that answers everything with the same whole answer, streams too."""
    models = Said({"object": "list", "data": [{"id": "always", "object": "model"}]})
    with stub_server({"GET /v1/models": models, "POST /v1/chat/completions": Said(ANSWER)}) as stub:
        yield stub


def test_every_feature_of_a_profile_has_its_check():
    assert list(CHECKS) == FEATURES


def test_the_page_has_every_feature_and_every_engine():
    cells = written_cells()
    assert list(cells) == list(ENGINES) == list(TITLES)
    assert all(list(column) == FEATURES for column in cells.values())


def test_every_cell_of_the_page_holds_a_value_of_the_profile_and_an_outcome():
    for column in written_cells().values():
        for feature, cell in column.items():
            behaviour, outcome = cell.split(" → ")
            EngineProfile.from_dict({feature: behaviour.rstrip("*")})
            assert outcome in OUTCOMES.values()


def test_the_page_is_as_it_was_generated():
    assert PAGE.read_text(encoding="utf-8") == page_of(written_cells())


def test_the_page_explains_every_outcome():
    text = PAGE.read_text(encoding="utf-8")
    assert set(OUTCOMES) == set(Outcome)
    for word in OUTCOMES.values():
        assert f"\n| {word} | " in text


def test_an_engine_that_heeds_nothing_fails_with_code_1(cli, parrot):
    outcome = cli("conformance", "--engine", parrot.url, "--json")
    assert outcome.code == 1
    rows = {row["feature"]: row for row in outcome.json["rows"]}
    assert list(rows) == FEATURES
    assert outcome.json["engine"] == {"url": parrot.url, "kind": "openai", "model": "always"}
    assert set(outcome.json["failed"]) == {name for name, row in rows.items() if row["outcome"] == "failed"}
    assert {"stream_usage", "tools", "finish_reason", "developer_role"} <= set(outcome.json["failed"])
    assert rows["json_schema"]["outcome"] == "unmet"
    assert rows["logprobs"]["outcome"] == "refused"
    assert outcome.err == ""


def test_a_failure_stands_in_the_table_and_at_its_end(cli, parrot):
    outcome = cli("conformance", "--engine", f"{parrot.url}/v1", "--model", "whatever")
    assert outcome.code == 1
    assert "whatever at" in outcome.out
    assert "FAILED: " in outcome.out.splitlines()[-1]
    (line,) = [line for line in outcome.out.splitlines() if line.startswith("tools ")]
    assert "FAILED" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "ftp://127.0.0.1"], "--engine: must be an address"),
        (["--engine", "127.0.0.1:50477"], "--engine: must be an address"),
        (["--engine", "http://me:secret@127.0.0.1"], "must not hold a user name or password"),
        (["--engine", "http://127.0.0.1:1", "--api-key-env", "NO_SUCH_KEY"], "'NO_SUCH_KEY' is not set"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(cli, arguments, words):
    outcome = cli("conformance", *arguments)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert words in outcome.err


def test_an_address_where_nobody_listens_is_code_3(cli):
    outcome = cli("conformance", "--engine", "http://127.0.0.1:1", "--json")
    assert outcome.code == 3
    assert "connection refused" in outcome.json["error"]["message"]


def test_what_is_no_engine_is_said_to_be_none(cli):
    with stub_server({}) as stub:
        outcome = cli("conformance", "--engine", stub.url)
    assert outcome.code == 3
    assert "No engine can be used at" in outcome.err
