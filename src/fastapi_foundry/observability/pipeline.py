"""The way of a record from any thread to the files: a bounded queue and one thread that writes.

A caller never waits: what does not fit into the queue is dropped, counted, and said in a warning as soon
as there is room again. A record is in its file 20 ms later at the most, and at once when the pipeline is
closed.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fastapi_foundry.observability.handlers import Console, RotatingFile
from fastapi_foundry.observability.records import Event, Record, as_event, as_json_line, as_text_line

__all__ = ["Pipeline", "Route", "Thresholds", "activate", "active", "deactivate"]

# Waking the writer for each record would cost more than writing it: 20 ms of records are written together.
_GATHER_S: Final = 0.02
_BATCH_RECORDS: Final = 1000
_CAPACITY_RECORDS: Final = 10_000
_CLOSE_TIMEOUT_S: Final = 5.0


class Route(NamedTuple):
    """A file, the records that belong there, and whether as JSON or as text."""

    file: RotatingFile
    takes: Callable[[Record], bool]
    structured: bool = False


class Thresholds(NamedTuple):
    """The lowest level that reaches the files and the console."""

    file: int
    console: int

    @property
    def lowest(self) -> int:
        """The level below which a record is not even made."""
        return min(self.file, self.console)


class Pipeline:
    """Takes records from every thread (:meth:`submit`) and owns the thread that writes them.

    Args:
        process: ``gateway``, ``service`` or ``cli``; every record says it.
        routes: The files.
        thresholds: By mode; ``None`` is the key of loggers without a mode of their own.
        verbose: Dev mode: the console is coloured and records say where they come from.
        capacity: Records that may wait.
    """

    def __init__(
        self,
        process: str,
        routes: Sequence[Route],
        thresholds: dict[str | None, Thresholds],
        *,
        verbose: bool,
        capacity: int = _CAPACITY_RECORDS,
    ) -> None:
        self._process = process
        self._routes = tuple(routes)
        self._thresholds = thresholds
        self.lowest: Final = {mode: levels.lowest for mode, levels in thresholds.items()}
        self.verbose: Final = verbose
        self._capacity = capacity
        self._pid = os.getpid()
        colour = Console.wants_colour()
        self._consoles = {
            None: Console(verbose=verbose, colour=colour),
            "dev": Console(verbose=True, colour=colour),
            "prod": Console(verbose=False, colour=False),
        }
        self._queue: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._drops = threading.Lock()
        self._dropped = 0
        self._dropped_said = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Records that found no place in the queue, or that no file took, since the start."""
        return self._dropped

    def submit(self, record: Record) -> None:
        """Hand a record over; never waits, never raises."""
        if self._queue.qsize() >= self._capacity:
            self._count_dropped(1)
        else:
            self._queue.put(record)

    def close(self) -> None:
        """Write what waits, then close the files; waits 5 s at the most."""
        if not self._closing.is_set():
            self._closing.set()
            self._queue.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _count_dropped(self, count: int) -> None:
        with self._drops:
            self._dropped += count

    def _run(self) -> None:
        ended = False
        while not ended:
            first = self._queue.get()
            if first is not None:
                self._closing.wait(_GATHER_S)
            batch, ended = self._drain(first)
            try:
                self._write(batch)
            except Exception as error:  # noqa: BLE001 - the writer must outlive any record; what is lost is counted
                self._count_dropped(len(batch))
                self._complain(error)
        for route in self._routes:
            route.file.close()

    def _drain(self, first: Record | None) -> tuple[list[Record], bool]:
        batch: list[Record] = []
        item = first
        while item is not None:
            batch.append(item)
            if len(batch) >= _BATCH_RECORDS:
                return batch, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, False
        # What came after the end was asked for still counts.
        while True:
            try:
                late = self._queue.get_nowait()
            except queue.Empty:
                return batch, True
            if late is not None:
                batch.append(late)

    def _write(self, batch: list[Record]) -> None:
        if self._dropped > self._dropped_said:
            batch.append(self._drop_report())
        lines: list[list[bytes]] = [[] for _ in self._routes]
        shown: dict[str | None, list[Event]] = {}
        for record in batch:
            event = as_event(record, self._process, self._pid)
            levels = self._thresholds[record.mode]
            if record.level >= levels.file:
                self._distribute(record, event, lines)
            if record.level >= levels.console:
                shown.setdefault(record.mode, []).append(event)
        for route, text in zip(self._routes, lines, strict=True):
            if text:
                self._write_file(route.file, text)
        for mode, events in shown.items():
            try:
                self._consoles[mode].write(events)
            except (OSError, ValueError):
                self._consoles.pop(mode)
                self._consoles[mode] = _NoConsole(verbose=False, colour=False)

    def _distribute(self, record: Record, event: Event, lines: list[list[bytes]]) -> None:
        text: bytes | None = None
        for route, into in zip(self._routes, lines, strict=True):
            if not route.takes(record):
                continue
            if route.structured:
                into.append(as_json_line(event))
            else:
                if text is None:
                    text = as_text_line(event).encode("utf-8", "backslashreplace")
                into.append(text)

    def _write_file(self, file: RotatingFile, lines: list[bytes]) -> None:
        try:
            file.write(lines)
        except OSError as error:
            self._count_dropped(len(lines))
            self._complain(error)

    def _drop_report(self) -> Record:
        dropped = self._dropped
        count, self._dropped_said = dropped - self._dropped_said, dropped
        fields = {"dropped": count, "dropped_total": dropped, "capacity": self._capacity}
        return Record(time.time(), logging.WARNING, __name__, "log records were dropped", fields, None)

    def _complain(self, error: Exception) -> None:
        """Standard error is all that is left when the log itself fails."""
        if sys.stderr is not None:
            try:
                sys.stderr.write(f"fastapi-foundry: log records were lost: {type(error).__name__}: {error}\n")
            except (OSError, ValueError):
                return


class _NoConsole(Console):
    def write(self, events: object) -> None:
        """Nobody reads any more."""


# The one pipeline of this process; loggers are made at import and find it here when they are used.
_active: Pipeline | None = None


def active() -> Pipeline | None:
    """The pipeline in force; None before ``configure_logging`` and after its handle was closed."""
    return _active


def activate(pipeline: Pipeline) -> None:
    """Make ``pipeline`` the one in force."""
    global _active  # noqa: PLW0603 - logging is process-wide by nature; this is its one variable
    _active = pipeline


def deactivate(pipeline: Pipeline) -> None:
    """Put ``pipeline`` out of force, unless another has taken its place."""
    global _active  # noqa: PLW0603 - as above
    if _active is pipeline:
        _active = None
