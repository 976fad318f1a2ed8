"""OpenAI's batches as types, and the lines of their files. Source: OpenAI's published API specification."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.wire.files import LONGEST_S, SHORTEST_S
from fastapi_foundry.wire.openai import ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from fastapi_foundry.wire.validation import parse_object, validate

__all__ = [
    "ENDPOINTS",
    "BatchLine",
    "BatchList",
    "BatchObject",
    "CreateBatchBody",
    "LineProblem",
    "check_line",
    "checked_body",
    "failed_line",
    "parse_line",
    "response_line",
]

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]

ENDPOINTS: Final[dict[str, type[ChatCompletionRequest | CompletionRequest | EmbeddingRequest]]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/embeddings": EmbeddingRequest,
}
_LONGEST_CUSTOM_ID: Final = 512


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, defer_build=True)


class OutputExpiresAfter(_Request):
    """How long the results are kept for."""

    anchor: Literal["created_at"]
    seconds: Annotated[StrictInt, Field(ge=SHORTEST_S, le=LONGEST_S)]


class CreateBatchBody(_Request):
    """The body of ``POST /v1/batches``."""

    input_file_id: Annotated[StrictStr, Field(min_length=1, max_length=128)]
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: (
        Annotated[
            dict[Annotated[StrictStr, Field(min_length=1, max_length=64)], Annotated[StrictStr, Field(max_length=512)]],
            Field(max_length=16),
        ]
        | None
    ) = None
    output_expires_after: OutputExpiresAfter | None = None


class BatchObject(BaseModel):
    """A batch; times are seconds since 1970."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    input_file_id: str
    output_file_id: str | None
    error_file_id: str | None
    completion_window: str
    created_at: int
    request_counts: dict[str, int]
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@dataclass(frozen=True, slots=True)
class LineProblem:
    """What is wrong with a line of the input, before anything is run; ``line`` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def shown(self) -> dict[str, Any]:
        """As in ``errors.data`` of a batch."""
        return {"code": self.code, "message": self.message, "param": self.param, "line": self.line}


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a batch; ``number`` is its line in the file, from 1."""

    number: int
    custom_id: str
    body: dict[str, Any]


def check_line(number: int, line: bytes, endpoint: str) -> BatchLine | LineProblem:
    """One line of the input as a request, or what is wrong with it; its body is looked into when it is run."""
    try:
        value = parse_object(line)
    except InvalidInputError as fact:
        return LineProblem("invalid_json_line", f"This line is not a JSON object: {fact.message}", number)
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_CUSTOM_ID:
        missing = custom_id is None
        return LineProblem(
            "missing_required_parameter" if missing else "invalid_value",
            f"'custom_id' must be a text of 1 to {_LONGEST_CUSTOM_ID} characters.",
            number,
            "custom_id",
        )
    if value.get("method") != "POST":
        return LineProblem("invalid_method", "'method' must be 'POST'.", number, "method")
    if value.get("url") != endpoint:
        message = f"'url' must be the endpoint of the batch, which is '{endpoint}'."
        return LineProblem(
            "invalid_url" if value.get("url") not in ENDPOINTS else "mismatched_endpoint", message, number, "url"
        )
    body = value.get("body")
    if not isinstance(body, dict):
        return LineProblem("invalid_body", "'body' must be an object.", number, "body")
    return BatchLine(number, custom_id, body)


def parse_line(number: int, line: bytes) -> BatchLine:
    """A line that has been checked before."""
    value = orjson.loads(line)
    return BatchLine(number, value["custom_id"], value["body"])


def checked_body(endpoint: str, body: dict[str, Any]) -> ChatCompletionRequest | CompletionRequest | EmbeddingRequest:
    """The body of a line as a validated request.

    Raises:
        InvalidInputError: It is wrong, or asks for a stream.
    """
    checked = validate(ENDPOINTS[endpoint], body)
    if not isinstance(checked, EmbeddingRequest) and checked.stream:
        raise InvalidInputError("'stream': A batch cannot stream.", param="stream", code="invalid_value")
    return checked


def response_line(batch_id: str, line: BatchLine, *, status: int, request_id: str, body: Any) -> str:
    """A line of the output file or of the error file: what the request was answered with."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    return _result_line(batch_id, line, response, None)


def failed_line(batch_id: str, line: BatchLine, *, code: str, message: str) -> str:
    """A line of the error file for a request that got no answer at all."""
    return _result_line(batch_id, line, None, {"code": code, "message": message})


def _result_line(batch_id: str, line: BatchLine, response: Any, error: Any) -> str:
    # The same each time, so that a line that is run twice is the same result.
    name = f"batch_req_{batch_id.removeprefix('batch_')}_{line.number}"
    return orjson.dumps({"id": name, "custom_id": line.custom_id, "response": response, "error": error}).decode()
