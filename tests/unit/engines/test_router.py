"""Which engine a request goes to, and where it goes next."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from fastapi_foundry.engines.base import Call, EngineState, ModelCard
from fastapi_foundry.engines.router import Router
from fastapi_foundry.engines.way import RoutedEngine
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineTimeoutError,
    EngineUnavailableError,
    FoundryError,
    InvalidInputError,
    ModelLoadingError,
    ModelNotFoundError,
)
from fastapi_foundry.settings import load_settings
from tests.support.fake_engine import FakeEngine, content_chunks

CHAT = "/v1/chat/completions"


def engine(*models: str, **more: Any) -> FakeEngine:
    return FakeEngine(cards=[ModelCard(name, 1, "tests", "loaded") for name in models], **more)


def router(aliases: Mapping[str, object] | None = None, patience_s: float = 5.0, **engines: FakeEngine) -> Router:
    entries = [{"name": name, "url": "http://127.0.0.1:1"} for name in engines if name != "foundry"]
    overrides = {"engines": entries, "model_aliases": dict(aliases or {}), "home": "/nowhere"}
    settings = load_settings(None, {"HOME": "/nowhere"}, overrides)
    routed = [RoutedEngine(name, made) for name, made in engines.items()]
    return Router(routed, settings.model_aliases, patience_s=patience_s)


def call(model: str, **more: Any) -> Call:
    return Call(CHAT, orjson.dumps({"model": model, "messages": []}), **more)


async def ids(made: Router) -> list[str]:
    return [card.id for card in await made.list_models()]


async def test_a_single_engine_gets_the_clients_own_bytes_and_nothing_is_noted() -> None:
    only = engine("m:1")
    made = router(foundry=only)
    sent = call("m:1")
    reply = await made.post(sent)
    assert only.calls[0].body is sent.body
    assert (reply.notes.engine, reply.notes.fallback) == ("", ())


async def test_models_go_by_their_bare_names_unless_several_engines_have_them() -> None:
    made = router(foundry=engine("m:1", "both"), b=engine("n:1", "both"))
    assert await ids(made) == ["m:1", "foundry::both", "n:1", "b::both"]
    assert (await made.post(call("n:1"))).notes.engine == "b"
    assert (await made.post(call("b::both"))).notes.engine == "b"
    with pytest.raises(ModelNotFoundError, match="say which: foundry::both, b::both"):
        await made.post(call("both"))
    with pytest.raises(ModelNotFoundError, match="no engine 'c'; there are: foundry, b"):
        await made.post(call("c::both"))


async def test_a_qualified_name_reaches_the_engine_as_its_own() -> None:
    other = engine("n:1")
    await router(foundry=engine("m:1"), b=other).post(call("b::anything"))
    assert other.calls[0].parsed["model"] == "anything"


async def test_a_name_that_came_since_the_last_list_is_found() -> None:
    only = engine()
    made = router(foundry=only)
    await made.list_models()
    only.cards = [ModelCard("late:1", 1, "tests")]
    assert (await made.post(call("late:1"))).body


async def test_a_request_before_the_engine_has_started_waits_for_it() -> None:
    class Starting(FakeEngine):
        async def wait_ready(self, timeout_s: float) -> None:
            assert timeout_s == 30.0
            self.list_error = None

    starting = Starting(cards=[ModelCard("m:1", 1, "tests")], list_error=EngineUnavailableError("it is starting"))
    made = router({"fast": "m:1"}, foundry=starting)
    assert (await made.post(call("fast"))).body
    starting.list_error = EngineUnavailableError("gone")
    assert (await made.post(call("m:1"))).body  # a name that is known needs no list


async def test_an_engine_that_does_not_tell_its_models_in_time_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_foundry.engines.router._LIST_S", 0.02)
    made = router(foundry=engine("m:1", list_gate=asyncio.Event()))
    with pytest.raises(EngineTimeoutError, match="'foundry' did not tell its models"):
        await made.list_models()


async def test_an_engine_that_does_not_answer_keeps_its_last_list_and_the_others_go_on() -> None:
    first, second = engine("m:1"), engine("n:1")
    made = router(foundry=first, b=second)
    assert await ids(made) == ["m:1", "n:1"]
    first.list_error = EngineUnavailableError("gone")
    second.cards = [ModelCard("n:2", 1, "tests")]
    assert await ids(made) == ["m:1", "n:2"]
    second.list_error = EngineFailedError("gone too")
    with pytest.raises(EngineUnavailableError):
        await made.list_models()


async def test_an_alias_is_listed_with_what_it_stands_for_and_hides_a_model_of_that_name() -> None:
    made = router({"fast": "m:1", "n:1": "m:1"}, foundry=engine("m:1"), b=engine("n:1"))
    cards = {card.id: card for card in await made.list_models()}
    assert list(cards) == ["m:1", "b::n:1", "fast", "n:1"]
    assert cards["fast"].extra["alias_of"] == "foundry::m:1"
    reply = await made.post(call("n:1"))
    assert (reply.notes.engine, orjson.loads(reply.body)["model"]) == ("foundry", "m:1")


@pytest.mark.parametrize("fact", [EngineFailedError("broke"), ModelNotFoundError("a"), EngineUnavailableError("gone")])
async def test_a_chain_goes_on_to_the_next_model_and_says_so(fact: FoundryError) -> None:
    first, second = engine("m:1", error=fact), engine("n:1")
    made = router({"chain": ["m:1", "b::n:1"]}, foundry=first, b=second)
    await made.list_models()
    reply = await made.post(call("chain"))
    assert reply.notes.engine == "b"
    assert reply.notes.fallback == (f"foundry::m:1: {fact.code}",)
    async with made.stream(call("chain")) as stream:
        assert stream.notes.engine == "b"
        assert b"".join([part async for part in stream]) == b"".join(content_chunks("Hel", "lo."))


async def test_a_wrong_request_is_not_tried_elsewhere() -> None:
    first, second = engine("m:1", error=InvalidInputError("wrong")), engine("n:1")
    made = router({"chain": ["m:1", "n:1"]}, foundry=first, b=second)
    with pytest.raises(InvalidInputError):
        await made.post(call("chain"))
    assert second.calls == []


async def test_when_all_fail_the_last_reason_is_told() -> None:
    made = router(
        {"chain": ["m:1", "n:1"]},
        foundry=engine("m:1", error=EngineUnavailableError("first")),
        b=engine("n:1", error=EngineFailedError("last")),
    )
    with pytest.raises(EngineFailedError, match="last"):
        await made.post(call("chain"))
    with pytest.raises(EngineFailedError, match="last"):
        async with made.stream(call("chain")):
            pytest.fail("entered")


async def test_a_stream_that_breaks_after_its_first_bytes_is_never_answered_elsewhere() -> None:
    first = engine("m:1", chunks=[content_chunks("Hel")[0], EngineFailedError("broke")])
    second = engine("n:1")
    made = router({"chain": ["m:1", "n:1"]}, foundry=first, b=second)

    async def read_all() -> None:
        async with made.stream(call("chain")) as stream:
            async for _ in stream:
                pass

    with pytest.raises(EngineFailedError, match="broke"):
        await read_all()
    assert second.calls == []
    assert made.engines["foundry"].active == 0


async def test_an_engine_that_is_known_to_be_dead_is_not_asked_while_there_is_another() -> None:
    first, second = engine("m:1"), engine("n:1")
    made = router({"chain": ["m:1", "n:1"]}, foundry=first, b=second)
    await made.list_models()
    first.state = EngineState.CRASHED
    assert await ids(made) == ["m:1", "n:1", "chain"]  # without waiting for it
    assert first.lists == 1
    reply = await made.post(call("chain"))
    assert first.calls == []
    assert reply.notes.fallback == ("foundry::m:1: crashed",)


async def test_an_open_breaker_spares_the_engine_until_its_pause_is_over() -> None:
    first, second = engine("m:1", error=EngineFailedError("broke")), engine("n:1")
    made = router({"chain": ["m:1", "n:1"]}, foundry=first, b=second)
    for _ in range(5):
        await made.post(call("chain"))
    assert len(first.calls) == 3
    assert (await made.post(call("chain"))).notes.fallback == ("foundry::m:1: breaker open",)
    with pytest.raises(EngineFailedError):
        await made.post(call("m:1"))  # where there is nobody else it is asked all the same


async def test_replicas_share_by_weight_and_by_how_busy_they_are() -> None:
    first, second = engine("m:1"), engine("m:1")
    replicas = [{"model": "foundry::m:1", "weight": 1}, {"model": "b::m:1", "weight": 3}]
    made = router({"both": {"replicas": replicas}}, foundry=first, b=second)
    for _ in range(40):
        await made.post(call("both"))
    assert (len(first.calls), len(second.calls)) == (10, 30)
    first.gate, second.gate = asyncio.Event(), asyncio.Event()
    waiting = [asyncio.create_task(made.post(call("both"))) for _ in range(8)]
    while made.engines["foundry"].active + made.engines["b"].active < 8:
        await asyncio.sleep(0)
    assert (made.engines["foundry"].active, made.engines["b"].active) == (2, 6)
    first.gate.set()
    second.gate.set()
    await asyncio.gather(*waiting)


async def test_a_replica_that_was_away_does_not_get_all_that_it_missed() -> None:
    first, second = engine("m:1"), engine("m:1")
    made = router({"both": {"replicas": ["foundry::m:1", "b::m:1"]}}, foundry=first, b=second)
    await made.list_models()
    first.state = EngineState.CRASHED
    for _ in range(30):
        await made.post(call("both"))
    assert first.calls == []
    first.state = EngineState.READY
    for _ in range(10):
        await made.post(call("both"))
    assert len(first.calls) in {5, 6}


async def test_a_replica_that_fails_hands_over_to_the_other() -> None:
    first, second = engine("m:1", error=EngineFailedError("broke")), engine("m:1")
    made = router({"both": {"replicas": ["foundry::m:1", "b::m:1"]}}, foundry=first, b=second)
    assert (await made.post(call("both"))).notes.engine == "b"


async def test_a_model_that_is_loading_is_waited_for_and_opens_no_breaker() -> None:
    only = engine("m:1", error=ModelLoadingError("soon", retry_after_s=0.01))
    made = router(foundry=only)
    waiting = asyncio.create_task(made.post(call("m:1")))
    while len(only.calls) < 4:
        await asyncio.sleep(0.005)
    only.error = None
    assert (await waiting).body
    assert made.engines["foundry"].breaker.allows()


async def test_a_model_that_goes_on_loading_ends_with_that_reason() -> None:
    made = router(patience_s=0.05, foundry=engine("m:1", error=ModelLoadingError("soon", retry_after_s=0.02)))
    with pytest.raises(ModelLoadingError):
        await made.post(call("m:1"))
    with pytest.raises(ModelLoadingError):
        await made.post(call("m:1", timeout_s=0.03))


async def test_the_client_that_leaves_says_nothing_about_the_engine() -> None:
    only = engine("m:1", gate=asyncio.Event())
    made = router(foundry=only)
    waiting = asyncio.create_task(made.post(call("m:1")))
    while not only.calls:
        await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert only.calls[0].cancelled
    routed = made.engines["foundry"]
    assert (routed.active, routed.breaker.allows()) == (0, True)


async def test_loading_goes_to_the_engine_of_the_name() -> None:
    second = engine("n:1")
    made = router(foundry=engine("m:1"), b=second)
    await made.list_models()
    await made.load_model("b::n:1")
    assert second.loaded == ["n:1"]


async def test_the_status_is_foundrys_unless_only_another_can_be_used() -> None:
    first, second = engine("m:1", url="http://a"), engine("n:1", url="http://b")
    made = router(foundry=first, b=second)
    assert made.status.url == "http://a"
    first.state = EngineState.ABSENT
    assert made.status.url == "http://b"
    second.state = EngineState.CRASHED
    assert made.status.url == "http://a"


async def test_a_download_goes_to_the_engine_that_its_name_says_and_to_foundry_without_one() -> None:
    made = router(foundry=engine("m:1"), b=engine("n:1"))
    made.engines["b"].engine.error = EngineFailedError("b was asked")  # type: ignore[attr-defined]
    async with made.download("far") as progress:
        assert [step.model async for step in progress] == ["", "far:1"]
    assert (await made.cancel_download("b::far"))["model"] == "far"
    with pytest.raises(EngineFailedError, match="b was asked"):
        async with made.download("b::far"):
            pass
    with pytest.raises(InvalidInputError, match="no engine 'c'; there are: foundry, b"):
        made.download("c::far")


async def test_the_catalogue_is_everybodys_and_names_who_does_not_tell() -> None:
    silent = engine("n:1", list_error=EngineUnavailableError("It is away."))
    catalog = await router(foundry=engine("m:1"), b=silent).catalog(refresh=True)
    assert [(model.engine, model.id) for model in catalog.models] == [("foundry", "far:1")]
    assert [(source.engine, source.status, source.reason) for source in catalog.sources] == [
        ("foundry", "fresh", ""),
        ("b", "unavailable", "It is away."),
    ]
