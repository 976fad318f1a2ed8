"""The service's handle on one runner process: frames out, frames in, and the news of its end.

Belongs to the event loop that started it; nothing here blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import orjson

from fastapi_foundry.daemon import frames
from fastapi_foundry.daemon.cancel_watch import CANCEL_TIMEOUT_S, CancelWatch
from fastapi_foundry.daemon.runner_call import End, RunnerCall, end_from_frame
from fastapi_foundry.daemon.runner_end import RunnerStartError, end_in_words
from fastapi_foundry.daemon.stderr_tail import StderrTail
from fastapi_foundry.errors import EngineFailedError, FoundryError

__all__ = ["RunnerProcess", "RunnerStartError"]

_LAST_FRAMES_S: Final = 0.3


class RunnerProcess(asyncio.SubprocessProtocol):
    """A running runner; made by ``start``.

    Attributes:
        pid: Its process id.
        ready: What its ready frame said.
        tokens_generated: Tokens that its ended requests generated, cancelled ones included.
        requests: Requests that have ended.
        cancelled: How many of them were cancelled.
        fault: Why it was killed, if it was for what it did; empty otherwise.
    """

    def __init__(
        self,
        on_exit: Callable[[RunnerProcess], None],
        on_stderr: Callable[[str], None],
        on_stuck: Callable[[RunnerProcess], None],
        cancel_timeout_s: float,
    ) -> None:
        self.pid = 0
        self.ready: dict[str, Any] = {}
        self.tokens_generated = 0
        self.requests = 0
        self.cancelled = 0
        self.fault = ""
        self._on_exit = on_exit
        self._stderr = StderrTail(on_stderr)
        self._transport: asyncio.SubprocessTransport | None = None
        self._stdin: asyncio.WriteTransport | None = None
        self._calls: dict[int, RunnerCall] = {}
        self._ids = itertools.count(1)
        self._rest = b""
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._exited: asyncio.Future[int] = loop.create_future()
        self._ending: FoundryError | None = None
        self._watch = CancelWatch(cancel_timeout_s, self._calls.values, lambda: on_stuck(self), self._distrust)

    @classmethod
    async def start(
        cls,
        init: dict[str, Any],
        *,
        timeout_s: float,
        env: Mapping[str, str],
        on_exit: Callable[[RunnerProcess], None],
        on_stderr: Callable[[str], None],
        on_stuck: Callable[[RunnerProcess], None] = lambda _runner: None,
        cancel_timeout_s: float = CANCEL_TIMEOUT_S,
        module: str = "fastapi_foundry.daemon.runner",
    ) -> RunnerProcess:
        """Start a runner and wait until it is ready.

        Args:
            init: The first frame.
            timeout_s: How long it may take, in seconds; it is killed after that.
            env: Its whole environment.
            on_exit: Called once if it ends after it was ready, for whatever reason.
            on_stderr: Called with each line of its stderr.
            on_stuck: Called once if it cannot stop a request; it should get no more, and ends by itself.
            cancel_timeout_s: See ``CancelWatch``.
            module: What to run instead of the runner; tests of its supervision misbehave here.

        Raises:
            RunnerStartError: It ended, failed, or was not ready in time.
        """
        loop = asyncio.get_running_loop()
        command = (sys.executable, "-m", module)
        try:
            _, runner = await loop.subprocess_exec(
                lambda: cls(on_exit, on_stderr, on_stuck, cancel_timeout_s),
                *command,
                env=dict(env),
                **_apart_from_the_terminal(),
            )
        except OSError as error:
            raise RunnerStartError(f"its process cannot be started: {error.strerror}", crashed=False) from error
        try:
            runner.send(init)
            async with asyncio.timeout(timeout_s):
                runner.ready = await asyncio.shield(runner._started)  # noqa: SLF001 - its own class
        except TimeoutError:
            await runner.kill()
            raise RunnerStartError(f"it was not ready within {timeout_s:g} s", crashed=False) from None
        except BaseException:
            await runner.kill()
            raise
        return runner

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return not self._exited.done()

    @property
    def last_words(self) -> str:
        """The last line of its stderr that says something; for the log."""
        return self._stderr.last_words

    @property
    def status(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._exited.result() if self._exited.done() else None

    def call(self, operation: str, body: object, on_settled: Callable[[End], None] = lambda _end: None) -> RunnerCall:
        """Send a request.

        Args:
            operation: ``chat``, ``embeddings``, ``count``, or the catalogue worker's.
            body: What ``orjson`` can encode; an ``orjson.Fragment`` goes through untouched.
            on_settled: Called once when the runner is done with it, cancelled or not, or has died.
        """
        call = RunnerCall(next(self._ids), self._cancel, on_settled)
        if not self.alive or self._ending is not None:
            fact = self._ending or EngineFailedError("The engine's process has ended.")
            call.settle(End(fact=fact, untouched=self._ending is None))
            return call
        self._calls[call.id] = call
        self.send({"op": operation, "id": call.id, "body": body})
        return call

    def send(self, message: dict[str, Any]) -> None:
        """Write one frame; what is written to a dead runner is lost, and its death is announced otherwise."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(frames.encode(message))

    async def stop(self, reason: FoundryError) -> None:
        """End it and wait until it has ended; what it was doing ends with ``reason``."""
        self._ending = reason
        self._settle_all(reason)
        if self._stdin is not None:
            self._stdin.close()
        try:
            async with asyncio.timeout(2.0):
                await asyncio.shield(self._exited)
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """End it at once and wait until it has ended."""
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError):
                self._transport.kill()
        await asyncio.shield(self._exited)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The process was started."""
        # uvloop's transports are of no asyncio class, so casts it is.
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Frames on its stdout, words on its stderr."""
        if fd == 1:
            *lines, self._rest = (self._rest + data).split(b"\n")
            try:
                for line in lines:
                    self._frame(line)
            except (ValueError, KeyError, TypeError) as error:
                self._distrust(f"it sent a frame that makes no sense: {error}")
            if len(self._rest) > frames.MAX_LINE_BYTES:
                self._distrust("it sent a frame without an end")
            return
        self._stderr.feed(data)

    def process_exited(self) -> None:
        """The process has ended; its pipes may not have."""
        # Its last frames may still be in the pipe; a grandchild that holds the pipe must not hold us.
        asyncio.get_running_loop().call_later(_LAST_FRAMES_S, self._conclude)

    def connection_lost(self, exc: Exception | None) -> None:
        """Process and pipes have ended."""
        del exc
        self._conclude()

    def _conclude(self) -> None:
        """Announce the end, once."""
        if self._exited.done():
            return
        transport = self._transport
        status = transport.get_returncode() if transport is not None else None
        if transport is not None:
            transport.close()
        was_ready = self._started.done() and not self._started.cancelled() and self._started.exception() is None
        self._exited.set_result(status if status is not None else -1)
        if not self._started.done():
            self._started.set_exception(RunnerStartError(end_in_words(status), crashed=True))
            # Whoever waited may have gone; without this the loop would complain about an unread exception.
            self._started.exception()
        self._settle_all(
            self._ending
            or EngineFailedError(
                "The engine's process ended unexpectedly while it worked on this request.",
                status=status,
                fault=self.fault or None,
            )
        )
        if was_ready:
            self._on_exit(self)

    def _cancel(self, call: RunnerCall) -> None:
        self.send({"op": "cancel", "id": call.id})
        self._watch.cancelled(call)

    def _distrust(self, reason: str) -> None:
        """Kill a runner that no longer keeps to the protocol; its end is announced as any other."""
        if self._exited.done() or self._ending is not None:
            return
        self.fault = reason
        self._stderr.note(reason)
        if self._transport is not None:
            self._transport.kill()

    # Frames.

    def _frame(self, line: bytes) -> None:
        chunk = frames.split_chunk(line)
        if chunk is not None:
            call = self._calls.get(chunk[0])
            if call is not None:
                call.add_chunk(chunk[1])
            return
        message = orjson.loads(line)
        event = message["event"]
        if event == "ready":
            self._started.set_result(message)
        elif event == "failed":
            if not self._started.done():
                self._started.set_exception(RunnerStartError(message["message"], crashed=False))
        elif event == "begun":
            call = self._calls.get(message["id"])
            if call is not None:
                call.note_begun()
        else:
            self._finish(message)

    def _finish(self, message: dict[str, Any]) -> None:
        call = self._calls.pop(message["id"], None)
        end = end_from_frame(message)
        self.tokens_generated += end.tokens
        self.requests += 1
        self.cancelled += end.cancelled
        if call is not None:
            call.settle(end)
        self._watch.ended()

    def _settle_all(self, fact: FoundryError) -> None:
        calls = list(self._calls.values())
        self._calls.clear()
        for call in calls:
            call.settle(End(fact=fact, untouched=self._ending is None and not call.begun))


def _apart_from_the_terminal() -> dict[str, Any]:
    if os.name == "nt":
        return {"creationflags": 0x00000200}  # CREATE_NEW_PROCESS_GROUP
    return {"start_new_session": True}
