"""A runner: one process that holds one loaded model, or plays the catalogue's worker.

It speaks ``frames`` over its own stdin and stdout and leaves at once when stdin ends, which the operating system
sees to even when the service is killed. Threads, no event loop: the engine's calls block and release the GIL.
"""

from __future__ import annotations

import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import orjson

from fastapi_foundry.daemon import frames
from fastapi_foundry.daemon.job import CancelledByClientError, Job
from fastapi_foundry.daemon.kept_sessions import KeepLimits
from fastapi_foundry.daemon.offline_guard import deny_network
from fastapi_foundry.errors import FoundryError

if TYPE_CHECKING:
    from fastapi_foundry.daemon.engine_session import LoadedModel

__all__ = ["main"]

# The engine ignores a cancel that comes before its decode has begun.
_CANCEL_REPEAT_S: Final = 0.01
_LEAVE_S: Final = 1.0
Work = tuple[Job, Callable[[Job], bytes | None]]


class FrameWriter:
    """The way out: whole lines from any thread. A service that no longer reads ends the process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """Write one frame; blocks while the pipe is full."""
        try:
            with self._lock:
                view = memoryview(line)
                while view:
                    view = view[os.write(self._fd, view) :]
        except OSError:
            # Nobody reads, so stdin has ended too, and its reader is about to end the process in order.
            time.sleep(_LEAVE_S)
            os._exit(1)

    def send(self, **message: Any) -> None:
        """Encode and write one frame."""
        self.write(frames.encode(message))


class Runner:
    """The request side of a runner: a bounded set of threads that serve one model."""

    def __init__(self, model: LoadedModel, writer: FrameWriter, threads: int) -> None:
        self._model = model
        self._writer = writer
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        # The service admits no more than its own queue holds, which bounds this one.
        self._work: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._cancels: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"decode-{number}", daemon=True).start()
        threading.Thread(target=self._repeat_cancels, name="cancel", daemon=True).start()

    def handle(self, message: dict[str, Any]) -> None:
        """Take one frame from the service; never blocks."""
        operation, request_id = message["op"], message.get("id", 0)
        if operation == "cancel":
            with self._lock:
                job = self._jobs.get(request_id)
            if job is not None:
                job.cancel()
                self._cancels.put(job)
            return
        body = message["body"]
        calls: dict[str, Callable[[Job], bytes | None]] = {
            "chat": lambda job: self._model.chat(body, job, lambda data: self._chunk(job, data)),
            "embeddings": lambda job: self._model.embeddings(body, job),
            "count": lambda job: self._model.count(body, job),
        }
        job = Job(request_id)
        with self._lock:
            self._jobs[request_id] = job
        self._work.put((job, calls[operation]))

    def _chunk(self, job: Job, data: bytes) -> None:
        self._writer.write(frames.chunk_line(job.id, data))

    def _serve(self) -> None:
        while True:
            job, call = self._work.get()
            started = time.perf_counter()
            self._writer.write(frames.begun_line(job.id))
            end = _end_of(job, call)
            with self._lock:
                del self._jobs[job.id]
            if job.cancelled.is_set():
                end["after_cancel"] = job.after_cancel
            self._writer.send(
                **end, id=job.id, tokens=job.tokens, usage=job.usage, duration=time.perf_counter() - started
            )

    def _repeat_cancels(self) -> None:
        stopping: list[Job] = []
        while True:
            if not stopping:
                stopping.append(self._cancels.get())
            while not self._cancels.empty():
                stopping.append(self._cancels.get())
            with self._lock:
                stopping = [job for job in stopping if job.id in self._jobs]
            for job in stopping:
                job.cancel()
            time.sleep(_CANCEL_REPEAT_S)


def _end_of(job: Job, call: Callable[[Job], bytes | None]) -> dict[str, Any]:
    """Run one request and say how it ended; nothing escapes, since a thread must not die of one request."""
    try:
        job.stop_if_cancelled()
        data = call(job)
    except CancelledByClientError:
        return {"event": "error", "code": "cancelled", "message": "The request was cancelled."}
    except FoundryError as fact:
        return _error_frame(fact)
    except Exception as error:  # noqa: BLE001 - top of a worker's loop
        print(f"unexpected: {type(error).__name__}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the service logs it
        return {"event": "error", "code": "engine_failed", "message": "The engine failed unexpectedly."}
    return {"event": "done", "data": None if data is None else orjson.Fragment(data)}


def _error_frame(fact: FoundryError) -> dict[str, Any]:
    frame: dict[str, Any] = {"event": "error", "code": fact.code, "message": fact.message}
    for key in ("param", "prompt_tokens", "context_length"):
        if getattr(fact, key, None) is not None:
            frame[key] = getattr(fact, key)
    return frame


def main() -> None:
    """Play the role that the first frame names, until stdin ends."""
    stdin = os.fdopen(os.dup(0), "rb", buffering=1024 * 1024)
    writer = FrameWriter(os.dup(1))
    # Native code prints to these; neither may read our frames nor write between them.
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    init = _read(stdin)
    if init is None:
        return
    data_dir = Path(init["data_dir"])
    _keep_traces_in(data_dir)
    try:
        if init["role"] == "catalog":
            from fastapi_foundry.daemon.catalog_worker import serve_catalog  # noqa: PLC0415 - loads the engine

            serve_catalog(init, lambda: _read(stdin), writer)
        else:
            _serve_model(init, stdin, writer)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)
        # The engine's own end takes a second and has nothing to save.
        os._exit(0)


def _keep_traces_in(data_dir: Path) -> None:
    """Let the engine write into this process's own directory only.

    It keeps a device id and a queue of telemetry in the user's cache directory, and whatever was queued by a
    process that could not send it would be sent by the next one that can.
    """
    names = ("LOCALAPPDATA", "APPDATA") if os.name == "nt" else ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    for name in names:
        os.environ[name] = str(data_dir)


def _serve_model(init: dict[str, Any], stdin: IO[bytes], writer: FrameWriter) -> None:
    network = deny_network()
    messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_follow, args=(stdin, messages, Path(init["data_dir"])), daemon=True)
    reader.start()
    started = time.perf_counter()
    try:
        from fastapi_foundry.daemon.engine_session import LoadedModel, ModelSpec  # noqa: PLC0415 - loads the engine

        keep = KeepLimits(**init.get("keep", {}))
        model = LoadedModel(ModelSpec(**init["model"]), Path(init["data_dir"]), keep)
    except FoundryError as fact:
        writer.send(event="failed", message=fact.message)
        return
    except ImportError as error:
        writer.send(event="failed", message=f"Foundry Local cannot be used here: {error}")
        return
    runner = Runner(model, writer, init["threads"])
    writer.send(
        event="ready",
        pid=os.getpid(),
        duration=time.perf_counter() - started,
        network=network,
        context_length=model.context_length,
    )
    while (message := messages.get()) is not None:
        runner.handle(message)


def _follow(stdin: IO[bytes], messages: queue.SimpleQueue[dict[str, Any] | None], data_dir: Path) -> None:
    """Hand frames over; leave with the whole process when they end, whatever other threads do."""
    while (message := _read(stdin)) is not None:
        if message["op"] == "shutdown":
            break
        messages.put(message)
    shutil.rmtree(data_dir, ignore_errors=True)
    os._exit(0)


def _read(stdin: IO[bytes]) -> dict[str, Any] | None:
    line = stdin.readline(frames.MAX_LINE_BYTES)
    return dict(orjson.loads(line)) if line.endswith(b"\n") else None


if __name__ == "__main__":
    main()
