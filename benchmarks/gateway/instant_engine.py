"""An engine that answers at once, for measuring what is in front of it; prints a ready line and ends with its stdin."""

from __future__ import annotations

import asyncio
import json
import sys

MODELS = {"object": "list", "data": [{"id": "double:1", "object": "model", "created": 1, "owned_by": "benchmark"}]}
STATUS = {"product": "fastapi-foundry", "pid": 1}
HEAD = {"id": "c1", "created": 1, "model": "double:1", "system_fingerprint": None}
WORD = {"index": 0, "delta": {"content": " word"}, "finish_reason": None, "logprobs": None}
LAST = {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}
USAGE = {"prompt_tokens": 10, "completion_tokens": 200, "total_tokens": 210}
MESSAGE = {"role": "assistant", "content": "word " * 50, "refusal": None}


def answer(body: bytes, head: bytes) -> bytes:
    payload = body
    return head + b"content-length: %d\r\n\r\n%b" % (len(payload), payload)


def whole() -> bytes:
    choice = {"index": 0, "message": MESSAGE, "finish_reason": "stop", "logprobs": None}
    document = {**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE}
    return json.dumps(document).encode()


def frames() -> list[bytes]:
    head = {**HEAD, "object": "chat.completion.chunk"}
    documents = [{**head, "choices": [WORD]}] * 200 + [{**head, "choices": [LAST]}]
    documents.append({**head, "choices": [], "usage": USAGE})
    return [b"data: " + json.dumps(document).encode() + b"\n\n" for document in documents] + [b"data: [DONE]\n\n"]


WHOLE, FRAMES = whole(), frames()
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
            body = await reader.readexactly(length)
            if head.startswith(b"get"):
                document = MODELS if b"/v1/models" in head else STATUS
                writer.write(answer(json.dumps(document).encode(), JSON_HEAD))
            elif b'"stream":true' in body.replace(b" ", b""):
                writer.write(STREAM_HEAD)
                for frame in FRAMES:
                    writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
                    await asyncio.sleep(0)
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(answer(WHOLE, JSON_HEAD))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
