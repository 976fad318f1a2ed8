"""Keep one engine at hand: find it, or start ours, watch it, and bring it back when it is lost.

One task owns all mutable state of the life cycle. Everybody else reads snapshots, waits for the next
settled transition, or asks for a check::

    ABSENT ──look──> found ───────────> READY ──lost──> CRASHED, WEDGED or DEGRADED ──look, start──> ...
                └──> none: STARTING ──> READY

Ours, when it has died, is started again without a look around. What was started here is ended here;
nothing else ever is.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

from fastapi_foundry.engines.base import EngineState, EngineStatus
from fastapi_foundry.engines.discovery import Discovery, Found
from fastapi_foundry.engines.http_client import HttpClient
from fastapi_foundry.engines.probe import EngineKind, ProbeResult, probe
from fastapi_foundry.engines.process import ChildProcess, ChildStartError
from fastapi_foundry.engines.restart_policy import RestartPolicy, StartBudget
from fastapi_foundry.errors import EngineUnavailableError
from fastapi_foundry.observability.logging import get_logger

__all__ = ["RestartPolicy", "Starter", "Supervisor"]

logger = get_logger(__name__)

# A killed process closes its sockets a moment before its parent hears of its end.
_END_NOTICE_S: Final = 0.2
_NOT_LOOKED: Final = "it has not been looked for yet"


class Starter(Protocol):
    """Starts our own service."""

    async def __call__(self) -> ChildProcess:
        """Start it and wait until it is ready; its ready line holds ``url``.

        Raises:
            ChildStartError: When it does not become ready.
        """


class Supervisor:
    """Owns the engine's life cycle; see the module's docstring.

    Args:
        client: For probes; its idle connections are dropped when the engine is lost.
        discovery: None where nothing is to be looked for.
        starter: None where nothing may be started.
        base_url: An explicit address: then it alone is used, nothing is looked for or started.
        headers: Sent with each probe: the key of an engine that wants one.
        takes_gateways: Whether a gateway at ``base_url`` will do.
        policy: See ``RestartPolicy``.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        client: HttpClient,
        *,
        discovery: Discovery | None,
        starter: Starter | None,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        takes_gateways: bool = False,
        policy: RestartPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._discovery = discovery if base_url is None else None
        self._starter = starter if base_url is None else None
        self._base_url = base_url
        self._headers = dict(headers or {})
        self._takes_gateways = takes_gateways
        self._policy = policy or RestartPolicy()
        self._clock = clock
        self._status = EngineStatus(EngineState.ABSENT, url=base_url, reason=_NOT_LOOKED)
        self._kind = EngineKind.OPENAI
        self._version = ""
        self._gateway = ""
        self._child: ChildProcess | None = None
        self._budget = StartBudget(self._policy, clock)
        self._in_vain = False
        self._checks_asked = 0
        self._checks_done = 0
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> EngineStatus:
        """The last known status; never waits."""
        return self._status

    @property
    def kind(self) -> EngineKind:
        """What the engine is; meaningful once it is ready."""
        return self._kind

    @property
    def version(self) -> str:
        """What the engine told of its version when it was found; empty where it told nothing."""
        return self._version

    @property
    def gateway(self) -> str:
        """The pseudonym of the gateway that the engine is; empty for every other kind."""
        return self._gateway

    def start(self) -> None:
        """Begin; returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="engine supervisor")

    async def aclose(self) -> None:
        """End supervision, and the service if it was started here."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        ended = EngineStatus(EngineState.ABSENT, url=self._base_url, reason="the gateway is stopping")
        self._settle(ended, in_vain=True)
        await self._end_child()

    async def wait_ready(self, timeout_s: float) -> EngineStatus:
        """Wait until the engine is ready.

        Raises:
            EngineUnavailableError: After ``timeout_s`` seconds, or as soon as it is known to be in vain: nothing
                was found and nothing may be started, or our own service does nothing but crash.
        """
        if not self._is_ready() and not self._in_vain:
            await self._until(self._is_ready_or_in_vain, timeout_s)
        if not self._is_ready():
            self._wanted.set()  # whoever asks next may be luckier sooner
            status = self._status
            raise EngineUnavailableError(f"Foundry service unavailable: {status.reason}.", url=status.url)
        return self._status

    async def first_look(self, timeout_s: float) -> None:
        """Wait until an engine was found, ours is being started, or there is none; at most ``timeout_s`` seconds."""
        await self._until(lambda: self._status.reason != _NOT_LOOKED, timeout_s)

    def report_lost(self, url: str) -> None:
        """Say that a request to ``url`` failed; the engine is then checked soon, once for all that report."""
        if url == self._status.url and self._task is not None:
            self._checks_asked += 1
            self._wanted.set()

    async def recheck(self, url: str, timeout_s: float) -> EngineStatus:
        """Report ``url`` as lost, wait for the check that follows, and then as ``wait_ready`` does."""
        self.report_lost(url)
        ticket = self._checks_asked
        began = self._clock()
        await self._until(lambda: self._checks_done >= ticket or self._status.url != url or self._in_vain, timeout_s)
        return await self.wait_ready(max(0.0, timeout_s - (self._clock() - began)))

    async def _until(self, is_true: Callable[[], bool], timeout_s: float) -> None:
        """Wait until ``is_true`` after some transition, or until time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not is_true():
                    await self._changed.wait()

    def _is_ready(self) -> bool:
        return self._status.state is EngineState.READY

    def _is_ready_or_in_vain(self) -> bool:
        return self._is_ready() or self._in_vain

    # Below, everything runs in the one task.

    async def _run(self) -> None:
        while True:
            try:
                await self._obtain()
                await self._watch()
            except Exception:  # the loop must outlive what nobody foresaw
                logger.exception("engine supervision stumbled and goes on")
                self._settle(replace(self._status, state=EngineState.DEGRADED, reason="supervision stumbled"))
                await self._end_child()
                await asyncio.sleep(self._policy.first_delay_s)

    async def _obtain(self) -> None:
        """Return when an engine is ready: the explicit one, one that was found, or ours."""
        failures = 0
        ours_died = self._status.supervised
        while (failed := await self._attempt(look_first=failures > 0 or not ours_died)) is not None:
            state, reason = failed
            failures += 1
            in_vain = self._starter is None or self._budget.is_spent
            if reason != self._status.reason:
                logger.warning("engine unavailable", reason=reason, url=self._status.url, attempts=failures)
            missing = replace(self._status, state=state, reason=reason, pid=None, supervised=False, tried=self._tried())
            self._settle(missing, in_vain=in_vain)
            if self._starter is None:
                await self._pause(self._policy.pause_after(failures))

    async def _attempt(self, *, look_first: bool) -> tuple[EngineState, str] | None:
        """Try once; None when an engine is ready, else the state that this means, and why.

        Args:
            look_first: Look for a running one before ours is started; wasted time when ours has just died.
        """
        if self._base_url is not None:
            seen = await self._probe(self._base_url, asks_version=True)
            if seen.kind is None:
                return _lost_state(seen), seen.outcome
            self._take(Found(self._base_url, "base_url", seen))
            return None
        if self._discovery is not None and look_first:
            found = await self._discovery.find()
            if found is not None:
                self._take(found)
                return None
        missing = EngineState.ABSENT if self._status.url is None else EngineState.CRASHED
        if self._starter is None:
            return missing, "no running Foundry was found, and the settings do not allow to start one"
        reason = await self._start_ours(self._starter)
        return None if reason is None else (missing, reason)

    async def _start_ours(self, starter: Starter) -> str | None:
        before = self._status
        if pause_s := self._budget.pause_s:
            if self._budget.is_spent:
                logger.critical("service in a crash loop", reason=before.reason, next_start_in_s=pause_s)
                self._settle(before, in_vain=True)
            await asyncio.sleep(pause_s)
        starting = EngineStatus(
            EngineState.STARTING,
            reason=before.reason if self._in_vain else "it is starting",
            supervised=True,
            found_by="started",
            tried=self._tried(),
            restarts=self._budget.total,
        )
        self._settle(starting, in_vain=self._in_vain)
        self._budget.note_start()
        began = self._clock()
        try:
            child = await starter()
        except ChildStartError as error:
            return f"our service does not start: {error}"
        self._child = child
        self._kind, self._version, self._gateway = EngineKind.OURS, "", ""
        url = str(child.ready.get("url", ""))
        self._settle(replace(starting, state=EngineState.READY, url=url, reason="", pid=child.pid))
        logger.info(
            "service started", url=url, pid=child.pid, restarts=starting.restarts, duration=self._clock() - began
        )
        return None

    def _take(self, found: Found) -> None:
        self._kind, self._version, self._gateway = found.kind, found.probe.version, found.probe.gateway
        pid = found.probe.pid
        self._settle(EngineStatus(EngineState.READY, found.url, found_by=found.found_by, pid=pid, tried=self._tried()))
        logger.info(
            "engine found", url=found.url, found_by=found.found_by, kind=str(found.kind), version=self._version, pid=pid
        )

    async def _watch(self) -> None:
        """Return when the ready engine is lost."""
        child = self._child
        ended = asyncio.create_task(child.wait(), name="service end") if child is not None else None
        try:
            lost = None
            while lost is None:
                await self._until_due(ended)
                if ended is None or not ended.done():
                    lost = await self._check()
                if ended is not None and (ended.done() or lost is not None):
                    # That it has ended tells more than that its port is closed.
                    await asyncio.wait([ended], timeout=_END_NOTICE_S)
                    lost = self._how_it_ended() or lost
        finally:
            if ended is not None:
                ended.cancel()
        self._client.close_idle()
        state, reason = lost
        self._settle(replace(self._status, state=state, reason=reason, pid=None))
        logger.critical(
            "engine lost", url=self._status.url, state=str(state), reason=reason, supervised=self._status.supervised
        )
        await self._end_child(polite_s=1.0)

    async def _until_due(self, ended: asyncio.Task[int] | None) -> None:
        """Wait until a check is due, asked for, or not needed because the child has ended."""
        asked = asyncio.create_task(self._wanted.wait(), name="check asked for")
        try:
            await asyncio.wait(
                [asked] if ended is None else [asked, ended],
                timeout=self._policy.check_every_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            asked.cancel()

    def _how_it_ended(self) -> tuple[EngineState, str] | None:
        child = self._child
        if child is None or child.returncode is None:
            return None
        return EngineState.CRASHED, f"it ended with status {child.returncode}" + (
            f": {child.last_words}" if child.last_words else ""
        )

    async def _check(self) -> tuple[EngineState, str] | None:
        """Probe the ready engine; as what and why it counts as lost, or None."""
        url = self._status.url or ""
        ticket = self._checks_asked
        self._wanted.clear()
        seen = await self._probe(url)
        for _ in range(self._policy.silent_probes - 1):
            if not seen.silent:
                break
            seen = await self._probe(url)
        if seen.kind is None:
            return _lost_state(seen), seen.outcome
        if seen.kind is not self._kind:
            self._kind, self._version = seen.kind, seen.version
        self._gateway = seen.gateway
        self._checks_done = ticket
        self._announce()
        await asyncio.sleep(self._policy.check_gap_s)
        return None

    async def _probe(self, url: str, *, asks_version: bool = False) -> ProbeResult:
        return await probe(
            self._client,
            url,
            timeout_s=self._policy.probe_timeout_s,
            headers=self._headers,
            takes_gateways=self._takes_gateways,
            asks_version=asks_version,
        )

    async def _end_child(self, *, polite_s: float = 5.0) -> None:
        child = self._child
        if child is not None:
            status = await child.stop(polite_s=polite_s)
            self._child = None
            logger.info("service ended", pid=child.pid, status=status)

    async def _pause(self, pause_s: float) -> None:
        """Wait between two looks around; shorter when somebody asks, though never a busy loop."""
        self._wanted.clear()
        # One address costs nothing to try; a search costs some 15 ms of a core.
        await asyncio.sleep(self._policy.first_delay_s * (5 if self._base_url is None else 1))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._wanted.wait()

    def _tried(self) -> tuple[tuple[str, str, str], ...]:
        return tuple(self._discovery.tried) if self._discovery is not None else ()

    def _settle(self, status: EngineStatus, *, in_vain: bool = False) -> None:
        self._status = status
        self._in_vain = in_vain
        self._checks_done = self._checks_asked
        self._announce()

    def _announce(self) -> None:
        """Wake everybody who waits; they look again."""
        self._changed.set()
        self._changed = asyncio.Event()


def _lost_state(seen: ProbeResult) -> EngineState:
    if seen.silent:
        return EngineState.WEDGED
    return EngineState.CRASHED if seen.refused else EngineState.DEGRADED
