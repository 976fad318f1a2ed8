"""Connections for code on an event loop: the driver blocks, in a thread of the pool's own.

SQLAlchemy's own way to asyncio brings its ORM along (0.07 s and 7 MB) and crosses threads for each call of the driver;
here a whole statement and its rows cross once.
"""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, ParamSpec, TypeVar, overload

from sqlalchemy import Connection, CursorResult, Engine, Executable, Result, UpdateBase

from fastapi_foundry import errors

__all__ = ["AsyncConnection", "ConnectionPool"]

_BUSY_RETRY_S: Final = 1.0

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Rows = Result[*tuple[Any, ...]]
_Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class AsyncConnection:
    """A connection within its transaction; one statement at a time, for as long as the block lasts that gave it.

    A driver cannot be interrupted: a caller that is cancelled waits until its statement has ended and is rolled back. One
    who is cancelled again leaves at once, and the next transaction still begins after that.
    """

    def __init__(self, thread: _Thread, engine: Engine) -> None:
        self._thread = thread
        self._engine = engine
        self._connection: Connection | None = None  # touched in the thread alone

    @overload
    async def execute(self, statement: UpdateBase, parameters: _Parameters | None = None) -> CursorResult[Any]: ...

    @overload
    async def execute(self, statement: Executable, parameters: _Parameters | None = None) -> _Rows: ...

    async def execute(self, statement: Executable, parameters: _Parameters | None = None) -> _Rows:
        """Run a statement; all its rows are here when this returns.

        Returns:
            The rows, or, of a statement that returns none, what else there is to know (``rowcount``).

        Raises:
            sqlalchemy.exc.SQLAlchemyError: As the driver has it.
        """
        return await self._thread.call(self._execute, statement, parameters)

    async def run_sync(self, work: Callable[[Connection], _T]) -> _T:
        """Run something longer in the connection's thread; it may block."""
        return await self._thread.call(lambda: work(self._used()))

    async def commit(self) -> None:
        """Commit what has been done so far; the next statement begins anew."""
        await self._thread.call(lambda: self._used().commit())

    # What follows runs in the thread.

    def begin(self) -> None:
        """Take a connection and begin."""
        self._connection = self._engine.connect()
        self._connection.begin()

    def finish(self) -> None:
        """Commit, and give the connection back; nothing of it holds if this fails."""
        connection, self._connection = self._used(), None
        with connection:
            connection.commit()

    def undo(self) -> None:
        """Roll back, and give the connection back; one that is broken is dropped by the engine."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _execute(self, statement: Executable, parameters: _Parameters | None) -> _Rows:
        result = self._used().execute(statement, parameters)
        # Without a cursor there are no rows, or SQLAlchemy wanted them for itself (``inserted_primary_key``).
        # Frozen: read to its end, in here.
        return result.freeze()() if result.cursor else result

    def _used(self) -> Connection:
        if self._connection is None:
            raise errors.StorageUnavailableError("The transaction is over.")
        return self._connection


class ConnectionPool:
    """Transactions of one engine, a bounded number of them at a time, each in a thread; who waits is served in order.

    Args:
        engine: Its pool must allow for ``size`` connections, to be used in any thread.
        size: How many transactions there may be at a time.
        timeout_s: How long one may wait for its turn, in seconds.
    """

    def __init__(self, engine: Engine, *, size: int, timeout_s: float) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(size)
        self._resting: list[_Thread] = []
        self._closed = False

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A transaction; leaving the block commits, an error in it rolls back.

        Raises:
            StorageUnavailableError: No turn was to be had in time.
            sqlalchemy.exc.SQLAlchemyError: As the driver has it.
        """
        await self._wait_for_turn()
        thread = self._resting.pop() if self._resting else _Thread()
        connection = AsyncConnection(thread, self._engine)
        try:
            await thread.call(connection.begin)
            yield connection
        except BaseException:
            with suppress(Exception):  # what went wrong before says more
                await self._last(thread, connection.undo)
            raise
        await self._last(thread, connection.finish)

    async def aclose(self) -> None:
        """Close every connection that is not in use; those that are, when they are given back."""
        self._closed = True
        closing = _Thread()
        try:
            await closing.call(self._engine.dispose)
        finally:
            for thread in (closing, *self._resting):
                thread.end()
            self._resting.clear()

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            message = "The database is busy; please try again in a moment."
            raise errors.StorageUnavailableError(message, retry_after_s=_BUSY_RETRY_S) from None

    async def _last(self, thread: _Thread, work: Callable[[], None]) -> None:
        """The last call of a transaction, after which the next one may have the thread, whoever still waits for this."""
        done = thread.call(work)
        done.add_done_callback(lambda _: self._rest(thread))
        await asyncio.shield(done)

    def _rest(self, thread: _Thread) -> None:
        if self._closed:
            thread.end()
        else:
            self._resting.append(thread)
        self._turns.release()


class _Thread:
    """A thread that makes calls, one after the other."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon, since a statement that hangs must not keep the process.
        threading.Thread(target=self._work, name="database connection", daemon=True).start()

    def call(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        """Call ``work`` there, after what was asked for before, whether or not anybody waits for the result."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def make() -> None:
            try:
                settle = functools.partial(_settle, future, work(*args, **kwargs), None)
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
                settle = functools.partial(_settle, future, None, error)
            with suppress(RuntimeError):  # the loop has been closed, so nobody waits any more
                loop.call_soon_threadsafe(settle)

        self._calls.put(make)
        return future

    def end(self) -> None:
        """End it once it has nothing left to do; returns at once."""
        self._calls.put(None)

    def _work(self) -> None:
        while (make := self._calls.get()) is not None:
            make()
            del make  # else its result would live until the next call


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
