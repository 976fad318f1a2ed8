from __future__ import annotations

import asyncio

import pytest

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.errors import EngineUnavailableError, ModelNotFoundError
from fastapi_foundry.services.models import ModelsService
from tests.support.fake_engine import FakeEngine


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_the_list_is_read_at_most_once_a_second() -> None:
    engine, clock = FakeEngine(), Clock()
    models = ModelsService(engine, clock=clock)
    await models.cards()
    await models.cards()
    assert engine.lists == 1
    clock.now += 1.0
    await models.cards()
    assert engine.lists == 2


async def test_many_who_ask_at_once_cause_one_reading() -> None:
    engine = FakeEngine(list_gate=asyncio.Event())
    models = ModelsService(engine)
    waiting = [asyncio.create_task(models.cards()) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    engine.list_gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert engine.lists == 1
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(answer == engine.cards for answer in answers[1:])


async def test_a_known_name_is_let_through_without_asking_the_engine_again() -> None:
    engine, clock = FakeEngine(), Clock()
    models = ModelsService(engine, clock=clock)
    await models.require_known("m")
    clock.now += 1000
    await models.require_known("m:1")
    assert engine.lists == 1


async def test_a_model_that_came_a_moment_ago_is_known_at_once() -> None:
    engine, clock = FakeEngine(), Clock()
    models = ModelsService(engine, clock=clock)
    await models.cards()
    with pytest.raises(ModelNotFoundError):
        await models.require_known("new:1")
    engine.cards = [*engine.cards, ModelCard("new:1", 1, "tests"), ModelCard("newer:1", 1, "tests")]
    await models.require_known("new:1")
    engine.cards = [*engine.cards, ModelCard("newest:1", 1, "tests")]
    assert (await models.get("newest:1")).id == "newest:1"


async def test_an_unknown_name_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'zz'.*Available: m:1, other:2"):
        await ModelsService(FakeEngine()).require_known("zz")


async def test_nothing_is_refused_while_the_engine_does_not_tell_its_models() -> None:
    engine = FakeEngine(list_error=EngineUnavailableError("away"))
    await ModelsService(engine).require_known("zz")


async def test_loading_makes_the_list_be_read_anew() -> None:
    engine, clock = FakeEngine(), Clock()
    models = ModelsService(engine, clock=clock)
    await models.cards()
    assert (await models.load("m"))["status"] == "loaded"
    await models.cards()
    assert engine.lists == 2


async def test_a_model_is_found_by_id_and_by_alias() -> None:
    models = ModelsService(FakeEngine())
    assert (await models.get("m")).id == (await models.get("m:1")).id == "m:1"
    with pytest.raises(ModelNotFoundError):
        await models.get("zz")
