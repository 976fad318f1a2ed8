"""Any OpenAI-compatible server by its address: Ollama, llama.cpp, LM Studio, vLLM, Ray Serve, another gateway."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.http_engine import HttpEngine
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.supervisor import Supervisor
from fastapi_foundry.engines.transport import Patience, Transport
from fastapi_foundry.engines.via import Via, gateways_passed
from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import EngineSettings, FoundryAISettings
from fastapi_foundry.settings.secret_files import secret_in_variable

__all__ = ["OpenAIHttpEngine", "require_reachable"]

# What one gateway tells another of a third may be so old; else a mesh of gateways asks along every way through it.
_HEARSAY_S: Final = 1.0


class OpenAIHttpEngine(HttpEngine):
    """The ``Engine`` at an address; see ``engines.base.Engine`` for what each method promises.

    It is probed and watched, never started or stopped. A client's own key is never sent to it.

    Args:
        settings: Where it is, its key and headers.
        defaults: Time-outs where ``settings`` names none.
        index: Its place in ``engines`` of the configuration, for errors.
        via: Tells the engine which gateways a request has passed; None outside of a gateway.
        environ: Where ``api_key_env`` is looked up; the process's own unless given.
        clock: Monotonic seconds.

    Raises:
        ConfigurationError: The variable that should hold the key is not set.
    """

    def __init__(
        self,
        settings: EngineSettings,
        defaults: FoundryAISettings,
        *,
        index: int = 0,
        via: Via | None = None,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = None if settings.models is None else frozenset(settings.models)
        headers = dict(settings.headers)
        if key := _key(settings, index, os.environ if environ is None else environ):
            headers["authorization"] = f"Bearer {key}"
        secure = settings.url.startswith("https:")
        client = HttpClient(ssl_context=ssl.create_default_context() if secure else None)
        supervisor = Supervisor(
            client,
            discovery=None,
            starter=None,
            base_url=settings.url,
            headers=headers if via is None else {**headers, "via": via.own},
            takes_gateways=True,
        )
        patience = _patience(settings, defaults)
        super().__init__(Transport(client, supervisor, patience, headers, via), load_s=patience.answer_s)
        self._clock = clock
        self._listed: list[ModelCard] = []
        self._asked_at = float("-inf")

    async def list_models(self) -> list[ModelCard]:
        """Its models, those of the settings' ``models`` alone where that is given; about a second at most.

        A gateway is asked on behalf of another one at most once in a second, and never on behalf of itself; otherwise
        what it told last is told again.
        """
        now, passed, seen = self._clock(), gateways_passed(), self._transport.supervisor
        if passed and seen.kind is EngineKind.GATEWAY and (seen.gateway in passed or now - self._asked_at < _HEARSAY_S):
            return self._listed
        self._asked_at = now
        cards = await super().list_models()
        self._listed = [card for card in cards if self._models is None or card.id in self._models]
        return self._listed


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


def _key(settings: EngineSettings, index: int, environ: Mapping[str, str]) -> str | None:
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    if settings.api_key_env is None:
        return None
    key = secret_in_variable(settings.api_key_env, environ, f"engines.{index}.api_key_env")
    if key is None:
        raise ConfigurationError(
            f"engines.{index}.api_key_env",
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
