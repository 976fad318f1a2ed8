"""Clients that read streams and note, for each chunk, when it was written by the stub and when it arrived here.

Both times are of the one clock that all processes of a machine share (``time.monotonic_ns``).
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import httptools
from benchmarks.proxies.load import LoadError, Target
from benchmarks.proxies.stub import DIGITS, MARK

STREAMS = 100
EVERY_MS = 5
OPENING_S = 0.5
"""The streams of a turn are opened one after the other within this time."""
FIRST_BYTE_EVERY_S = 0.02
LATE_S = 2.0
"""A proxy that is behind by this much at the end has not kept up; its streams are then cut off."""


@dataclass(frozen=True)
class Streamed:
    """What a turn of streams gave.

    Attributes:
        cpu_us: The proxy's CPU time for each chunk, in microseconds.
        way_us: Median of a chunk's way from the stub's write to the client, in microseconds.
        jitter_ms: 99th percentile of how much the gap between two chunks on arrival differs from the gap between them
            when they were written, in milliseconds.
        first_ms: Median time from a request to the first event of its stream, beside all the others, in milliseconds;
            connections are new.
        kept_up: The share of the chunks that arrived before the streams were cut off.
    """

    cpu_us: float
    way_us: float
    jitter_ms: float
    first_ms: float
    kept_up: float
    per_s: float


class Stream(asyncio.Protocol):
    """One connection and the one stream that is asked for on it.

    Attributes:
        sent_ns, came_ns: For each chunk; ``asked_ns`` is when the request was written.
        ended: Set when the answer is complete, to an error where it is not what it should be.
    """

    def __init__(self, request: bytes) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_ns, self.came_ns = array("q"), array("q")
        self.asked_ns = 0
        self._request, self._parser, self._rest, self._now_ns = request, httptools.HttpResponseParser(self), b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is one by its methods alone
        self.asked_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now_ns = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"no HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        if self._rest:
            body, self._rest = self._rest + body, b""
        at = body.find(MARK)
        while at >= 0:
            if len(body) <= at + DIGITS:
                self._rest = body[at:]
                return
            self.sent_ns.append(int(body[at + 1 : at + 1 + DIGITS]))
            self.came_ns.append(self._now_ns)
            at = body.find(MARK, at + DIGITS)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._end("" if status == 200 else f"status {status}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost before the end: {exc}")

    def cut(self) -> None:
        """Leave, whatever is still to come and whatever has gone wrong."""
        self._end("")
        self.ended.exception()

    def _end(self, problem: str) -> None:
        if not self.ended.done():
            if problem:
                self.ended.set_exception(LoadError(problem))
            else:
                self.ended.set_result(None)
        self._transport.close()

    def gaps_ns(self, since_ns: int = 0) -> Iterator[int]:
        """How much longer (or shorter, below 0) each gap was on arrival than when written; of chunks since a time."""
        before = 0
        for sent, came in zip(self.sent_ns, self.came_ns, strict=True):
            way = came - sent
            if before and sent >= since_ns:
                yield way - before
            before = way


async def opened(target: Target, *, count: int, chunks: int, every_ms: int, within_s: float) -> list[Stream]:
    """So many streams, each on a connection of its own, begun evenly over a time."""
    loop = asyncio.get_running_loop()
    request = target.request(f"chunks={chunks} every_ms={every_ms} ", stream=True)
    made, began = [], time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / count * within_s - time.monotonic()))
        try:
            _, stream = await loop.create_connection(lambda: Stream(request), "127.0.0.1", target.port)
        except OSError as error:
            raise LoadError(f"{target.name}: {error}") from error
        made.append(stream)
    return made


async def streamed(target: Target, *, seconds: float) -> Streamed:
    """``STREAMS`` streams at once; what is measured is the time between the last one's begin and the end of the first.

    Raises:
        LoadError: A stream was refused or broke off.
    """
    gc.collect()
    gc.disable()  # a pause here would be taken for one of the proxy
    chunks = int((seconds + OPENING_S) * 1000 / EVERY_MS)
    streams: list[Stream] = []
    try:
        streams = await opened(target, count=STREAMS, chunks=chunks, every_ms=EVERY_MS, within_s=OPENING_S)
        since_ns, cpu_s = time.monotonic_ns(), target.cpu_s()
        firsts = await _first_bytes(target, until=time.monotonic() + seconds - 0.1)
        until_ns, cpu_s = time.monotonic_ns(), target.cpu_s() - cpu_s
        done, late = await asyncio.wait([stream.ended for stream in streams], timeout=OPENING_S + LATE_S)
        for ended in done:
            ended.result()
        return _figures(streams, since_ns, until_ns, cpu_s, firsts, kept_up=not late)
    except LoadError as error:
        raise LoadError(f"{target.name}: {error}") from None
    finally:
        for stream in streams:
            stream.cut()
        gc.enable()


def _figures(
    streams: list[Stream], since_ns: int, until_ns: int, cpu_s: float, firsts: list[float], *, kept_up: bool
) -> Streamed:
    came = sum(since_ns <= at < until_ns for stream in streams for at in stream.came_ns)
    ways = sorted(
        arrived - sent
        for stream in streams
        for sent, arrived in zip(stream.sent_ns, stream.came_ns, strict=True)
        if since_ns <= sent < until_ns
    )
    gaps = sorted(abs(gap) for stream in streams for gap in stream.gaps_ns(since_ns))
    if not came or not ways or not gaps:
        raise LoadError("hardly a chunk came through")
    due = len(streams) * (until_ns - since_ns) / (EVERY_MS * 1e6)
    return Streamed(
        cpu_us=cpu_s / came * 1e6,
        way_us=ways[len(ways) // 2] / 1000,
        jitter_ms=gaps[len(gaps) * 99 // 100] / 1e6,
        first_ms=sorted(firsts)[len(firsts) // 2] if firsts else math.inf,
        kept_up=1.0 if kept_up else min(1.0, came / due),
        per_s=came / (until_ns - since_ns) * 1e9,
    )


async def _first_bytes(target: Target, *, until: float) -> list[float]:
    """Short streams, one after the other beside those that run: the time to the first event of each, in milliseconds."""
    loop, firsts = asyncio.get_running_loop(), []
    request = target.request("chunks=1 every_ms=1 ", stream=True)
    while time.monotonic() < until:
        _, stream = await loop.create_connection(lambda: Stream(request), "127.0.0.1", target.port)
        try:
            async with asyncio.timeout(max(0.1, until - time.monotonic())):
                await asyncio.shield(stream.ended)
        except TimeoutError:
            break
        finally:
            stream.cut()
        firsts.append((stream.came_ns[0] - stream.asked_ns) / 1e6)
        await asyncio.sleep(FIRST_BYTE_EVERY_S)
    return firsts
