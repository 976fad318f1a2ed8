"""Doubles for tests: started as processes, controlled over HTTP, ended with the block or with the test's process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.doubles.faults import FAULTS
from tests.support.doubles.process import first_json_line, popen_supervised
from tests.support.http import ask

__all__ = ["RunningDouble", "running_double"]


@dataclass
class RunningDouble:
    """A double's process.

    Attributes:
        url: Its base URL, kept up to date by ``move``.
        home: Its ``~/.foundry``, as tests hand it over as FOUNDRY_HOME.
    """

    generation: str
    popen: subprocess.Popen[bytes]
    url: str
    home: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def fault(self, name: str, **settings: Any) -> None:
        """One fault instead of all others, such as ``fault("rate_limited", times=1)``; see ``faults.Fault``."""
        assert name in FAULTS
        self.faults({"name": name} | settings)

    def faults(self, *faults: dict[str, Any]) -> None:
        """These faults instead of all others; none: heal."""
        answer = ask(self.url, "/_double/faults", {"faults": list(faults)})
        assert answer.status == 200, answer.body
        self.url = answer.json["url"]

    def heal(self) -> None:
        self.faults()

    def move(self, port: int = 0) -> str:
        """Go on at another port, all connections reset, daemon file rewritten; the new base URL."""
        self.fault("move", port=port)
        return self.url

    def crash(self) -> None:
        """End as by kill -9; the files stay."""
        self.popen.kill()
        self.popen.wait(10)

    def freeze(self) -> None:
        """Stop the whole process: the system still accepts connections, nobody answers."""
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.popen.send_signal(signal.SIGCONT)

    def seen(self, path: str = "") -> list[dict[str, Any]]:
        """Every request (method, path with query, headers, body), or those whose path begins so."""
        return [entry for entry in ask(self.url, "/_double/seen").json if entry["path"].startswith(path)]

    def bodies(self, path: str = "/v1/") -> list[Any]:
        """The JSON bodies of those requests."""
        return [json.loads(entry["body"]) for entry in self.seen(path) if entry["body"]]

    def forget(self) -> None:
        ask(self.url, "/_double/forget", {})

    def state(self) -> dict[str, Any]:
        """Models with their states, connections, active and most_active requests, left_early."""
        return dict(ask(self.url, "/_double/state").json)

    def model_states(self) -> dict[str, str]:
        return {model["id"]: model["state"] for model in self.state()["models"]}


@contextmanager
def running_double(
    generation: str,
    home: Path,
    *,
    port: int = 0,
    models: Sequence[str] = (),
    faults: Sequence[str | dict[str, Any]] = (),
    load_s: float = 0.0,
    download_s: float = 0.05,
    chunk_delay_s: float = 0.0,
    habits: Sequence[str] = (),
) -> Iterator[RunningDouble]:
    """Run ``gen1``, ``gen2``, ``gen3`` or ``openai`` until the block is left; it takes about 0.2 s to be ready.

    Args:
        generation: Which one.
        home: Its ``~/.foundry``, made if need be.
        port: To listen on; 0 for any.
        models: Instead of ``models.DEFAULT_MODELS``, in the form of ``DoubleModel.from_text``.
        faults: From the start on: names, or objects with the fields of ``faults.Fault``.
        load_s: How long a load takes.
        download_s: How long a download takes.
        chunk_delay_s: Before each frame of a stream but the first, and for each token of a whole answer.
        habits: Of ``openai``: what it does otherwise than OpenAI, from ``openai_like.HABITS``.
    """
    command = [sys.executable, "-m", "tests.support.doubles", generation, "--supervised"]
    command += ["--home", str(home), "--port", str(port), "--load-s", str(load_s)]
    command += ["--download-s", str(download_s), "--chunk-delay-s", str(chunk_delay_s)]
    for model in models:
        command += ["--model", model]
    for habit in habits:
        command += ["--habit", habit]
    for fault in faults:
        command += ["--fault", fault if isinstance(fault, str) else json.dumps(fault)]
    with popen_supervised(command, home) as popen:
        ready = first_json_line(popen, home)
        yield RunningDouble(generation, popen, str(ready["url"]), home)
