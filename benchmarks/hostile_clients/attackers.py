"""Clients that mean no good: slow ones and oversized uploads, each beginning again a second after it was cut off.

``python -m benchmarks.hostile_clients.attackers PORT [--loris N] [--uploads N] [--megabytes-per-s N]`` prints a line when
all of them are at work, goes on until its standard input ends, and then says how often which answer came.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import Counter
from contextlib import suppress

DRIP_S = 0.5
RETRY_S = 1.0
UPLOAD_BYTES = 64 * 1024 * 1024
PIECE = b"x" * 65_536
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Attack:
    """What happened to the attackers of a kind; ``at_work`` counts those that have begun."""

    def __init__(self) -> None:
        self.at_work = 0
        self.sent_bytes = 0
        self.ends: Counter[str] = Counter()


async def loris(port: int, number: int, attack: Attack) -> None:
    """A request that never ends: every second one within its head, the others within a body of an honest size."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            watching = asyncio.create_task(reader.read(65_536))
            writer.write(POST if number % 2 else POST + b'Content-Length: 5000\r\n\r\n{"model": "')
            attack.at_work += 1
            while not watching.done():
                writer.write(b"X-Drip: a\r\n" if number % 2 else b"a")
                await asyncio.wait([watching], timeout=DRIP_S)
            attack.ends[end_of(watching)] += 1
            writer.close()
        await asyncio.sleep(RETRY_S)


async def upload(port: int, number: int, bytes_per_s: float, attack: Attack) -> None:
    """A body far beyond the limit: every second one says so in its head, the others show it."""
    pause_s = len(PIECE) / bytes_per_s
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            watching = asyncio.create_task(reader.read(65_536))
            chunked = number % 2
            writer.write(
                POST
                + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"Content-Length: %d\r\n\r\n" % UPLOAD_BYTES)
            )
            attack.at_work += 1
            sent = 0
            with suppress(ConnectionError):
                while sent < UPLOAD_BYTES and not writer.is_closing():
                    writer.write(b"10000\r\n" + PIECE + b"\r\n" if chunked else PIECE)
                    await asyncio.gather(writer.drain(), asyncio.sleep(pause_s))
                    sent += len(PIECE)
                    if watching.done():
                        break
            attack.sent_bytes += sent
            await asyncio.wait([watching], timeout=1)
            attack.ends[end_of(watching)] += 1
            writer.close()
        await asyncio.sleep(RETRY_S)


def end_of(watching: asyncio.Task[bytes]) -> str:
    """The status that came, or in words what came instead."""
    if not watching.done():
        watching.cancel()
        return "no answer"
    if watching.exception() is not None:
        return "reset"
    return watching.result()[9:12].decode() or "closed"


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--loris", type=int, default=200)
    parser.add_argument("--uploads", type=int, default=50)
    parser.add_argument("--megabytes-per-s", type=float, default=2.0)
    options = parser.parse_args()
    slow, large = Attack(), Attack()
    tasks = [asyncio.create_task(loris(options.port, number, slow)) for number in range(options.loris)]
    tasks += [
        asyncio.create_task(upload(options.port, number, options.megabytes_per_s * 1e6, large))
        for number in range(options.uploads)
    ]
    while slow.at_work < options.loris or large.at_work < options.uploads:
        await asyncio.sleep(0.01)
    print(json.dumps({"event": "at work"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    print(json.dumps({"loris": slow.ends, "uploads": large.ends, "megabytes": large.sent_bytes / 1e6}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
