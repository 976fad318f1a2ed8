"""Foundry Local in a process of its own, asked without anything of ours between; what ``whole_way`` compares with.

Each line on stdin is a chat request, each on stdout its answer's text or chunks, with the time of each in seconds since
the request was begun. The engine is opened as a runner opens it, with a new session for each request, and without
the network.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import orjson

from fastapi_foundry.daemon.offline_guard import deny_network


def main() -> None:
    """Serve stdin: ``direct_session.py MODEL_DIRECTORY MODEL_ID DATA_DIRECTORY``."""
    path, model_id, data = sys.argv[1:]
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # native code prints there
    os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = data
    deny_network()
    import foundry_local_sdk as engine  # noqa: PLC0415 - after the network is denied

    model = opened(engine, path, model_id, Path(data))
    out.write(b"{}\n")
    for line in sys.stdin.buffer:
        text = orjson.dumps(orjson.loads(line)).decode()
        answer = streamed(engine, model, text) if b'"stream":true' in line else whole(engine, model, text)
        out.write(orjson.dumps(answer) + b"\n")
    os._exit(0)


def opened(engine: Any, path: str, model_id: str, data: Path) -> Any:
    """The loaded model."""
    manager = engine.FoundryLocalManager(
        engine.Configuration(
            "whole-way",
            app_data_dir=str(data),
            model_cache_dir=str(data / "models"),
            logs_dir=str(data / "logs"),
            log_level=engine.LogLevel.WARNING,
            disable_nonessential_telemetry=True,
        )
    )
    with engine.ModelInfoBuilder() as info:
        info.set_string_property("task", "chat-completion").set_string_property("alias", model_id.partition(":")[0])
        model = manager.get_catalog(engine.CatalogType.LOCAL).register_model(path, model_id, info)
    model.load()
    return model


def whole(engine: Any, model: Any, text: str) -> dict[str, Any]:
    """One answer; the time ends when its text is there, before anything is closed."""
    began = time.perf_counter()
    with engine.ChatSession(model) as session, engine.Request() as request:
        request.add_item(engine.TextItem(text, engine.TextItemType.OPENAI_JSON))
        with session.process_request(request) as response:
            data = response.get_item(0).text
            took = time.perf_counter() - began
    return {"data": [data], "times": [took]}


def streamed(engine: Any, model: Any, text: str) -> dict[str, Any]:
    """One answer's chunks."""
    data, times = [], []
    began = time.perf_counter()
    with engine.ChatSession(model) as session, engine.Request() as request:
        request.add_item(engine.TextItem(text, engine.TextItemType.OPENAI_JSON))
        session.set_streaming(True)
        with session.process_streaming_request(request) as stream:
            for item in stream:
                data.append(item.text)
                times.append(time.perf_counter() - began)
    return {"data": data, "times": times}


if __name__ == "__main__":
    main()
