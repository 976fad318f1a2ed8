"""A runner that misbehaves on purpose: ``python -m tests.support.runner_double``.

How is said by ``manner`` in its ``init`` frame, or by the file ``manner`` in the directory of the model that it gets.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


def send(**message: Any) -> None:
    sys.stdout.write(json.dumps(message, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def chunk(request_id: int, data: str) -> None:
    sys.stdout.write(f'{{"event":"chunk","id":{request_id},"data":{json.dumps(data)}}}\n')
    sys.stdout.flush()


def download(request_id: int, manner: str) -> None:
    sys.stdout.write(f'{{"event":"chunk","id":{request_id},"data":{{"percent":0.0}}}}\n')
    if manner == "download and stall":
        sys.stdout.flush()
        return
    sys.stdout.write(f'{{"event":"chunk","id":{request_id},"data":{{"percent":12.5}}}}\n')
    sys.stdout.flush()
    if manner == "download and finish":
        send(event="done", id=request_id, data={"model": "small:1"})
    elif manner == "download and fail":
        send(event="error", id=request_id, code="catalog_unavailable", message="the disk is full")
    elif manner == "download and miss":
        send(event="error", id=request_id, code="model_not_found", message="x")
    elif manner == "download and die":
        os.kill(os.getpid(), 9)


def serve(request_id: int, body: dict[str, Any]) -> None:
    """Take a request up; it hangs for ever, deaf to cancels, or is answered after ``after_s``."""
    send(event="begun", id=request_id)
    chunk(request_id, "one")
    if "hang" not in body:
        end = {"event": "done", "id": request_id, "data": {"pid": os.getpid()}, "tokens": 1}
        timer = threading.Timer(body.get("after_s", 0.0), lambda: send(**end))
        timer.daemon = True
        timer.start()


def main() -> None:  # noqa: C901, PLR0912 - one branch for each way to misbehave
    init = json.loads(sys.stdin.readline())
    manner = init.get("manner") or Path(init["model"]["path"], "manner").read_text()
    sys.stderr.write("about to " + manner + "\n")
    sys.stderr.flush()
    if manner == "exit":
        sys.exit(3)
    if manner == "die":
        os.kill(os.getpid(), 9)
    if manner == "refuse":
        send(event="failed", message="it does not want to")
        return
    if manner == "be silent":
        time.sleep(60)
    send(event="ready", pid=os.getpid())
    for line in sys.stdin:
        message = json.loads(line)
        request_id = message.get("id", 0)
        if message["op"] == "cancel" and manner in {"ignore cancels", "serve"}:
            continue
        if message["op"] == "cancel":
            send(event="error", id=request_id, code="cancelled", message="cancelled", tokens=7)
        elif manner == "talk nonsense":
            sys.stdout.write("this is no frame\n")
            sys.stdout.flush()
        elif manner == "never end a line":
            while True:
                sys.stdout.write("x" * 1_000_000)
        elif manner == "talk too much":
            for _ in range(100):
                chunk(request_id, "x" * 100_000)
        elif manner.startswith("download"):
            download(request_id, manner)
        elif manner == "serve":
            serve(request_id, message["body"])
        elif manner == "chat":
            chunk(request_id, "one")
            chunk(request_id, "two")
            send(event="done", id=request_id, data={"echo": message["body"]}, tokens=2, usage={"total_tokens": 3})
        elif manner == "complain":
            sys.stderr.write("e" * 10_000 + "\nlast words\n")
            sys.stderr.flush()
            send(event="error", id=request_id, **message["body"])
    if manner == "stay":
        time.sleep(60)


if __name__ == "__main__":
    main()
