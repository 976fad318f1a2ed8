"""A decorator that logs each call of a function with its duration."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from fastapi_foundry.observability.logger import Logger, get_logger
from fastapi_foundry.observability.redaction import plain

__all__ = ["traced"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def traced(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def traced(*, name: str | None = None, level: int = logging.DEBUG) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def traced(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, level: int = logging.DEBUG
) -> Any:
    """Log the end of every call, ``@traced`` or ``@traced(name="store scan", level=logging.INFO)``.

    For functions, coroutine functions, generators and asynchronous generators; the last two count from
    their first item to their last. Arguments and results are never logged. A call that raises makes an
    error record with the exception's type and text, and the exception goes on; a cancelled one stays at
    ``level``.

    Args:
        function: The function, when used without parentheses.
        name: Field ``call`` of the record; the function's qualified name unless given.
        level: Level of a call that ends well.
    """
    if function is None:
        return lambda wrapped: _wrapped(wrapped, name, level)
    return _wrapped(function, name, level)


def _wrapped(function: Callable[..., Any], name: str | None, level: int) -> Callable[..., Any]:
    logger = get_logger(function.__module__)
    call = name or function.__qualname__
    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def stream(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with _Call(logger, call, level):
                items = function(*args, **kwargs)
                try:
                    async for item in items:
                        yield item
                finally:
                    await items.aclose()

        return stream
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with _Call(logger, call, level):
                return await function(*args, **kwargs)

        return coroutine
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with _Call(logger, call, level):
                yield from function(*args, **kwargs)

        return generator

    @functools.wraps(function)
    def plain_call(*args: Any, **kwargs: Any) -> Any:
        with _Call(logger, call, level):
            return function(*args, **kwargs)

    return plain_call


class _Call:
    """One call from its begin to its end."""

    def __init__(self, logger: Logger, call: str, level: int) -> None:
        self._logger = logger
        self._call = call
        self._level = level
        self._begin = time.perf_counter()

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        duration = time.perf_counter() - self._begin
        if error is None:
            self._logger.log(self._level, "call", call=self._call, duration=duration)
        elif isinstance(error, Exception):
            self._logger.error("call failed", call=self._call, duration=duration, error=plain(error))
        else:
            self._logger.log(self._level, "call cancelled", call=self._call, duration=duration)
