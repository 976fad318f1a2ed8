"""Any OpenAI-compatible server by its address: Ollama, llama.cpp, LM Studio, vLLM, Ray Serve, another gateway."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from fastapi_foundry.engines.base import Call, EngineStatus, ModelCard, Reply, ReplyStream
from fastapi_foundry.engines.drivers import driver_of
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.supervisor import Supervisor
from fastapi_foundry.engines.transport import Patience, Transport
from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import EngineSettings, FoundryAISettings

__all__ = ["OpenAIHttpEngine", "require_reachable"]


class OpenAIHttpEngine:
    """The ``Engine`` at an address; see ``engines.base.Engine`` for what each method promises.

    It is probed and watched, never started or stopped. A client's own key is never sent to it.

    Args:
        settings: Where it is, its key and headers.
        defaults: Time-outs where ``settings`` names none.
        environ: Where ``api_key_env`` is looked up; the process's own unless given.

    Raises:
        ConfigurationError: The variable that should hold the key is not set.
    """

    def __init__(
        self, settings: EngineSettings, defaults: FoundryAISettings, *, environ: Mapping[str, str] | None = None
    ) -> None:
        self._models = None if settings.models is None else frozenset(settings.models)
        headers = dict(settings.headers)
        if key := _key(settings, os.environ if environ is None else environ):
            headers["authorization"] = f"Bearer {key}"
        secure = settings.url.startswith("https:")
        client = HttpClient(ssl_context=ssl.create_default_context() if secure else None)
        supervisor = Supervisor(client, discovery=None, starter=None, base_url=settings.url, headers=headers)
        self._transport = Transport(client, supervisor, _patience(settings, defaults), headers)

    @property
    def status(self) -> EngineStatus:
        """The last known status; never waits."""
        return self._transport.status

    @property
    def kind(self) -> EngineKind:
        """What it is; meaningful once it answered."""
        return self._transport.supervisor.kind

    async def start(self) -> None:
        """Begin to watch it in the background; returns at once."""
        self._transport.supervisor.start()

    async def aclose(self) -> None:
        """End the watch and close every connection; the engine itself goes on."""
        await self._transport.aclose()

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until it answers; see ``Engine.wait_ready``."""
        await self._transport.supervisor.wait_ready(timeout_s)

    async def list_models(self) -> list[ModelCard]:
        """Its models, those of the settings' ``models`` alone where that is given; about a second at most."""
        cards = await driver_of(self._transport).list_models()
        return [card for card in cards if self._models is None or card.id in self._models]

    async def post(self, call: Call) -> Reply:
        """Send ``call`` and wait for the whole answer; see ``Engine.post``."""
        return await self._transport.post(call)

    def stream(self, call: Call) -> AbstractAsyncContextManager[ReplyStream]:
        """Send ``call`` and stream the answer; see ``Engine.stream``."""
        return self._transport.stream(call)

    async def load_model(self, model: str) -> dict[str, Any]:
        """Load a model, where the engine has a way to be asked for it."""
        return await driver_of(self._transport).load(model, limit_s=self._transport.patience.answer_s)

    async def unload_model(self, model: str) -> dict[str, Any]:
        """Unload a model, where the engine has a way to be asked for it."""
        return await driver_of(self._transport).unload(model, limit_s=self._transport.patience.answer_s)


async def require_reachable(engines: Sequence[EngineSettings], defaults: FoundryAISettings) -> None:
    """Refuse to start with an engine at whose address nobody accepts connections; tries all at the same time.

    Raises:
        ConfigurationError: Nobody does at the address of an engine that is ``required``.
    """
    wanted = [(index, engine) for index, engine in enumerate(engines) if engine.required]
    limits = [engine.connect_timeout_s or defaults.connect_timeout_s for _, engine in wanted]
    outcomes = await asyncio.gather(*(_accepts(e.url, s) for (_, e), s in zip(wanted, limits, strict=True)))
    for (index, engine), accepts in zip(wanted, outcomes, strict=True):
        if not accepts:
            raise ConfigurationError(
                f"engines.{index}.url",
                "start",
                f"nothing answers at {engine.url}. Start that engine, correct the address, or set "
                f"engines.{index}.required to false to start without it",
            )


async def _accepts(url: str, limit_s: float) -> bool:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(limit_s):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def _key(settings: EngineSettings, environ: Mapping[str, str]) -> str | None:
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    if settings.api_key_env is None:
        return None
    key = environ.get(settings.api_key_env, "").strip()
    if not key:
        raise ConfigurationError(
            f"engines.{settings.name}.api_key_env",
            "config",
            f"the environment variable {settings.api_key_env} is not set; it must hold the key of this engine",
        )
    return key


def _patience(settings: EngineSettings, defaults: FoundryAISettings) -> Patience:
    connect_s = settings.connect_timeout_s or defaults.connect_timeout_s
    return Patience(
        ready_s=connect_s,
        answer_s=settings.timeout_s or defaults.timeout_s,
        connect_s=connect_s,
        first_byte_s=settings.first_byte_timeout_s or defaults.first_byte_timeout_s,
        idle_s=settings.idle_timeout_s or defaults.idle_timeout_s,
    )
