"""The two records that nearly every request leaves behind, handed over as one bundle of values.

Making a record the usual way costs the event loop keyword arguments, dictionaries and two calls. What makes lines of the
values is with the writer, in ``exchange_lines``: there it runs for many requests in a row, which takes a third of what it
takes between all the other things that a request does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from fastapi_foundry.observability import pipeline
from fastapi_foundry.observability.logger import Logger
from fastapi_foundry.observability.records import ExchangeNames, operation_level, request_level

__all__ = ["ExchangeLog"]

_INFO: Final = 20


class ExchangeLog:
    """Writes what ``log_model_operation`` and then ``log_api_request`` write of one request, to the byte.

    For any thread. Where nobody configured logging, and in dev mode, which shows where a record comes from, it calls those
    two.

    Args:
        generations: Name of the logger of the generation's record.
        requests: The same for the request's.
        method: HTTP method of the requests.
        operation: What is done with the model.
        clock: Seconds since 1970.
    """

    __slots__ = ("_clock", "_names")

    def __init__(
        self,
        generations: str,
        requests: str,
        *,
        method: str = "POST",
        operation: str = "generate",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._names = ExchangeNames(generations, operation, requests, method)
        self._clock = clock

    def write(  # noqa: PLR0917 - plain values in one call are what makes it cheap
        self,
        path: str,
        status_code: int,
        request_id: bytes,
        duration_s: float,
        model_id: str,
        status: str,
        generation_s: float,
        prompt_tokens: int,
        completion_tokens: int,
        first_byte_s: float | None,
        user_id: str | None,
    ) -> None:
        """Log a generation and the request that it was made for; never waits, never raises.

        Args:
            path: The route's template.
            status_code: The HTTP status.
            request_id: Visible ASCII.
            duration_s: Seconds from the request's arrival to the last byte of the answer.
            model_id: Full id.
            status: ``ok``, ``failed``, ``cancelled``, ...
            generation_s: Seconds that the generation took.
            prompt_tokens: Tokens of the prompt.
            completion_tokens: Tokens of the answer.
            first_byte_s: Seconds until the first byte; None if nobody looked.
            user_id: The id of the key that asked; None where none is needed.
        """
        writer = pipeline.active()
        if writer is None or writer.verbose:
            names, own_id = self._names, request_id.decode("latin-1")
            Logger(names.generations).log_model_operation(
                model_id,
                names.operation,
                status,
                generation_s,
                completion_tokens,
                input_tokens=prompt_tokens,
                output_tokens=completion_tokens,
                generation_time=generation_s,
                first_byte_time=first_byte_s,
                user_id=user_id,
                request_id=own_id,
            )
            Logger(names.requests).log_api_request(names.method, path, status_code, duration_s, request_id=own_id)
            return
        lowest = writer.lowest[None]
        if lowest > _INFO and operation_level(status) < lowest and request_level(status_code) < lowest:
            return
        values = (
            path,
            status_code,
            request_id,
            duration_s,
            model_id,
            status,
            generation_s,
            prompt_tokens,
            completion_tokens,
            first_byte_s,
            user_id,
        )
        writer.submit_exchange((self._clock(), self._names, values))
