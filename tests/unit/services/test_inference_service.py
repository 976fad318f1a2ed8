from __future__ import annotations

from typing import Any

import orjson
import pytest

from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineFailedError,
    FoundryError,
    InvalidInputError,
    ModelNotFoundError,
)
from fastapi_foundry.services import generations as generations_module
from fastapi_foundry.services.batches import BatchesService
from fastapi_foundry.services.inference import (
    GenerationEnd,
    GenerationPiece,
    InferenceDefaults,
    InferenceService,
    OpenAIRequest,
)
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.wire.native import GenerateRequest
from fastapi_foundry.wire.openai import ChatCompletionRequest
from tests.support.fake_engine import USAGE, FakeEngine, SeenCall, chunk, content_chunks, frame


def service(engine: FakeEngine) -> InferenceService:
    return InferenceService(engine, ModelsService(engine), InferenceDefaults("m:1", 0.7, 2048))


def chat_request(**extra: Any) -> OpenAIRequest:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **extra}
    raw = orjson.dumps(body, option=orjson.OPT_INDENT_2)
    return OpenAIRequest("/v1/chat/completions", raw, body, ChatCompletionRequest.model_validate(body), "r1")


async def streamed(engine: FakeEngine, request: OpenAIRequest) -> bytes:
    async with service(engine).stream(request) as frames:
        return b"".join([piece async for piece in frames])


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    class Recorder:
        def log_model_operation(self, **fields: Any) -> None:
            seen.append(fields)

    monkeypatch.setattr(generations_module, "logger", Recorder())
    return seen


async def test_the_engine_gets_the_clients_own_bytes() -> None:
    engine = FakeEngine()
    request = chat_request(unknown_field=[1])
    await service(engine).complete(request)
    assert engine.calls[0].body is request.raw
    assert engine.calls[0].request_id == "r1"


async def test_a_stream_that_asks_for_usage_travels_untouched() -> None:
    engine = FakeEngine()
    request = chat_request(stream=True, stream_options={"include_usage": True})
    assert await streamed(engine, request) == b"".join(content_chunks("Hel", "lo."))
    assert engine.calls[0].body is request.raw


@pytest.mark.parametrize("options", [{}, {"stream_options": None}, {"stream_options": {"include_usage": False}}])
async def test_a_stream_that_does_not_ask_for_usage_gets_none_and_the_log_does(
    options: dict[str, Any], operations: list[dict[str, Any]]
) -> None:
    engine = FakeEngine()
    got = await streamed(engine, chat_request(stream=True, **options))
    assert got == b"".join(content_chunks("Hel", "lo.", usage=False))
    assert engine.calls[0].parsed["stream_options"] == {"include_usage": True}
    assert operations[-1]["model_id"] == "m:1"
    assert operations[-1]["input_tokens"] == 5
    assert operations[-1]["output_tokens"] == operations[-1]["tokens_generated"] == 2
    assert operations[-1]["status"] == "ok"


async def test_the_usage_frame_is_hidden_also_when_it_arrives_together_with_others() -> None:
    engine = FakeEngine(chunks=[b"".join(content_chunks("Hello."))])
    assert await streamed(engine, chat_request(stream=True)) == b"".join(content_chunks("Hello.", usage=False))


async def test_usage_in_a_frame_with_content_is_not_lost() -> None:
    last = {**chunk({"content": "x"}, "stop"), "usage": USAGE}
    engine = FakeEngine(chunks=[frame(last), b"data: [DONE]\n\n"])
    assert await streamed(engine, chat_request(stream=True)) == frame(last) + b"data: [DONE]\n\n"


async def test_text_that_looks_like_a_usage_frame_is_passed_on() -> None:
    tricky = frame(chunk({"content": '"usage":{ "choices":[] data: {"error":'}))
    engine = FakeEngine(chunks=[tricky, b"data: [DONE]\n\n"])
    assert await streamed(engine, chat_request(stream=True)) == tricky + b"data: [DONE]\n\n"


async def test_frames_are_passed_whole_however_the_engine_cuts_them() -> None:
    stream = b"".join(content_chunks("Hel", "lo."))
    engine = FakeEngine(chunks=[stream[at : at + 7] for at in range(0, len(stream), 7)])
    request = chat_request(stream=True, stream_options={"include_usage": True})
    async with service(engine).stream(request) as frames:
        pieces = [piece async for piece in frames]
    assert b"".join(pieces) == stream
    assert all(piece.endswith(b"\n\n") for piece in pieces)


async def test_an_unknown_model_is_refused_before_the_engine_is_asked() -> None:
    engine = FakeEngine()
    with pytest.raises(ModelNotFoundError):
        await streamed(engine, chat_request(model="zz", stream=True))
    with pytest.raises(ModelNotFoundError):
        await service(engine).complete(chat_request(model="zz"))
    assert engine.calls == []


async def test_a_stream_that_breaks_raises_after_the_frames_that_arrived(operations: list[dict[str, Any]]) -> None:
    engine = FakeEngine(chunks=[*content_chunks("Hel")[:2], b'data: {"half', EngineFailedError("gone")])
    got: list[bytes] = []

    async def collect() -> None:
        async with service(engine).stream(chat_request(stream=True)) as frames:
            async for piece in frames:
                got.append(piece)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(EngineFailedError, match="gone"):
        await collect()
    assert got == content_chunks("Hel")[:2]
    assert operations[-1]["status"] == "failed"


