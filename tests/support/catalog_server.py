"""An online catalogue of one model on loopback, in the form in which the engine asks Azure's."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["running_catalog"]


def _entry(name: str, version: int, alias: str) -> dict[str, Any]:
    """One model in the form of Azure's catalogue, as far as the engine reads it."""
    return {
        "assetId": f"azureml://registries/azureml/models/{name}/versions/{version}",
        "entityId": f"{name}:{version}",
        "annotations": {
            "tags": {
                "alias": alias,
                "task": "chat-completion",
                "license": "MIT",
                "supportsToolCalling": "true",
                "maxOutputTokens": "2048",
            },
            "systemCatalogData": {
                "publisher": "Somebody",
                "displayName": name,
                "maxOutputTokens": 2048,
                "inferenceTasks": ["chat-completion"],
                "license": "MIT",
            },
        },
        "properties": {
            "name": name,
            "version": version,
            "variantInfo": {
                "parents": [{"assetId": "azureml://registries/azureml/models/parent/versions/1"}],
                "variantMetadata": {
                    "modelType": "ONNX",
                    "device": "cpu",
                    "executionProvider": "CPUExecutionProvider",
                    "fileSizeBytes": 3 * 1024 * 1024,
                },
            },
        },
    }


class _CatalogHandler(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        models = [_entry("Small-Model-generic-cpu", 3, "small-model")]
        response = {"totalCount": 1, "value": models, "nextSkip": None, "continuationToken": None}
        body = json.dumps(response | {"indexEntitiesResponse": response}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def running_catalog() -> Iterator[str]:
    """The catalogue's address; it has ``Small-Model-generic-cpu:3``, which nobody can download."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _CatalogHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/asset-gallery/v1.0/models"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
