"""Gateways that have each other as engines: who offers what, that nothing goes in a circle, and what an end of one means."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.engines.base import Engine, EngineState, ModelCard
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.process import bind_first_free
from fastapi_foundry.engines.router import Router
from fastapi_foundry.engines.way import RoutedEngine
from fastapi_foundry.errors import EngineUnavailableError
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import RunningGateway, gateway_settings, running_gateway
from tests.support.waiting import eventually

CHAT = "/v1/chat/completions"


class Mesh:
    """Gateways by name, each with a model of its own and one that all have; ``aliases`` by the gateway's name."""

    def __init__(self, home: Path, aliases: Mapping[str, object], neighbours: Mapping[str, str]) -> None:
        self.running: dict[str, RunningGateway] = {}
        self._home = home
        self._aliases = aliases
        self._neighbours = neighbours
        self._stacks: dict[str, AsyncExitStack] = {}
        self._ports = {name: _free_port() for name in neighbours}

    def __getitem__(self, name: str) -> RunningGateway:
        return self.running[name]

    async def start(self, name: str) -> None:
        cards = [ModelCard(f"{name}:1", 1, "tests", "loaded", {"alias": name}), ModelCard("m:1", 1, "tests", "loaded")]
        engines = [
            {"name": other, "url": f"http://127.0.0.1:{self._ports[other]}", "required": False}
            for other in self._neighbours[name]
        ]
        stack = self._stacks[name] = AsyncExitStack()
        home, engine = self._home / name, FakeEngine(text=f"I am {name}.", cards=cards)
        aliases = self._aliases.get(name, {})
        gateway = running_gateway(home, engine, port=self._ports[name], engines=engines, model_aliases=aliases)
        self.running[name] = await stack.enter_async_context(gateway)

    async def end(self, name: str) -> None:
        await self._stacks.pop(name).aclose()

    async def end_all(self) -> None:
        for name in list(self._stacks):
            await self.end(name)

    async def ready(self) -> None:
        """Every gateway has found every other that it has as an engine."""
        engines = [routed.engine for gateway in self.running.values() for routed in engines_of(gateway)]
        await eventually(lambda: all_usable(engines))

    def forget_lists(self) -> None:
        """No list is fresh any more."""
        for gateway in self.running.values():
            gateway.services.models._fetched_at = float("-inf")

    async def ids(self, name: str) -> set[str]:
        answer = await self[name].client.get("/v1/models")
        assert answer.status_code == 200, answer.text
        return {entry["id"] for entry in answer.json()["data"]}

    async def chat(self, name: str, model: str, **headers: str) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "Who?"}]}
        return await self[name].client.post(CHAT, json=body, headers=headers)

    async def who(self, name: str, model: str) -> str:
        answer = await self.chat(name, model)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])


def engines_of(gateway: RunningGateway) -> list[RoutedEngine]:
    assert isinstance(gateway.services.engine, Router)
    return list(gateway.services.engine.engines.values())


async def all_usable(engines: list[Engine]) -> bool:
    for engine in engines:
        with suppress(EngineUnavailableError):
            await engine.wait_ready(0.0)  # an engine that somebody waits for is looked for sooner
    return all(engine.status.state.is_usable for engine in engines)


def _free_port() -> int:
    with bind_first_free("127.0.0.1", 0, 1, 0) as sock:
        return int(sock.getsockname()[1])


@asynccontextmanager
async def mesh(home: Path, aliases: Mapping[str, object] | None = None, **neighbours: str) -> AsyncIterator[Mesh]:
    """``mesh(home, a="bc", b="a")``: b has a as an engine, a has b and c; the last one is started first."""
    made = Mesh(home, aliases or {}, neighbours)
    try:
        for name in reversed(neighbours):
            await made.start(name)
        await made.ready()
        yield made
    finally:
        await made.end_all()


async def test_in_a_triangle_every_model_is_offered_once_and_a_bare_name_is_that_of_the_nearest(tmp_path: Path) -> None:
    async with mesh(tmp_path, a="bc", b="ca", c="ab") as made:
        for _ in range(2):
            for name, others in {"a": "bc", "b": "ca", "c": "ab"}.items():
                expected = {"a:1", "b:1", "c:1", "m:1", *(f"{other}::m:1" for other in others)}
                assert await made.ids(name) == expected
        assert [await made.who("a", model) for model in ("m:1", "b::m:1", "c:1")] == ["I am a.", "I am b.", "I am c."]
        assert await made.who("a", "b::c::m:1") == "I am c."


async def test_lists_that_gateways_make_at_the_same_time_never_wait_for_each_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with mesh(tmp_path, a="bc", b="ca", c="ab") as made:
        for _ in range(3):
            made.forget_lists()
            began = time.monotonic()
            await asyncio.gather(*(made.ids(name) for name in "abcabc"))
            assert time.monotonic() - began < 0.8
        reports = [report for gateway in made.running.values() for report in gateway.services.engine_reports()]
        assert {(report.status.state, report.breaker) for report in reports} == {(EngineState.READY, "closed")}
        assert "loop_detected" not in caplog.text  # nobody is even asked on its own behalf