async def test_a_stream_that_ends_in_the_middle_of_a_frame_is_broken() -> None:
    engine = FakeEngine(chunks=[*content_chunks("Hel")[:2], b'data: {"half'])
    with pytest.raises(EngineFailedError, match="middle of a frame"):
        await streamed(engine, chat_request(stream=True))


async def test_an_error_frame_of_the_engine_is_logged_as_a_failure(operations: list[dict[str, Any]]) -> None:
    error = frame({"error": {"message": "died", "type": "server_error", "code": "engine_failed", "param": None}})
    engine = FakeEngine(chunks=[*content_chunks("Hel")[:2], error])
    assert (await streamed(engine, chat_request(stream=True))).endswith(error)
    assert operations[-1]["status"] == "failed"


async def test_a_refused_request_is_not_logged_as_the_engines_failure(operations: list[dict[str, Any]]) -> None:
    engine = FakeEngine(error=ContextLengthExceededError(prompt_tokens=600, context_length=512, model="m:1"))
    with pytest.raises(InvalidInputError):
        await service(engine).complete(chat_request())
    assert operations[-1]["status"] == "refused"


async def test_an_answer_that_is_no_json_is_the_engines_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    monkeypatch.setattr(engine, "answer", lambda call: ["no", "object"])
    with pytest.raises(EngineFailedError):
        await service(engine).complete(chat_request())


async def test_generate_fills_in_what_the_configuration_says() -> None:
    engine = FakeEngine()
    end = await service(engine).generate(GenerateRequest(prompt="hi"), request_id="r")
    sent = engine.calls[0].parsed
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("m:1", 0.7, 2048)
    assert sent["messages"] == [{"role": "user", "content": "hi"}]
    assert (end.content, end.model, end.usage, end.finish_reason) == ("Hello.", "m:1", USAGE, "stop")


async def test_generate_sends_what_the_caller_says() -> None:
    engine = FakeEngine()
    request = GenerateRequest(
        prompt="hi", model="other", system="be kind", temperature=0.0, max_tokens=3, top_p=0.5, seed=0, stop=["x"]
    )
    await service(engine).generate(request, request_id="r")
    sent = engine.calls[0].parsed
    assert sent["messages"][0] == {"role": "system", "content": "be kind"}
    wanted = {"model": "other", "temperature": 0.0, "max_tokens": 3, "top_p": 0.5, "seed": 0, "stop": ["x"]}
    assert {key: sent[key] for key in wanted} == wanted


async def test_generate_stream_gives_the_pieces_and_then_one_end() -> None:
    async with service(FakeEngine()).generate_stream(GenerateRequest(prompt="hi"), request_id="r") as pieces:
        got = [piece async for piece in pieces]
    assert got[:-1] == [GenerationPiece("Hel"), GenerationPiece("lo.")]
    assert isinstance(got[-1], GenerationEnd)
    assert (got[-1].usage, got[-1].finish_reason, got[-1].model) == (USAGE, "stop", "m:1")


@pytest.mark.parametrize(
    "bad",
    [
        b"data: {not json}\n\n",
        b"data: [1]\n\n",
        frame({"error": {"message": "died", "type": "server_error", "code": "engine_failed"}}),
    ],
)
async def test_generate_stream_turns_nonsense_and_error_frames_into_the_engines_failure(bad: bytes) -> None:
    engine = FakeEngine(chunks=[content_chunks("Hel")[1], bad])
    with pytest.raises(EngineFailedError):
        async with service(engine).generate_stream(GenerateRequest(prompt="hi"), request_id="r") as pieces:
            [piece async for piece in pieces]


class EchoEngine(FakeEngine):
    def answer(self, call: SeenCall) -> dict[str, Any] | FoundryError:
        prompt = call.parsed["messages"][-1]["content"]
        if prompt == "bad":
            return InvalidInputError("too long")
        self.text = f"answer to {prompt}"
        return super().answer(call)


async def test_a_batch_keeps_the_order_and_gives_an_error_for_each_item_that_failed() -> None:
    engine = EchoEngine()
    batches = BatchesService(service(engine), max_prompts=10, concurrency=3)
    requests = [GenerateRequest(prompt=prompt) for prompt in ("a", "bad", "b", "c", "d")]
    results = await batches.generate(requests, request_id="r")
    texts = [result.content if isinstance(result, GenerationEnd) else result.message for result in results]
    assert texts == ["answer to a", "too long", "answer to b", "answer to c", "answer to d"]
    assert engine.most_active <= 3


async def test_a_batch_beyond_the_limit_is_refused() -> None:
    batches = BatchesService(service(FakeEngine()), max_prompts=2, concurrency=3)
    with pytest.raises(InvalidInputError, match="2 prompts at most, this one has 3") as caught:
        await batches.generate([GenerateRequest(prompt="a")] * 3, request_id="r")
    assert caught.value.param == "prompts"
