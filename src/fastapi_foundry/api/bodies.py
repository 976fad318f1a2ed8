"""Reading a request's body: bounded in size by the middleware, in time by the server; JSON under its own type alone."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from fastapi_foundry.api.interruption import ClientGoneError
from fastapi_foundry.errors import InvalidInputError
from fastapi_foundry.wire.validation import parse_object

__all__ = ["read_json"]


async def read_json(request: Request) -> tuple[bytes, dict[str, Any]]:
    """The body as it came and as the JSON object that it is.

    Raises:
        BodyTooLargeError: When it passes the limit while it arrives.
        ClientGoneError: When the client disconnects before its end, or is too slow with it.
        OverloadedError: When too much of large bodies is in memory already.
        InvalidInputError: When there is none, its content type is not JSON, or it is no JSON object.
    """
    raw = await _read(request)
    if raw and not _is_json(request.headers.get("content-type", "")):
        raise InvalidInputError(
            "The request body must be JSON, sent with the header 'Content-Type: application/json'.",
            code="unsupported_content_type",
        )
    return raw, parse_object(raw)


async def _read(request: Request) -> bytes:
    chunks: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _is_json(content_type: str) -> bool:
    media_type, _, parameters = content_type.partition(";")
    kind = media_type.strip().lower()
    charset = parameters.lower().partition("charset=")[2].strip().strip('"')
    right_charset = charset.partition(";")[0].strip().strip('"') in {"", "utf-8", "utf8"}
    return right_charset and (
        kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
    )
