"""Clients that want whole answers: each sends its request again as soon as the last answer is complete.

They are bare protocols on uvloop. An answer that begins with status 200 and ends with the stub's own body is complete,
however its head looks; only what arrives otherwise (in pieces, or written anew by the proxy) is given to a parser.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools
from benchmarks.proxies.stub import COMPLETION, MODEL

CHAT = "/v1/chat/completions"
PROMPT_BYTES = 400
_OK = b"HTTP/1.1 200 "
_CONNECT_S = 5.0


class LoadError(Exception):
    """A proxy answered otherwise than it should, or not at all."""


@dataclass(frozen=True)
class Target:
    """Where requests go.

    Attributes:
        cpu_s: CPU time so far of what is measured, in seconds.
        key: Shown as bearer token; to proxies that want none, too, so that all read the same heads.
    """

    name: str
    port: int
    cpu_s: Callable[[], float] = field(repr=False)
    key: str = "none"

    def request(self, prompt: str = "", *, stream: bool = False) -> bytes:
        """A whole request; the prompt is filled up to ``PROMPT_BYTES``."""
        message = {"role": "user", "content": prompt.ljust(PROMPT_BYTES, "x")}
        document = {"model": MODEL, "messages": [message], **({"stream": True} if stream else {})}
        body = json.dumps(document, separators=(",", ":")).encode()
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nauthorization: Bearer {self.key}\r\n"
            f"accept: */*\r\nuser-agent: benchmark\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Whole:
    """What a turn of whole answers gave; times in microseconds, ``core`` is the share of a core that the proxy took."""

    per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    core: float


class Client(asyncio.Protocol):
    """One connection, until the time is up; ``ended`` is then set, to an error where something went wrong."""

    def __init__(self, request: bytes, until_ns: int, took_ns: array[int]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request, self._until_ns, self._took_ns = request, until_ns, took_ns
        self._parser: httptools.HttpResponseParser | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is one by its methods alone
        self._began_ns = time.perf_counter_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._parser is None and data.startswith(_OK) and data.endswith(COMPLETION):
            self._answered()
            return
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"its answer is no HTTP: {error}: {data[:300]!r}")

    def on_message_complete(self) -> None:
        assert self._parser is not None
        status, self._parser = self._parser.get_status_code(), None
        if status == 200:
            self._answered()
        else:
            self._fail(f"status {status}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"connection lost: {exc}")

    def _answered(self) -> None:
        now_ns = time.perf_counter_ns()
        self._took_ns.append(now_ns - self._began_ns)
        if now_ns < self._until_ns:
            self._began_ns = now_ns
            self._transport.write(self._request)
        else:
            if not self.ended.done():
                self.ended.set_result(None)
            self._transport.close()

    def _fail(self, why: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(LoadError(why))
        self._transport.close()


async def whole_answers(target: Target, *, clients: int, seconds: float) -> Whole:
    """So many clients at once for so long, after a warm-up that does not count.

    Raises:
        LoadError: An answer was not 200, or did not come.
    """
    await _turn(target, clients, min(0.3, seconds))
    return await _turn(target, clients, seconds)


async def _turn(target: Target, clients: int, seconds: float) -> Whole:
    loop, took_ns = asyncio.get_running_loop(), array("q")
    request = target.request()
    gc.collect()
    gc.disable()  # a pause here would be taken for one of the proxy
    try:
        cpu_s, began = target.cpu_s(), time.perf_counter()
        until_ns = time.perf_counter_ns() + int(seconds * 1e9)
        made = [
            (await loop.create_connection(lambda: Client(request, until_ns, took_ns), "127.0.0.1", target.port))[1]
            for _ in range(clients)
        ]
        async with asyncio.timeout(seconds + 30):
            await asyncio.gather(*(client.ended for client in made))
        elapsed_s = time.perf_counter() - began
        used_s = target.cpu_s() - cpu_s
    except (OSError, TimeoutError) as error:
        raise LoadError(f"{target.name}: {error or 'no answer in time'}") from error
    except LoadError as error:
        raise LoadError(f"{target.name}: {error}") from None
    finally:
        gc.enable()
    ordered, count = sorted(took_ns), len(took_ns)
    return Whole(
        per_s=count / elapsed_s,
        p50_us=ordered[count // 2] / 1000,
        p99_us=ordered[min(count - 1, count * 99 // 100)] / 1000,
        cpu_us=used_s / count * 1e6,
        core=used_s / elapsed_s,
    )


async def first_answer(target: Target, *, within_s: float, alive: Callable[[], bool]) -> None:
    """Ask again and again until there is an answer.

    Raises:
        LoadError: None came in time, or the process has ended.
    """
    until, why = time.monotonic() + within_s, "nobody listens"
    loop, request = asyncio.get_running_loop(), target.request()
    while time.monotonic() < until and alive():
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, client = await loop.create_connection(
                    lambda: Client(request, 0, array("q")), "127.0.0.1", target.port
                )
                await client.ended
        except (OSError, TimeoutError):
            await asyncio.sleep(0.005)
        except LoadError as error:
            why = str(error)
            await asyncio.sleep(0.005)
        else:
            return
    raise LoadError(f"{target.name} gave no answer: {why}")
