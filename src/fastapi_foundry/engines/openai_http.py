"""Any OpenAI-compatible server by its address: Ollama, llama.cpp, LM Studio, vLLM, Ray Serve, another gateway."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.http_engine import HttpEngine
from fastapi_foundry.engines.supervisor import Supervisor
from fastapi_foundry.engines.transport import Patience, Transport
from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import EngineSettings, FoundryAISettings

__all__ = ["OpenAIHttpEngine", "require_reachable"]


class OpenAIHttpEngine(HttpEngine):
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
        patience = _patience(settings, defaults)
        super().__init__(Transport(client, supervisor, patience, headers), load_s=patience.answer_s)

    async def list_models(self) -> list[ModelCard]:
        """Its models, those of the settings' ``models`` alone where that is given; about a second at most."""
        cards = await super().list_models()
        return [card for card in cards if self._models is None or card.id in self._models]


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
