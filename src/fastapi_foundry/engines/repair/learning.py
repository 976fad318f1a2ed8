"""What an engine is known to do, getting better: its kind's profile, then the cache's, then a probe's.

Our own service and gateways are never probed, since they are known exactly. Another engine is, in the background and once, after it has
answered its first chat: only then is a model loaded that a probe may use.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from fastapi_foundry.engines.base import Engine
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.repair.probing import probe_profile
from fastapi_foundry.engines.repair.profile import EngineProfile, known_profile
from fastapi_foundry.engines.repair.profile_cache import ProfileCache
from fastapi_foundry.observability.logging import get_logger

__all__ = ["LearnedProfile"]

logger = get_logger(__name__)

_KNOWN_EXACTLY: Final = frozenset({EngineKind.OURS, EngineKind.GATEWAY})
_QUIET_S: Final = 2.0
_LONGEST_WAIT_S: Final = 120.0


class LearnedProfile:
    """The profile of one engine; call it for the present one. Belongs to one event loop.

    Args:
        engine: The bare engine.
        kind: What it is now, as far as its supervisor knows.
        version: What it told of its version, empty where it told nothing; another version is probed anew.
        cache: Where probed profiles are kept.
        quiet_s: A probe begins after so many seconds without a request, or after two minutes.
    """

    def __init__(
        self,
        engine: Engine,
        kind: Callable[[], EngineKind],
        version: Callable[[], str],
        cache: ProfileCache,
        *,
        quiet_s: float = _QUIET_S,
    ) -> None:
        self._engine = engine
        self._kind = kind
        self._version = version
        self._cache = cache
        self._quiet_s = quiet_s
        self._of: tuple[EngineKind, str, str] | None = None
        self._profile = known_profile(None)
        self._task: asyncio.Task[None] | None = None
        self._asked = 0

    def __call__(self) -> EngineProfile:
        """The profile as it is known now; never waits."""
        kind = self._kind()
        of = (kind, "", "") if kind in _KNOWN_EXACTLY else (kind, self._engine.status.url or "", self._version())
        if of != self._of:
            self._of = of
            self._profile = known_profile(kind)
            self._forget_task()
        self._asked += 1
        return self._profile

    @property
    def wants_an_answer(self) -> bool:
        """Whether ``answered`` is still to be told of one, or has been and the probe is under way."""
        if self._of is None or self._of[0] in _KNOWN_EXACTLY:
            return False
        return self._task is None or not self._task.done()

    def answered(self, model: str) -> None:
        """``model`` has answered a chat: it is loaded, and the engine may be probed with it."""
        if self._task is None and self._of is not None and self._of[0] not in _KNOWN_EXACTLY:
            self._task = asyncio.create_task(self._learn(self._of, model), name="engine probe")

    async def aclose(self) -> None:
        """End a probe that is under way."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _learn(self, of: tuple[EngineKind, str, str], model: str) -> None:
        kind, url, version = of
        found: EngineProfile | None = None
        try:
            found = await asyncio.to_thread(self._cache.get, url, kind, version)
            if found is None:
                await self._quiet()
                probed = await probe_profile(self._engine, model, start=known_profile(kind))
                found = probed.profile
                logger.info("engine probed", url=url, kind=str(kind), departures=list(found.departures()))
                await asyncio.to_thread(self._cache.put, url, kind, version, found)
        except OSError as error:
            logger.warning("engine profile not kept", error=str(error))
        except Exception:  # whatever an engine does to a probe, the gateway goes on with what it knows
            logger.exception("engine not probed", url=url)
            return
        if found is not None and self._of == of:
            self._profile = found

    async def _quiet(self) -> None:
        """Wait until nobody has asked for a while."""
        waited_s = 0.0
        while waited_s < _LONGEST_WAIT_S:
            before = self._asked
            await asyncio.sleep(self._quiet_s)
            waited_s += self._quiet_s
            if self._asked == before:
                return

    def _forget_task(self) -> None:
        if self._task is not None and not self._task.done():
            self._task.cancel()
        self._task = None
