"""Foundry Local's own web service (the SDK's, generation 3), with the demo model, as a process for tests.

The service serves catalogue models only, so this process is a catalogue as well: it lists the demo model, whose
files lie in the cache already, an embedding model made from it, and one model that is not there.
``python -m tests.support.native_service --home DIR [--supervised]``; nothing but loopback is used.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.doubles.process import ended_with_its_parent, first_json_line, popen_supervised
from tests.support.embedding_model import make_embedding_model
from tests.support.models import DEMO_DIRECTORY

__all__ = [
    "ABSENT_ALIAS",
    "ABSENT_MODEL",
    "CHAT_ALIAS",
    "CHAT_MODEL",
    "EMBEDDING_ALIAS",
    "EMBEDDING_MODEL",
    "NativeService",
    "catalog_entry",
    "native_service",
]

# The service loads and unloads by alias, and answers requests by id alone.
CHAT_MODEL: Final = "foundry-demo-generic-cpu:1"
CHAT_ALIAS: Final = "foundry-demo"
EMBEDDING_MODEL: Final = "foundry-demo-embedding-generic-cpu:1"
EMBEDDING_ALIAS: Final = "foundry-demo-embedding"
ABSENT_MODEL: Final = "foundry-absent-generic-cpu:1"
ABSENT_ALIAS: Final = "foundry-absent"


@dataclass
class NativeService:
    """The running service; ``url`` is its base URL."""

    popen: subprocess.Popen[bytes]
    url: str
    home: Path

    @property
    def pid(self) -> int:
        return self.popen.pid


@contextmanager
def native_service(home: Path, *, embeddings: bool = False) -> Iterator[NativeService]:
    """Run the service until the block is left; it takes about half a second to be ready. No model is loaded."""
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.support.native_service", "--home", str(home), "--supervised"]
    with popen_supervised(command + (["--embeddings"] if embeddings else []), home) as popen:
        ready = first_json_line(popen, home)
        yield NativeService(popen, str(ready["url"]), home)


def catalog_entry(model_id: str, alias: str, task: str = "chat-completion") -> dict[str, Any]:
    """One model in the form of Azure's catalogue, as far as the engine reads it."""
    name, _, version = model_id.partition(":")
    tags = {"alias": alias, "task": task, "license": "MIT", "supportsToolCalling": "true", "maxOutputTokens": "2048"}
    data = {"publisher": "Microsoft", "displayName": name, "maxOutputTokens": 2048, "inferenceTasks": [task]}
    metadata = {
        "modelType": "ONNX",
        "device": "cpu",
        "executionProvider": "CPUExecutionProvider",
        "fileSizeBytes": 8 * 1024 * 1024,
    }
    parents = [{"assetId": "azureml://registries/azureml/models/parent/versions/1"}]
    return {
        "assetId": f"azureml://registries/azureml/models/{name}/versions/{version}",
        "entityId": model_id,
        "annotations": {"tags": tags, "systemCatalogData": data | {"license": "MIT"}},
        "properties": {
            "name": name,
            "version": int(version),
            "variantInfo": {"parents": parents, "variantMetadata": metadata},
        },
    }


class _Catalog(http.server.BaseHTTPRequestHandler):
    entries: tuple[dict[str, Any], ...] = ()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        page = {
            "totalCount": len(self.entries),
            "value": list(self.entries),
            "nextSkip": None,
            "continuationToken": None,
        }
        body = json.dumps(page | {"indexEntitiesResponse": page}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def _into_cache(cache: Path, model_id: str, source: Path) -> None:
    """Lay the files where the engine looks for a downloaded model."""
    name, _, version = model_id.partition(":")
    directory = cache / "Microsoft" / f"{name}-{version}" / f"v{version}"
    if directory.exists():
        return
    directory.mkdir(parents=True)
    for file in source.iterdir():
        if file.name != "inference_model.json":
            (directory / file.name).symlink_to(file.resolve())
    template = json.loads((DEMO_DIRECTORY / "inference_model.json").read_text(encoding="utf-8"))
    (directory / "inference_model.json").write_text(json.dumps(template | {"Name": model_id}), encoding="utf-8")


def _serve(home: Path, *, embeddings: bool) -> str:
    """Start catalogue and service in this process; the service's base URL."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        # The engine's telemetry goes where nobody listens.
        os.environ[name] = os.environ[name.upper()] = "http://127.0.0.1:9"
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1"
    import foundry_local_sdk as engine  # noqa: PLC0415 - after the environment is set

    cache = home / "cache" / "models"
    _into_cache(cache, CHAT_MODEL, DEMO_DIRECTORY)
    entries = [catalog_entry(CHAT_MODEL, CHAT_ALIAS), catalog_entry(ABSENT_MODEL, ABSENT_ALIAS)]
    if embeddings:
        made = home / "made-embedding"
        shutil.rmtree(made, ignore_errors=True)
        _into_cache(cache, EMBEDDING_MODEL, make_embedding_model(DEMO_DIRECTORY, made))
        entries.append(catalog_entry(EMBEDDING_MODEL, EMBEDDING_ALIAS, "embeddings"))
    _Catalog.entries = tuple(entries)
    catalog = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Catalog)
    threading.Thread(target=catalog.serve_forever, daemon=True).start()
    manager = engine.FoundryLocalManager(
        engine.Configuration(
            "native-service-for-tests",
            app_data_dir=str(home / "data"),
            model_cache_dir=str(cache),
            logs_dir=str(home / "logs"),
            log_level=engine.LogLevel.WARNING,
            catalog_urls=[(f"http://127.0.0.1:{catalog.server_port}/asset-gallery/v1.0/models", None)],
            disable_nonessential_telemetry=True,
            web=engine.Configuration.WebService(urls="http://127.0.0.1:0"),
        )
    )
    manager.get_catalog().list_models()
    manager.start_web_service()
    return str(manager.urls[0]).rstrip("/")


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--supervised", action="store_true")
    arguments = parser.parse_args()
    url = _serve(arguments.home.resolve(), embeddings=arguments.embeddings)
    sys.stdout.write(json.dumps({"event": "ready", "url": url, "pid": os.getpid()}) + "\n")
    sys.stdout.flush()
    if arguments.supervised:
        ended_with_its_parent()
    threading.Event().wait()


if __name__ == "__main__":
    _main()