async def test_a_chain_offers_what_is_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastapi_foundry.engines.openai_http._HEARSAY_S", 0.1)
    async with mesh(tmp_path, a="b", b="c", c="d", d="") as made:
        await eventually(lambda: _has(made, "a", "d:1"))
        assert await made.who("a", "d:1") == "I am d."
        assert await made.who("a", "b::c::d::m:1") == "I am d."
        card = await made["a"].services.models.get("d:1")
        assert len(card.extra["via"]) == 3
        assert "d:1" in await made.ids("c")


async def _has(made: Mesh, name: str, model: str) -> bool:
    made.forget_lists()
    return model in await made.ids(name)


async def test_a_request_that_comes_back_is_refused_and_counts_as_nobodys_failure(tmp_path: Path) -> None:
    async with mesh(tmp_path, a="b", b="a") as made:
        began = time.monotonic()
        answers = [await made.chat("a", "b::a::b::m:1") for _ in range(4)]
        assert time.monotonic() - began < 1
        assert {answer.status_code for answer in answers} == {508}
        assert answers[0].json()["error"]["code"] == "loop_detected"
        generate = {"prompt": "x", "model": "b::a::b::m:1"}
        native = await made["a"].client.post("/api/v1/generate", json=generate)
        assert (native.status_code, native.json()["error"]) == (508, "Loop detected")
        assert made["a"].engine.calls == made["b"].engine.calls == []
        for name in "ab":
            assert {report.breaker for report in made[name].services.engine_reports()} == {"closed"}
        assert await made.who("a", "b:1") == "I am b."


async def test_a_loop_leads_to_the_next_target_of_an_alias(tmp_path: Path) -> None:
    async with mesh(tmp_path, {"b": {"best": ["a::m:1", "m:1"]}}, a="b", b="a") as made:
        assert await made.who("a", "b::best") == "I am b."
        assert await made.who("b", "best") == "I am a."


async def test_what_carries_our_own_pseudonym_is_refused_on_every_path(tmp_path: Path) -> None:
    async with mesh(tmp_path, a="") as made:
        via = {"via": made["a"].services.via.own}
        for path in ("/v1/models", "/api/v1/models", "/api/v1/version"):
            answer = await made["a"].client.get(path, headers=via)
            assert answer.status_code == 508
            assert b"loop_detected" in answer.content
        long = ", ".join(f"1.1 foundry-{number:016x}" for number in range(8))
        assert (await made.chat("a", "m:1", via=long)).status_code == 508
        answer = await made.chat("a", "m:1", via=long.rpartition(",")[0])
        assert (answer.status_code, answer.headers["via"]) == (200, made["a"].services.via.own)
        assert "via" not in (await made.chat("a", "m:1")).headers


async def test_a_gateway_that_ends_is_a_clear_error_and_one_that_is_alone_goes_on(tmp_path: Path) -> None:
    async with mesh(tmp_path, a="b", b="a") as made:
        assert "b:1" in await made.ids("a")
        await made.end("b")
        answer = await made.chat("a", "b:1")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert "connection refused" in answer.json()["error"]["message"]
        assert await made.who("a", "m:1") == "I am a."


async def test_a_gateway_that_is_its_own_engine_says_so_and_is_no_engine(tmp_path: Path) -> None:
    made = Mesh(tmp_path, {}, {"a": "a"})
    await made.start("a")
    try:
        reports = made["a"].services.engine_reports
        await eventually(lambda: "this gateway itself" in reports()[1].status.reason)
        assert await made.ids("a") == {"a:1", "m:1"}
    finally:
        await made.end_all()


async def test_a_gateway_is_never_taken_for_foundry_local(tmp_path: Path) -> None:
    async with mesh(tmp_path, a="") as made:
        engine = FoundryLocalEngine(gateway_settings(tmp_path, foundry_ai__base_url=made["a"].url))
        await engine.start()
        await eventually(lambda: "it is a gateway, not an engine; to use it" in engine.status.reason)
        await engine.aclose()
        assert made["a"].engine.calls == []


async def test_a_gateway_asks_another_on_behalf_of_a_third_only_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi_foundry.engines.openai_http._HEARSAY_S", 0.1)
    async with mesh(tmp_path, a="b", b="c", c="") as made:
        await eventually(lambda: _has(made, "a", "c:1"))
        monkeypatch.setattr("fastapi_foundry.engines.openai_http._HEARSAY_S", 60.0)
        made["c"].engine.cards = [ModelCard("new:1", 1, "tests")]
        for _ in range(3):
            made.forget_lists()
            assert "c:1" in await made.ids("a")
        made.forget_lists()
        assert "new:1" in await made.ids("b")
        made.forget_lists()
        assert "new:1" in await made.ids("a")
