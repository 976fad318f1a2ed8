"""Every engine that the tests can run, behind a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.doubles import running_double
from tests.support.native_service import CHAT_MODEL, native_service
from tests.support.processes import ProductProcess, gateway_process

__all__ = ["ENGINES", "Behind", "behind"]

ENGINES = ("ours", "native", "gen1", "gen2", "gen3")
_DOUBLED = "phi-x-generic-cpu:2"


@dataclass(frozen=True)
class Behind:
    """A gateway and the engine behind it.

    Attributes:
        model: The full id of a model that chats.
        real: Whether a real model answers; a double says what it is told to (``echo: TEXT``).
    """

    engine: str
    gateway: ProductProcess
    model: str

    @property
    def url(self) -> str:
        return self.gateway.url

    @property
    def real(self) -> bool:
        return self.engine in {"ours", "native"}


@contextmanager
def behind(engine: str, home: Path) -> Iterator[Behind]:
    """Run the engine and a gateway that uses it."""
    arguments = ["--port", "0"]
    if engine == "ours":
        with gateway_process(home / "ours", arguments=arguments) as gateway:
            yield Behind(engine, gateway, "foundry-demo:1")
        return
    model = CHAT_MODEL if engine == "native" else _DOUBLED
    with _foreign(engine, home / "theirs") as url:
        env = {"FOUNDRY_BASE_URL": url, "FOUNDRY_DEFAULT_MODEL": model}
        with gateway_process(home / "ours", arguments=arguments, env=env) as gateway:
            yield Behind(engine, gateway, model)


@contextmanager
def _foreign(engine: str, home: Path) -> Iterator[str]:
    if engine == "native":
        with native_service(home) as service:
            yield service.url
    else:
        with running_double(engine, home, models=[f"{_DOUBLED},alias=phi-x,state=cached"]) as double:
            yield double.url
