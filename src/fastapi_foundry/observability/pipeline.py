"""The way of a record from any thread to the files: a bounded queue and one thread that writes.

A caller never waits: what does not fit into the queue is dropped, counted, and said in a warning as soon
as there is room again. A record is in its file 50 ms later at the most, and at once when the pipeline is
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

from fastapi_foundry.observability.exchange_lines import ExchangeLines, as_records
from fastapi_foundry.observability.handlers import Console, RotatingFile
from fastapi_foundry.observability.lines import ShortWay
from fastapi_foundry.observability.records import (
    Event,
    ExchangeItems,
    Record,
    RecordItems,
    as_event,
    as_json_line,
    as_text_line,
)
from fastapi_foundry.observability.shapes import Files, Learner

__all__ = ["Pipeline", "Route", "Thresholds", "activate", "active", "deactivate"]

# Waking the writer for each record would cost more than writing it, and what it does is cheaper the more of it is done in a
# row. Measured in a gateway with 3,000 requests a second: 20 ms cost 10 µs more for each, 100 ms nothing less.
_GATHER_S: Final = 0.05
_BATCH_RECORDS: Final = 1000
_CAPACITY_RECORDS: Final = 10_000
_CLOSE_TIMEOUT_S: Final = 5.0
_EXCHANGE_ITEMS: Final = 3  # by their number they are told from records


class Route(NamedTuple):
    """A file, the records that belong there, and whether as JSON or as text.

    ``takes`` judges by what comes again: logger, level, message, kind and mode.
    """

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
        capacity: Records that may wait; the two of a whole request wait as one.
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
        # What the lines of one batch are gathered in, for each file.
        self._lines: tuple[list[bytes], ...] = tuple([] for _ in self._routes)
        self._short_way = ShortWay(process, self._pid, self._files)
        self._exchange_lines = ExchangeLines(Learner(process, self._pid, self._files))
        # A list, since adding to one and cutting its beginning off are each done at once, and cost a quarter of what
        # a queue's put and get do. The queue beside it is there to wake the writer; signal handlers may use both.
        self._waiting: list[RecordItems | ExchangeItems] = []
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asleep = False
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

    def submit(self, record: RecordItems) -> None:
        """Hand a record over; never waits, never raises."""
        if len(self._waiting) >= self._capacity:
            self._count_dropped(1)
            return
        self._waiting.append(record)
        if self._asleep:
            self._asleep = False
            self._wake.put(None)

    def submit_exchange(self, exchange: ExchangeItems) -> None:
        """The same for the two records of a whole request."""
        if len(self._waiting) >= self._capacity:
            self._count_dropped(2)
            return
        self._waiting.append(exchange)
        if self._asleep:
            self._asleep = False
            self._wake.put(None)

    def close(self) -> None:
        """Write what waits, then close the files; waits 5 s at the most."""
        if not self._closing.is_set():
            self._closing.set()
            self._wake.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _count_dropped(self, count: int) -> None:
        with self._drops:
            self._dropped += count

    def _run(self) -> None:
        while not self._closing.is_set():
            self._sleep()
            self._closing.wait(_GATHER_S)
            self._write_waiting()
            # A full batch is the beginning of more, which would soon fill the queue.
            while len(self._waiting) >= _BATCH_RECORDS:
                self._write_waiting()
        # What came after the end was asked for still counts.
        while self._waiting:
            self._write_waiting()
        for route in self._routes:
            route.file.close()

    def _sleep(self) -> None:
        """Until there is a record, or the end."""
        self._asleep = True
        # A record is added before it is asked who sleeps, and here it is the other way round: none is overlooked.
        if not self._waiting:
            self._wake.get()
        self._asleep = False

    def _write_waiting(self) -> None:
        batch = self._waiting[:_BATCH_RECORDS]
        del self._waiting[: len(batch)]
        try:
            self._write(batch)
        except Exception as error:  # noqa: BLE001 - the writer must outlive any record; what is lost is counted
            self._count_dropped(len(batch))
            for lines in self._lines:
                lines.clear()
            self._complain(error)

    def _write(self, batch: list[RecordItems | ExchangeItems]) -> None:
        if self._dropped > self._dropped_said:
            batch.append(self._drop_report())
        shown: dict[str | None, list[Event]] = {}
        for items in batch:
            self._gather(items, shown)
        for route, lines in zip(self._routes, self._lines, strict=True):
            if lines:
                self._write_file(route.file, lines)
                lines.clear()
        self._show(shown)

    def _gather(self, items: RecordItems | ExchangeItems, shown: dict[str | None, list[Event]]) -> None:
        try:
            if len(items) == _EXCHANGE_ITEMS:
                if not self._exchange_lines.add(items):
                    for record in as_records(items):
                        self._gather(record, shown)
            elif not self._short_way.add(items):
                self._add(Record._make(items), shown)
        except Exception as error:  # noqa: BLE001 - a record that cannot be shown takes no other one with it
            self._count_dropped(1)
            self._complain(error)

    def _show(self, shown: dict[str | None, list[Event]]) -> None:
        for mode, events in shown.items():
            try:
                self._consoles[mode].write(events)
            except (OSError, ValueError):
                self._consoles.pop(mode)
                self._consoles[mode] = _NoConsole(verbose=False, colour=False)

    def _add(self, record: Record, shown: dict[str | None, list[Event]]) -> None:
        event = as_event(record, self._process, self._pid)
        levels = self._thresholds[record.mode]
        if record.level >= levels.file:
            text: bytes | None = None
            for route, lines in zip(self._routes, self._lines, strict=True):
                if not route.takes(record):
                    continue
                if route.structured:
                    lines.append(as_json_line(event))
                    continue
                if text is None:
                    text = as_text_line(event).encode("utf-8", "backslashreplace")
                lines.append(text)
        if record.level >= levels.console:
            shown.setdefault(record.mode, []).append(event)

    def _files(self, record: Record) -> Files | None:
        """Where a record goes; None if not into files, or not into files alone."""
        levels = self._thresholds[record.mode]
        if not levels.file <= record.level < levels.console:
            return None
        takers = [pair for pair in zip(self._routes, self._lines, strict=True) if pair[0].takes(record)]
        return Files(
            tuple(lines for route, lines in takers if not route.structured),
            tuple(lines for route, lines in takers if route.structured),
        )

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
