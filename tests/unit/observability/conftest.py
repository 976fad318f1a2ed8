"""Logging into a directory of the test's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.observability.context import request_id
from fastapi_foundry.observability.logging import LoggingHandle, configure_logging
from fastapi_foundry.settings import LoggingSettings


class Logs:
    """The files of one configuration; reading them closes it first, so that everything is there."""

    def __init__(self, home: Path) -> None:
        self.directory = home / "logs"
        self._home = home
        self.handle: LoggingHandle | None = None

    def configure(self, process: str = "gateway", **settings: Any) -> LoggingHandle:
        self.handle = configure_logging(LoggingSettings(**settings), home=self._home, process=process)
        return self.handle

    def text(self, name: str = "fastapi-foundry.log") -> str:
        assert self.handle is not None
        self.handle.close()
        return (self.directory / name).read_text(encoding="utf-8")

    def records(self, name: str = "fastapi-foundry-structured.jsonl") -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text(name).split("\n") if line]

    def record(self) -> dict[str, Any]:
        (record,) = self.records()
        return record


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    made = Logs(tmp_path)
    yield made
    if made.handle is not None:
        made.handle.close()


@pytest.fixture
def in_request() -> Iterator[Callable[[str], None]]:
    """Sets the request id for the time of the test."""
    tokens = []
    yield lambda value: tokens.append(request_id.set(value))
    for token in reversed(tokens):
        request_id.reset(token)
