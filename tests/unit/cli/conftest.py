"""A private home and a way to run the command line in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.cli.main import run


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Outcome]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("FOUNDRY_", "FASTAPI_FOUNDRY", "API_", "LOG_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("FOUNDRY_HOME", str(home))
    monkeypatch.setenv("FOUNDRY_OFFLINE", "1")
    # Nothing of a developer's machine that listens on the usual ports may answer.
    monkeypatch.setenv("FOUNDRY_PORT", "1")
    monkeypatch.setenv("API_PORT", "1")
    monkeypatch.setenv("FASTAPI_FOUNDRY__FOUNDRY_SERVICE__PORT_RANGE_START", "1")
    monkeypatch.setenv("FASTAPI_FOUNDRY__FOUNDRY_SERVICE__PORT_RANGE_END", "1")
    return home


@pytest.fixture
def cli(home: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Outcome(code, said.out, said.err)

    return call
