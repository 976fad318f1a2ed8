"""The conformance matrix of a live engine: what it does by itself, and what a client of the gateway gets.

The left column comes from the probes, the right one from asking again through the repair with the profile that they
made. Nothing on the right is concluded from the left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from fastapi_foundry.engines.base import Call, ModelCard, Reply, ReplyStream
from fastapi_foundry.engines.openai_http import OpenAIHttpEngine
from fastapi_foundry.engines.probe import EngineKind
from fastapi_foundry.engines.repair.conformance_checks import CHECKS, Check
from fastapi_foundry.engines.repair.conformance_client import CHAT, BrokenContractError, Client
from fastapi_foundry.engines.repair.engine import RepairingEngine
from fastapi_foundry.engines.repair.probe_answers import shown
from fastapi_foundry.engines.repair.probing import Probed, probe_profile
from fastapi_foundry.engines.repair.profile import known_profile
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineUnavailableError,
    FoundryError,
    InvalidInputError,
    ModelNotFoundError,
    StructuredOutputError,
)
from fastapi_foundry.settings import EngineSettings, FoundryAISettings

__all__ = ["Conformance", "Outcome", "Progress", "Row", "judge", "measure_conformance"]

# Ends earlier, as soon as it is known whether an engine answers there.
REACH_TIMEOUT_S: Final = 10.0
REQUEST_TIMEOUT_S: Final = 30.0
PROBES_TIMEOUT_S: Final = 150.0
CHECKS_TIMEOUT_S: Final = 240.0
_KEY_REFUSED: Final = frozenset({401, 403})
_LOADED: Final = frozenset({"loaded", "in_use"})
_NO_CHAT: Final = ("embed", "whisper", "rerank", "transcri")
_NAMED_MODELS: Final = 5
_PROBED_PERCENT: Final = 40.0
_ABOUT_PROBES: Final = 29

Progress = Callable[[float, str], None]
"""Takes percent done and what is being done."""


class Outcome(StrEnum):
    """What a client of the gateway gets."""

    WORKS = "works"
    ALTERED = "altered"  # works, and X-Foundry-Altered says what was changed
    REFUSED = "refused"  # a 400 names the parameter
    UNMET = "unmet"  # a 422 says why no answer kept to the schema
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Row:
    """One feature.

    Attributes:
        feature: A field of ``EngineProfile``.
        behaviour: Its value in the probed profile.
        raw: What the engine did, in words.
        probed: Whether a probe saw it; if not, it is what is known of the kind of engine.
        outcome: What a client of the gateway gets.
        notes: What was altered or could not be shown, which parameter was refused, or what went wrong.
    """

    feature: str
    behaviour: str
    raw: str
    probed: bool
    outcome: Outcome
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Conformance:
    """The matrix of one engine and model.

    Attributes:
        troubles: Probes that came to nothing, and why; what they ask for is taken to be as known of the kind.
        duration_s: How long it took, the model's load included.
    """

    url: str
    kind: str
    model: str
    rows: tuple[Row, ...]
    troubles: tuple[str, ...]
    duration_s: float

    @property
    def failed(self) -> tuple[str, ...]:
        """The features where the repair does not do what it has to."""
        return tuple(row.feature for row in self.rows if row.outcome is Outcome.FAILED)


class _CountedEngine(OpenAIHttpEngine):
    """Tells how many requests were made, since the probes do not say how far they are."""

    on_request: Callable[[int], None] | None = None
    _requests = 0

    async def post(self, call: Call) -> Reply:
        self._count()
        return await super().post(call)

    def stream(self, call: Call) -> AbstractAsyncContextManager[ReplyStream]:
        self._count()
        return super().stream(call)

    def _count(self) -> None:
        if self.on_request is not None:
            self._requests += 1
            self.on_request(self._requests)


async def measure_conformance(
    settings: EngineSettings, defaults: FoundryAISettings, *, model: str | None, progress: Progress
) -> Conformance:
    """Reach an engine, load a model, probe it, and ask the same again through the repair.

    Takes seconds, and at most the load of the model and seven minutes.

    Args:
        settings: Where the engine is, and its key.
        defaults: Time-outs for what ``settings`` leaves open.
        model: Id or alias; None: a chat model that is loaded, else the demonstration, else the first.
        progress: Told about every step.

    Raises:
        EngineUnavailableError: No engine answers at the address.
        InvalidInputError: The engine wants a key, or another one.
        ModelNotFoundError: It has no such model, or none that chats.
        FoundryError: The model does not answer at all.
    """
    began = time.monotonic()
    engine = _CountedEngine(settings, defaults)
    try:
        progress(0.0, "Reaching the engine")
        cards = await _reached(engine, settings)
        card = _chosen(cards, model, engine.kind)
        progress(5.0, f"Loading {card.id}")
        await _awake(engine, card, settings)
        engine.on_request = lambda count: progress(
            min(_PROBED_PERCENT, 5.0 + 35.0 * count / _ABOUT_PROBES), f"Asking the engine itself: request {count}"
        )
        probed = await probe_profile(
            engine,
            card.id,
            start=known_profile(engine.kind),
            request_timeout_s=REQUEST_TIMEOUT_S,
            total_timeout_s=PROBES_TIMEOUT_S,
        )
        engine.on_request = None
        repaired = RepairingEngine(engine, lambda: probed.profile)
        await repaired.list_models()  # what it says of the model's context is part of the repair
        rows = await _rows(probed, Client(repaired, card.id, timeout_s=REQUEST_TIMEOUT_S), progress)
        troubles = tuple(f"{each.feature}: {each.raw}" for each in probed.findings if not each.behaviour)
        return Conformance(settings.url, str(engine.kind), card.id, rows, troubles, time.monotonic() - began)
    finally:
        await engine.aclose()


async def _rows(probed: Probed, client: Client, progress: Progress) -> tuple[Row, ...]:
    values = probed.profile.to_dict()
    deadline = time.monotonic() + CHECKS_TIMEOUT_S
    rows = []
    for number, (feature, check) in enumerate(CHECKS.items()):
        share = (100.0 - _PROBED_PERCENT) * number / len(CHECKS)
        progress(_PROBED_PERCENT + share, f"Asking through the repair: {feature}")
        outcome, notes = await judge(check, client, limit_s=deadline - time.monotonic())
        seen = [each.raw for each in probed.findings if each.feature == feature]
        rows.append(Row(feature, values[feature], _in_words(values[feature], seen), bool(seen), outcome, notes))
    return tuple(rows)


async def judge(check: Check, client: Client, *, limit_s: float) -> tuple[Outcome, tuple[str, ...]]:
    """Run one check; what came of it, and the notes of its ``Row``. Never raises for what the engine does."""
    client.alterations.clear()
    if limit_s <= 0:
        return Outcome.FAILED, ("not asked: the time for all checks is up",)
    try:
        remark = await asyncio.wait_for(check.run(client), limit_s)
    except BrokenContractError as error:
        return Outcome.FAILED, (str(error),)
    except StructuredOutputError as error:
        return (Outcome.UNMET if check.may_be_unmet else Outcome.FAILED), (shown(error.message),)
    except InvalidInputError as error:
        if error.param and error.param.startswith(check.may_refuse or "\0"):
            return Outcome.REFUSED, (error.param,)
        return Outcome.FAILED, (f"refused: {shown(error.message)}",)
    except FoundryError as error:
        return Outcome.FAILED, (f"{error.code}: {shown(error.message)}",)
    except TimeoutError:
        return Outcome.FAILED, ("no answer in time",)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return Outcome.FAILED, (f"an answer of another shape: {type(error).__name__} {shown(str(error))}",)
    altered = tuple(dict.fromkeys(client.alterations))
    return (Outcome.ALTERED if altered else Outcome.WORKS), ((*altered, remark) if remark else altered)


def _in_words(behaviour: str, seen: Sequence[str]) -> str:
    """What was seen of a feature; where nothing was, what is known of the kind."""
    if not seen:
        return f"{behaviour} (known of its kind, not probed)"
    # What is refused says so itself.
    return f"{behaviour}: {'; '.join(each.removeprefix('refused: ') for each in seen)}"


async def _reached(engine: OpenAIHttpEngine, settings: EngineSettings) -> list[ModelCard]:
    await engine.start()
    try:
        await engine.wait_ready(REACH_TIMEOUT_S)
    except EngineUnavailableError as error:
        reason = engine.status.reason
        if any(f"status {status}" in reason for status in _KEY_REFUSED):
            raise _key_refused(settings) from error
        raise EngineUnavailableError(f"No engine can be used at {settings.url}: {reason}.", url=settings.url) from error
    return await engine.list_models()


def _chosen(cards: Sequence[ModelCard], wanted: str | None, kind: EngineKind) -> ModelCard:
    if wanted is not None:
        for card in cards:
            if wanted in {card.id, card.extra.get("alias"), *card.names}:
                return card
        if kind is EngineKind.OPENAI:
            return ModelCard(wanted, 0, "")  # such servers often take more names than they list
        raise ModelNotFoundError(wanted, f"The engine has: {_names(cards)}.")
    chatting = [card for card in cards if _chats(card)]
    if not chatting:
        error = ModelNotFoundError("chat")
        error.message = f"The engine lists no model that chats; name one with --model. It has: {_names(cards)}."
        raise error
    loaded = [card for card in chatting if card.state in _LOADED]
    demonstrations = [card for card in chatting if card.extra.get("demonstration")]
    return (loaded or demonstrations or chatting)[0]


def _chats(card: ModelCard) -> bool:
    task = card.extra.get("task")
    return task.startswith("chat") if isinstance(task, str) else not any(word in card.id.lower() for word in _NO_CHAT)


def _names(cards: Sequence[ModelCard]) -> str:
    names = [card.id for card in cards[:_NAMED_MODELS]]
    return (", ".join(names) + (", ..." if len(cards) > _NAMED_MODELS else "")) or "none"


async def _awake(engine: OpenAIHttpEngine, card: ModelCard, settings: EngineSettings) -> None:
    """Load the model where it takes a request of its own, and see it answer once."""
    hello: Mapping[str, Any] = {"model": card.id, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    try:
        if engine.kind is not EngineKind.OPENAI and card.state not in _LOADED:
            await engine.load_model(card.id)
        await engine.post(Call(CHAT, orjson.dumps(hello), "conformance", None, hello))
    except EngineFailedError as error:
        status = error.context.get("engine_status")
        if status in _KEY_REFUSED:
            raise _key_refused(settings) from error
        words = f"The model '{card.id}' does not answer a plain request: {error.message}"
        raise EngineFailedError(words, **error.context) from error


def _key_refused(settings: EngineSettings) -> InvalidInputError:
    said = "does not take the key" if settings.api_key or settings.api_key_env else "wants a key"
    return InvalidInputError(
        f"The engine {said}; name the environment variable that holds the right one with --api-key-env.",
        param="api_key_env",
    )
