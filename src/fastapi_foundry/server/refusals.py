"""The bytes of an answer that no application gave: the connection itself refuses."""

from __future__ import annotations

import random
from collections.abc import Iterable
from http import HTTPStatus

from fastapi_foundry.api.middleware import EVERY_ANSWER
from fastapi_foundry.api.problems import problem_response
from fastapi_foundry.errors import FoundryError
from fastapi_foundry.observability.context import request_id

__all__ = ["refusal"]


def refusal(path: str, fact: FoundryError, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """The status and the whole answer to a request for ``path`` that is refused because of ``fact``.

    It has a request id of its own and the form of its path's dialect, and announces that the connection is closed.

    Args:
        path: As far as it is known; an empty one gets the native form.
        headers: What the server adds to each answer.
    """
    made = f"req_{random.getrandbits(128):032x}"
    token = request_id.set(made)
    try:
        response = problem_response(path, fact)
    finally:
        request_id.reset(token)
    status = response.status_code
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())]
    lines += [
        b"%b: %b\r\n" % pair
        for pair in (*headers, *response.raw_headers, *EVERY_ANSWER, (b"x-request-id", made.encode()))
    ]
    return status, b"".join([*lines, b"connection: close\r\n\r\n", bytes(response.body)])
