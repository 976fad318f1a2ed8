"""Clients that leave the gateway in a certain phase of their request, and what they leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import psutil

from tests.faults.watched import Left, Record
from tests.support.gateway import RunningGateway
from tests.support.http import LONG_ANSWER

__all__ = ["Leaver", "Scene"]

DEMO: Final = "foundry-demo:1"
ENDLESS: Final = "endless:1"
_PATH: Final = "/v1/chat/completions"
# A request that nobody has answered by then hangs.
_DEADLINE_S: Final = 60.0
_GONE_WITHIN_S: Final = 8.0
# Pools of threads grow to their size by and by.
_POOL_THREADS: Final = 8
_CONTENT: Final = b'"content":"'


Moment = Callable[[asyncio.StreamReader], Awaitable[int]]


@dataclass(frozen=True)
class Way:
    """How a request goes through the gateway, and to which model; its answer does not end by itself.

    Attributes:
        head: Further header lines.
        more: Further fields of the body.
    """

    model: str
    head: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    def body(self, text: str, *, stream: bool) -> bytes:
        """A chat request."""
        chat = {"model": self.model, "messages": [{"role": "user", "content": text}], "temperature": 0}
        return json.dumps(chat | {"max_tokens": 4000} | dict(self.more) | {"stream": stream}).encode()


# A plain request, which the gateway answers ahead of its framework where it has a connection to the engine free; the
# same with a header that means nothing and is unusual; and one whose answer has to keep to a schema.
EXPRESS: Final = Way(ENDLESS)
ORDINARY: Final = Way(ENDLESS, head="te: trailers\r\n")
SCHEMA: Final = Way(DEMO, more=LONG_ANSWER)
WAYS: Final = (EXPRESS, ORDINARY, SCHEMA)


@dataclass
class Scene:
    """A gateway, the service behind it, and what can be seen of both.

    Attributes:
        inside: The gateway, where it is in this process.
        words: How long a prompt is to be read, in repetitions of some words.
    """

    url: str
    service_url: str
    record: Record
    gateway: psutil.Process
    service: psutil.Process
    client: httpx2.AsyncClient
    inside: RunningGateway | None = None
    words: int = 780

    async def runners(self) -> list[dict[str, Any]]:
        """The service's word on each runner."""
        answer = await self.client.get(f"{self.service_url}/status")
        return list(answer.json()["runners"])

    async def rest(self) -> list[dict[str, Any]]:
        """Wait until no request is anywhere in the service; its runners."""
        calm = 0
        rows: list[dict[str, Any]] = []
        deadline = time.monotonic() + _DEADLINE_S
        while calm < 2:
            rows = await self.runners()
            is_calm = not any(row["active"] or row["queued"] or row["state"] == "loading" for row in rows)
            calm = calm + 1 if is_calm else 0
            assert time.monotonic() < deadline, f"still busy: {rows}"
            await asyncio.sleep(0.01)
        return rows

    async def say_something(self, model: str, text: str = "Hello") -> None:
        """A request with a short answer; it leaves a connection to the engine behind, which the next one may use."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
        answer = await self.client.post(f"{self.url}{_PATH}", json=body)
        assert answer.status_code == 200, answer.text

    async def footprint(self) -> dict[str, int]:
        """What is open or running, by name; nothing of it may be more afterwards."""
        seen = {}
        processes = {"gateway": self.gateway, "service": self.service}
        processes |= {row["model"]: psutil.Process(row["pid"]) for row in await self.runners() if row["pid"]}
        for name, process in processes.items():
            seen[f"{name} descriptors"] = process.num_fds()
            seen[f"{name} threads"] = process.num_threads()
        seen["service processes"] = len(self.service.children(recursive=True))
        if self.inside is not None:
            seen |= _inside(self.inside)
        return seen

    async def left_behind(self, before: dict[str, int]) -> list[str]:
        """What is more than it was, given some seconds to go."""
        deadline = time.monotonic() + _GONE_WITHIN_S
        while True:
            after = await self.footprint()
            more = [
                f"{name}: {before.get(name, 0)}, now {count}"
                for name, count in after.items()
                if count > before.get(name, 0) + (_POOL_THREADS if name.endswith(" threads") else 0)
            ]
            if not more or time.monotonic() > deadline:
                return more
            await asyncio.sleep(0.2)


def _inside(gateway: RunningGateway) -> dict[str, int]:
    services = gateway.services
    tasks = Counter(task.get_name().rstrip("0123456789") for task in asyncio.all_tasks())
    seen = {f"task {name}": count for name, count in tasks.items()}
    seen["tasks"] = sum(tasks.values())
    seen["lanes active"] = sum(report.active for report in services.admission.snapshot())
    seen["lanes waiting"] = sum(sum(report.waiting.values()) for report in services.admission.snapshot())
    router: Any = services.engine
    seen["engines active"] = sum(routed.active for routed in router.engines.values())
    seen["pieces of work"] = len(services.stopping._interrupts)
    return seen


@dataclass
class Leaver:
    """Sends requests and leaves, at random moments, abruptly or in order.

    Attributes:
        load_s: How long a load takes, about.
        read_s: How long the engine reads the long prompt, about.
    """

    scene: Scene
    random: random.Random = field(default_factory=lambda: random.Random(7))
    load_s: float = 0.3
    read_s: float = 1.6

    async def learn(self) -> None:
        """Measure what the random moments depend on."""
        await self.scene.say_something(DEMO)
        await self.scene.say_something(ENDLESS)
        position, began = self.scene.record.size(), time.monotonic_ns()
        await self.scene.say_something(ENDLESS, self._long_prompt())
        self.read_s = (self.scene.record.since(position)[-1].pieces[0] - began) / 1e9

    async def in_the_prompt(self, number: int, *, stream: bool) -> Left:
        """Leave while the engine reads a long prompt."""
        way = WAYS[number % len(WAYS)]
        await self.scene.say_something(way.model)
        moment_s = self.random.uniform(0.02, 0.9 * self.read_s)
        return await self._one(way.body(self._long_prompt(), stream=stream), way, _after(moment_s), number)

    async def while_it_decodes(self, number: int, *, stream: bool) -> Left:
        """Leave after some tokens."""
        way = WAYS[number % len(WAYS)]
        await self.scene.say_something(way.model)
        moment = _after_pieces(self.random.randint(1, 150)) if stream else _after(self.random.uniform(0.05, 0.4))
        return await self._one(way.body(f"Tell me about number {number}.", stream=stream), way, moment, number)

    async def while_it_loads(self, number: int, *, stream: bool) -> Left:
        """Leave while the model, which was unloaded, is loaded again."""
        answer = await self.scene.client.post(f"{self.scene.service_url}/models/unload/{DEMO}")
        assert answer.status_code == 200, answer.text
        moment = _after(self.random.uniform(0.005, self.load_s))
        return await self._one(SCHEMA.body("Are you there?", stream=stream), SCHEMA, moment, number)

    async def at_any_time(self, number: int, *, stream: bool) -> None:
        """Leave at any time; several may do so at once."""
        way = WAYS[number % len(WAYS)]
        text = self._long_prompt() if self.random.random() < 0.1 else f"Tell me about number {number}."
        await self._leave(way.body(text, stream=stream), way, _after(10 ** self.random.uniform(-3, 0)), number)

    async def in_the_queue(self, number: int, *, stream: bool) -> None:
        """Leave while all places are taken; see ``engine_stands_still``."""
        moment = _after(self.random.uniform(0.0, 0.15))
        await self._leave(SCHEMA.body("Is it my turn?", stream=stream), SCHEMA, moment, number)

    @asynccontextmanager
    async def engine_stands_still(self, places: int) -> AsyncIterator[None]:
        """Have all places of the demo model taken by requests whose runner is stopped, in the midst of their answers."""
        pid = next(row["pid"] for row in await self.scene.rest() if row["model"] == DEMO)
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(places):
                asked = self._asked(SCHEMA.body("Tell me all.", stream=True), SCHEMA)
                await _after_pieces(1)(await stack.enter_async_context(asked))
            psutil.Process(pid).send_signal(signal.SIGSTOP)
            try:
                yield
            finally:
                psutil.Process(pid).send_signal(signal.SIGCONT)

    def _long_prompt(self) -> str:
        return "one two three " * self.scene.words

    async def _one(self, body: bytes, way: Way, moment: Moment, number: int) -> Left:
        await self.scene.rest()
        position = self.scene.record.size()
        left = await self._leave(body, way, moment, number)
        await self.scene.rest()
        reached = self.scene.record.since(position)
        assert len(reached) <= 1, f"one request reached the runners {len(reached)} times"
        left.reached = reached[0] if reached else None
        return left

    async def _leave(self, body: bytes, way: Way, moment: Moment, number: int) -> Left:
        async with self._asked(body, way, reset=bool(number // len(WAYS) % 2)) as reader:
            received = await moment(reader)
            return Left(time.monotonic_ns(), received)

    @asynccontextmanager
    async def _asked(self, body: bytes, way: Way, *, reset: bool = False) -> AsyncIterator[asyncio.StreamReader]:
        """A request on a connection of its own, which is closed at the end of the block, or reset."""
        parts = urlsplit(self.scene.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**22)
        head = f"POST {_PATH} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n{way.head}"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        try:
            yield reader
        finally:
            if reset:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


def _after(seconds: float) -> Moment:
    async def moment(_reader: asyncio.StreamReader) -> int:
        await asyncio.sleep(seconds)
        return 0

    return moment


def _after_pieces(count: int) -> Moment:
    """When so many pieces of the answer have come."""

    async def moment(reader: asyncio.StreamReader) -> int:
        seen = 0
        async with asyncio.timeout(_DEADLINE_S):
            while seen < count:
                line = await reader.readline()
                assert line, "the gateway ended the answer"
                seen += line.startswith(b"data: ") and _CONTENT in line
        return seen

    return moment
