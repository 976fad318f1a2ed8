from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from openapi_spec_validator import validate

from fastapi_foundry.app import create_app
from fastapi_foundry.wire.openai import ChatCompletionRequest
from fastapi_foundry.wire.validation import validate as validate_body
from tests.support.gateway import RunningGateway, gateway_settings

ROOT = Path(__file__).parents[3]
METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    return create_app(gateway_settings(tmp_path)).openapi()


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)


def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(ids) == len(set(ids))


def test_422_is_not_fastapis_own_but_what_a_structured_answer_may_end_with(document: dict[str, Any]) -> None:
    found = {name for name, operation in operations(document).items() if "422" in operation["responses"]}
    assert found == {"POST /v1/chat/completions"}
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_operation_says_what_can_go_wrong_in_the_form_of_its_dialect(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        schema = "ErrorEnvelope" if " /v1/" in name else "Problem"
        for status, answer in operation["responses"].items():
            if status.startswith(("4", "5")) and not (name == "GET /api/v1/health" and status == "503"):
                reference = answer["content"]["application/json"]["schema"]["$ref"]
                assert reference == f"#/components/schemas/{schema}", (name, status)
        assert {"403", "500"} <= operation["responses"].keys()


def test_every_operation_that_takes_a_body_says_so_with_an_example(document: dict[str, Any]) -> None:
    with_body = {name for name, operation in operations(document).items() if "requestBody" in operation}
    assert with_body == {
        "POST /v1/chat/completions",
        "POST /v1/completions",
        "POST /v1/embeddings",
        "POST /v1/batches",
        "POST /v1/files",
        "POST /api/v1/generate",
        "POST /api/v1/generate/batch",
        "POST /api/v1/tokens/count",
        "POST /api/v1/keys",
        "POST /api/v1/keys/{key_id}/rotate",
        "POST /api/v1/session",
    }
    for name in with_body:
        body = operations(document)[name]["requestBody"]
        assert body["required"]
        if name == "POST /v1/files":
            assert body["content"].keys() == {"multipart/form-data"}
            continue
        content = body["content"]["application/json"]
        assert content["schema"]["$ref"].rpartition("/")[2] in document["components"]["schemas"]
        assert content["examples"]


def test_what_streams_says_so(document: dict[str, Any]) -> None:
    for name in ("POST /v1/chat/completions", "POST /v1/completions", "POST /api/v1/generate"):
        content = operations(document)[name]["responses"]["200"]["content"]
        assert content.keys() == {"application/json", "text/event-stream"}


def test_what_only_streams_says_so(document: dict[str, Any]) -> None:
    content = operations(document)["POST /api/v1/models/{model_id}/download"]["responses"]["200"]["content"]
    assert content.keys() == {"text/event-stream"}


def test_the_examples_of_chat_are_what_the_route_takes(document: dict[str, Any]) -> None:
    content = operations(document)["POST /v1/chat/completions"]["requestBody"]["content"]["application/json"]
    for example in content["examples"].values():
        validate_body(ChatCompletionRequest, example["value"])


def test_every_operation_is_documented_with_an_example(document: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^### `((?:GET|POST|PUT|PATCH|DELETE) \S+)`$", text, re.MULTILINE))
    assert documented == operations(document).keys()
    sections = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    for section in sections:
        assert "```" in section, section.splitlines()[0]


def test_every_status_in_the_documentation_is_one_that_the_document_knows(document: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        name = section.splitlines()[0].strip("`")
        line = next(line for line in section.splitlines() if line.startswith("Failures:"))
        listed = set(re.findall(r"\b[45]\d\d\b", line))
        declared = {status for status in operations(document)[name]["responses"] if status[0] in "45"}
        assert listed == declared, name


def test_json_in_the_documentation_is_json() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        orjson.loads(block)


async def test_the_document_is_served(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.json()["openapi"].startswith("3.1")


async def test_every_documented_path_exists(gateway: RunningGateway, document: dict[str, Any]) -> None:
    for name in operations(document):
        method, path = name.split()
        answer = await gateway.client.request(method, re.sub(r"\{\w+\}", "m:1", path))
        assert answer.status_code != 405, name
        assert b'"not_found"' not in answer.content, name
