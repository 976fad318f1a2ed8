from __future__ import annotations

import orjson
import pytest

from fastapi_foundry import errors
from fastapi_foundry.api.problems import native_problem, problem_response

FACTS = [
    (
        errors.EngineUnavailableError("Not there.", url="http://127.0.0.1:50477"),
        503,
        503,
        "Foundry service unavailable",
    ),
    (errors.ModelNotFoundError("zz"), 404, 404, "Model not available"),
    (errors.EngineTimeoutError("Silent.", limit_s=300.0), 504, 408, "Generation timeout"),
    (errors.InvalidInputError("Wrong.", param="prompt"), 400, 400, "Invalid input"),
    (errors.ContextLengthExceededError(prompt_tokens=9, context_length=5, model="m"), 400, 400, "Invalid input"),
    (errors.UnsupportedParameterError("n", "Only 1."), 400, 400, "Invalid input"),
    (errors.BodyTooLargeError(10), 413, 413, "Request too large"),
    (errors.HeadTooLargeError("Too large."), 431, 431, "Request head too large"),
    (errors.RequestTooSlowError("Too slow."), 408, 408, "Request too slow"),
    (errors.OverloadedError("Too many."), 503, 503, "Server overloaded"),
    (errors.ForbiddenError("No."), 403, 403, "Forbidden"),
    (errors.ModelUnavailableError("m", "it crashed", code="model_put_aside"), 503, 503, "Model not available"),
    (errors.QueueFullError("Full.", retry_after_s=2.4), 429, 429, "Too many requests"),
    (errors.StructuredOutputError("Not JSON."), 422, 422, "Structured output invalid"),
    (errors.CatalogUnavailableError("Offline."), 503, 503, "Catalogue unavailable"),
    (errors.StoppingError(), 503, 503, "Server shutting down"),
    (errors.StorageConflictError("There already."), 409, 409, "Conflict"),
    (errors.StorageUnavailableError("Busy."), 503, 503, "Storage unavailable"),
    (errors.StorageFullError("Full."), 507, 507, "Storage full"),
    (errors.StorageCorruptError("Damaged."), 500, 500, "Internal server error"),
    (errors.StorageSchemaError("/srv/x is newer."), 500, 500, "Internal server error"),
    (errors.EngineLoopError("Back again."), 508, 508, "Loop detected"),
    (errors.EngineFailedError("Broke."), 502, 502, "Foundry service failed"),
    (RuntimeError("secret /path"), 500, 500, "Internal server error"),
    (errors.ConfigurationError("a.b", "/etc/x", "bad"), 500, 500, "Internal server error"),
]


@pytest.mark.parametrize(("fact", "openai_status", "native_status", "title"), FACTS)
def test_every_fact_has_its_status_and_form_in_both_dialects(
    fact: Exception, openai_status: int, native_status: int, title: str
) -> None:
    native = problem_response("/api/v1/generate", fact)
    body = orjson.loads(native.body)
    assert (native.status_code, body["status_code"], body["error"]) == (native_status, native_status, title)
    assert body.keys() - {"param"} == {"error", "detail", "status_code", "code", "request_id"}

    openai = problem_response("/v1/chat/completions", fact)
    envelope = orjson.loads(openai.body)
    assert openai.status_code == openai_status
    assert envelope["error"].keys() == {"message", "type", "param", "code"}


def test_what_is_unexpected_tells_nothing_of_the_inside() -> None:
    for path in ("/v1/x", "/api/v1/x"):
        assert b"secret" not in problem_response(path, RuntimeError("secret /path")).body


def test_the_native_form_names_the_engines_address_and_openais_does_not() -> None:
    fact = errors.EngineUnavailableError("Not there.", url="http://127.0.0.1:50477")
    assert "http://127.0.0.1:50477" in native_problem(fact)["detail"]
    assert b"50477" not in problem_response("/v1/models", fact).body


def test_a_timeout_names_its_limit() -> None:
    assert "300 s" in native_problem(errors.EngineTimeoutError("Silent.", limit_s=300.0))["detail"]


def test_the_field_at_fault_is_named() -> None:
    assert native_problem(errors.InvalidInputError("Wrong.", param="prompt"))["param"] == "prompt"


def test_a_full_queue_says_in_whole_seconds_when_to_come_back() -> None:
    fact = errors.QueueFullError("Full.", retry_after_s=2.4)
    for path in ("/v1/x", "/api/v1/x"):
        assert problem_response(path, fact).headers["retry-after"] == "3"
