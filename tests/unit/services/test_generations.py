"""What becomes of a generation stands in the record of use, whatever became of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.errors import (
    EngineFailedError,
    EngineUnavailableError,
    ModelNotAllowedError,
    ModelNotFoundError,
    TokenBudgetExceededError,
)
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.inference import (
    GenerationEnd,
    InferenceDefaults,
    InferenceService,
    OpenAIRequest,
)
from fastapi_foundry.services.limits import LimitsService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.usage import UNKNOWN_MODEL, UsageService, Use
from fastapi_foundry.storage.database import open_database
from fastapi_foundry.storage.usage import UsageStore
from fastapi_foundry.wire.native import GenerateRequest
from fastapi_foundry.wire.openai import ChatCompletionRequest
from tests.support.fake_engine import FakeEngine, chunk, content_chunks, frame
from tests.support.gateway import gateway_settings

ENOUGH = 10**6


class Books(UsageService):
    """A record of use that a test can read."""

    def __init__(self, store: UsageStore) -> None:
        super().__init__(store)
        self.uses: list[Use] = []

    def record(self, use: Use) -> None:
        self.uses.append(use)
        super().record(use)

    @property
    def last(self) -> tuple[str | None, str, int, int, bool]:
        use = self.uses[-1]
        return use.key_id, use.model, use.prompt_tokens, use.completion_tokens, use.failed


class SlowEngine(FakeEngine):
    async def _wait(self) -> None:
        await asyncio.sleep(0.001)


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[Books]:
    database = await open_database(gateway_settings(tmp_path))
    yield Books(UsageStore(database))
    await database.aclose()


def guest(*models: str, **limits: int) -> Principal:
    allowed = models or None
    return Principal("key_1", "guest", frozenset({Scope.CHAT}), allowed_models=allowed, limits=KeyLimits(**limits))


def service(engine: FakeEngine, books: Books) -> tuple[InferenceService, LimitsService]:
    limits = LimitsService(KeyLimits(), books)
    defaults = InferenceDefaults("m:1", 0.7, 2048)
    return InferenceService(engine, ModelsService(engine), defaults, usage=books, limits=limits), limits


def chat(principal: Principal = LOCAL, content: Any = "12345678", **extra: Any) -> OpenAIRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], **extra}
    checked = ChatCompletionRequest.model_validate(body)
    return OpenAIRequest("/v1/chat/completions", orjson.dumps(body), body, checked, "r1", principal)


async def stream(inference: InferenceService, request: OpenAIRequest, *, leave_after: int = ENOUGH) -> list[bytes]:
    got: list[bytes] = []
    async with inference.stream(request) as frames:
        async for piece in frames:
            got.append(piece)
            if len(got) == leave_after:
                raise asyncio.CancelledError
    return got


async def test_the_engines_figures_are_recorded_for_the_key(books: Books) -> None:
    inference, _ = service(FakeEngine(), books)
    await inference.complete(chat(guest()))
    assert books.last == ("key_1", "m:1", 5, 2, False)
    await stream(inference, chat(stream=True))
    assert books.last == (None, "m:1", 5, 2, False)


async def test_a_client_that_hangs_up_pays_for_what_it_has_got(books: Books) -> None:
    inference, _ = service(FakeEngine(chunks=content_chunks(*"abcdefgh")), books)
    with pytest.raises(asyncio.CancelledError):
        await stream(inference, chat(guest(), stream=True), leave_after=5)  # the role and four letters
    assert books.last == ("key_1", "m:1", 2, 4, False)


async def test_a_whole_answer_that_nobody_waits_for_costs_its_prompt(books: Books) -> None:
    engine = FakeEngine(gate=asyncio.Event())
    inference, _ = service(engine, books)
    task = asyncio.create_task(inference.complete(chat(guest())))
    while not engine.active:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert books.last == ("key_1", "m:1", 2, 0, False)


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("äöü", 2),
        ([{"type": "text", "text": "1234"}, {"type": "image_url", "image_url": {"url": "data:" + "A" * 4000}}], 1),
    ],
)
async def test_prompts_are_estimated_by_their_text_alone(books: Books, content: Any, tokens: int) -> None:
    inference, _ = service(FakeEngine(chunks=content_chunks(*"abcdefgh")), books)
    with pytest.raises(asyncio.CancelledError):
        await stream(inference, chat(content=content, stream=True), leave_after=2)
    assert books.last[2:4] == (tokens, 1)


async def test_what_an_engine_broke_off_counts_as_far_as_it_came_and_as_a_failure(books: Books) -> None:
    broken = FakeEngine(chunks=[*content_chunks("a", "b")[:3], EngineFailedError("gone")])
    inference, _ = service(broken, books)
    with pytest.raises(EngineFailedError):
        await stream(inference, chat(stream=True))
    assert books.last == (None, "m:1", 2, 2, True)


async def test_an_engine_that_is_away_costs_nothing(books: Books) -> None:
    inference, _ = service(FakeEngine(error=EngineUnavailableError("away")), books)
    with pytest.raises(EngineUnavailableError):
        await inference.complete(chat())
    assert books.last == (None, "m:1", 0, 0, True)


@pytest.mark.parametrize("usage", [{"prompt_tokens": -5, "completion_tokens": "7"}, {"prompt_tokens": True}, []])
async def test_figures_that_make_no_sense_are_not_believed(books: Books, usage: Any) -> None:
    inference, _ = service(
        FakeEngine(
            chunks=[*content_chunks("a", usage=False)[:-1], frame({**chunk({}), "choices": [], "usage": usage})]
        ),
        books,
    )
    await stream(inference, chat(stream=True))
    assert books.last[2] == 2


async def test_names_of_a_clients_making_do_not_fill_the_record(books: Books) -> None:
    engine = FakeEngine()
    inference, _ = service(engine, books)
    with pytest.raises(ModelNotFoundError):
        await inference.complete(chat(model="made-up"))
    assert books.last == (None, UNKNOWN_MODEL, 0, 0, True)
    away = FakeEngine(list_error=EngineUnavailableError("away"), error=EngineUnavailableError("away"))
    inference, _ = service(away, books)
    with pytest.raises(EngineUnavailableError):
        await inference.complete(chat(model="made-up-too"))
    assert books.last == (None, UNKNOWN_MODEL, 0, 0, True)


@pytest.mark.parametrize("allowed", ["m", "m:1", "m*", "oth*"])
@pytest.mark.parametrize("asked", ["m", "m:1"])
async def test_a_key_for_one_name_of_a_model_is_for_the_model(books: Books, allowed: str, asked: str) -> None:
    inference, _ = service(FakeEngine(), books)
    if allowed == "oth*":
        with pytest.raises(ModelNotAllowedError, match=f"The key 'guest' may not use the model '{asked}'"):
            await inference.complete(chat(guest(allowed), model=asked))
        assert books.last == ("key_1", "m:1", 0, 0, True)
    else:
        await inference.complete(chat(guest(allowed), model=asked))


async def test_the_native_api_asks_for_the_same_right(books: Books) -> None:
    inference, _ = service(FakeEngine(), books)
    with pytest.raises(ModelNotAllowedError):
        await inference.generate(GenerateRequest(prompt="hi"), request_id="r", principal=guest("other"))
    with pytest.raises(ModelNotAllowedError):
        async with inference.generate_stream(GenerateRequest(prompt="hi"), request_id="r", principal=guest("other")):
            pass


async def test_a_key_does_not_learn_which_models_it_may_not_use(books: Books) -> None:
    inference, _ = service(FakeEngine(cards=[ModelCard("secret:1", 1, "tests")]), books)
    answers = []
    for asked in ("secret:1", "no-such:1"):
        with pytest.raises(ModelNotAllowedError) as caught:
            await inference.complete(chat(guest("mine*"), model=asked))
        answers.append(caught.value.message.replace(asked, ""))
    assert answers[0] == answers[1]
    with pytest.raises(ModelNotFoundError) as missing:
        await inference.complete(chat(guest("mine*"), model="mine:1"))
    assert "secret" not in missing.value.message


async def test_a_stream_ends_with_its_budget_and_so_does_the_engines_work(
    books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    engine = FakeEngine(chunks=content_chunks(*"abcdefgh"))
    inference, limits = service(engine, books)
    principal = guest(tokens_per_day=4)
    await limits.take(principal)
    got: list[bytes] = []

    async def collect() -> None:
        async with inference.stream(chat(principal, stream=True)) as frames:
            async for piece in frames:
                got.append(piece)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(TokenBudgetExceededError, match="limited to 4 tokens per day and this answer ends here"):
        await collect()
    assert b"".join(got) == b"".join(content_chunks(*"abcde")[:6])
    assert books.last == ("key_1", "m:1", 2, 5, True)
    assert engine.active == 0
    assert "operation=generate status=limited" in caplog.text
    assert (await limits.take(principal)).refusal is not None


async def test_a_stream_that_had_only_its_end_left_to_say_ends_well(books: Books) -> None:
    chunks = content_chunks(*"abcde")
    inference, limits = service(FakeEngine(chunks=chunks), books)
    principal = guest(tokens_per_day=4)
    await limits.take(principal)
    request = chat(principal, stream=True, stream_options={"include_usage": True})
    assert b"".join(await stream(inference, request)) == b"".join(chunks)
    assert books.last == ("key_1", "m:1", 5, 2, False)


async def test_a_batch_stops_at_the_prompt_that_finds_the_budget_used_up(books: Books) -> None:
    inference, limits = service(FakeEngine(), books)  # seven tokens each
    principal = guest(tokens_per_day=20)
    ticket = await limits.take(principal)
    batches = BatchesService(inference, max_prompts=9, concurrency=1)
    results = await batches.generate(
        [GenerateRequest(prompt="hi")] * 5, request_id="r", principal=principal, ticket=ticket
    )
    assert [isinstance(result, GenerationEnd) for result in results] == [True, True, True, False, False]
    assert isinstance(results[3], TokenBudgetExceededError)


async def test_a_batch_runs_no_more_prompts_at_a_time_than_its_key_may(books: Books) -> None:
    engine = SlowEngine()
    inference, limits = service(engine, books)
    principal = guest(concurrent_requests=2)
    ticket = await limits.take(principal)
    batches = BatchesService(inference, max_prompts=9, concurrency=4)
    await batches.generate([GenerateRequest(prompt="hi")] * 8, request_id="r", principal=principal, ticket=ticket)
    assert engine.most_active == 2
