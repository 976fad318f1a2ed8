"""How long a prompt is, asked of real engines: the service, the gateway, Foundry Local's own service, strangers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastapi_foundry.engines.base import Call, TokenCount
from fastapi_foundry.engines.foundry_local import FoundryLocalEngine
from fastapi_foundry.engines.openai_http import OpenAIHttpEngine
from fastapi_foundry.errors import ContextLengthExceededError, ModelNotFoundError
from fastapi_foundry.services.context import ContextService
from fastapi_foundry.services.models import ModelsService
from fastapi_foundry.services.truncation import Truncation
from fastapi_foundry.settings import EngineSettings, FoundryAISettings, FoundryServiceSettings, Settings
from tests.support.http import ask
from tests.support.native_service import CHAT_MODEL, native_service
from tests.support.processes import ProductProcess

MODEL = "foundry-demo:1"
CHAT = "/v1/chat/completions"
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What are you?"},
    {"role": "assistant", "content": "A demonstration."},
    {"role": "user", "content": "Of what?"},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CONTEXT = 4096


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": TALK} | more


def prompt_tokens(url: str, **more: Any) -> int:
    """What an answer says that the prompt took."""
    return int(ask(url, CHAT, chat(max_tokens=5, **more)).json["usage"]["prompt_tokens"])


class TestService:
    def test_the_count_is_what_an_answer_charges(self, shared_service: ProductProcess):
        answer = ask(shared_service.url, "/tokenize", chat())
        assert answer.status == 200
        expected = prompt_tokens(shared_service.url)
        assert answer.json == {"count": expected, "max_model_len": CONTEXT, "tokens": None, "token_strs": None}

    def test_tools_count(self, shared_service: ProductProcess):
        counted = ask(shared_service.url, "/tokenize", chat(tools=[TOOL])).json["count"]
        assert counted == prompt_tokens(shared_service.url, tools=[TOOL]) > prompt_tokens(shared_service.url)

    def test_a_prompt_counts_as_a_completion_charges_it(self, shared_service: ProductProcess):
        body = {"model": MODEL, "prompt": "Hello"}
        counted = ask(shared_service.url, "/tokenize", body).json["count"]
        answer = ask(shared_service.url, "/v1/completions", body | {"max_tokens": 1})
        assert counted == answer.json["usage"]["prompt_tokens"]

    @pytest.mark.parametrize(
        ("body", "status", "param"),
        [
            ({"model": MODEL}, 400, "messages"),
            ({"model": MODEL, "prompt": 5}, 400, "prompt"),
            ({"model": MODEL, "prompt": "a", "messages": TALK}, 400, "prompt"),
            ({"model": "none", "messages": TALK}, 404, None),
        ],
    )
    def test_what_is_wrong_is_said(
        self, shared_service: ProductProcess, body: dict[str, Any], status: int, param: str | None
    ):
        answer = ask(shared_service.url, "/tokenize", body)
        assert answer.status == status
        assert answer.json["error"]["param"] == param

    def test_the_context_that_is_listed_is_what_is_accepted(self, shared_service: ProductProcess):
        entry = ask(shared_service.url, f"/v1/models/{MODEL}").json
        assert entry["context_length"] == CONTEXT
        empty = ask(shared_service.url, "/tokenize", {"model": MODEL, "prompt": "a"}).json["count"] - 1
        # One token each: " a".
        fits, too_long = (" a" * (CONTEXT - empty - spare) for spare in (1, 0))
        assert ask(shared_service.url, "/tokenize", {"model": MODEL, "prompt": fits}).json["count"] == CONTEXT - 1
        body = {"model": MODEL, "messages": [{"role": "user", "content": fits}], "max_tokens": 50}
        assert ask(shared_service.url, CHAT, body).json["usage"]["total_tokens"] == CONTEXT
        body["messages"] = [{"role": "user", "content": too_long}]
        refused = ask(shared_service.url, CHAT, body)
        assert refused.status == 400
        assert refused.json["error"] == {
            "message": f"This model's maximum context length is {CONTEXT} tokens. However, your messages resulted in "
            f"{CONTEXT} tokens. Please reduce the length of the messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }


class TestGateway:
    def test_it_counts_as_the_engine_does_and_says_what_is_left(self, shared_gateway: ProductProcess):
        answer = ask(shared_gateway.url, "/api/v1/tokens/count", {"model": "foundry-demo", "messages": TALK})
        expected = prompt_tokens(shared_gateway.url)
        assert answer.status == 200
        assert answer.json == {
            "success": True,
            "model": MODEL,
            "prompt_tokens": expected,
            "context_length": CONTEXT,
            "max_output_tokens": CONTEXT - expected,
            "exact": True,
            "request_id": answer.headers["x-request-id"],
        }

    def test_a_prompt_for_the_default_model_and_tools(self, shared_gateway: ProductProcess):
        path = "/api/v1/tokens/count"
        assert ask(shared_gateway.url, path, {"prompt": "Hello"}).json["model"] == MODEL
        with_tools, without = (
            ask(shared_gateway.url, path, {"model": MODEL, "messages": TALK} | more).json["prompt_tokens"]
            for more in ({"tools": [TOOL]}, {})
        )
        assert with_tools > without

    @pytest.mark.parametrize(
        ("body", "status"),
        [({}, 400), ({"prompt": "a", "messages": TALK}, 400), ({"model": "none", "prompt": "a"}, 404)],
    )
    def test_what_is_wrong_is_said(self, shared_gateway: ProductProcess, body: dict[str, Any], status: int):
        answer = ask(shared_gateway.url, "/api/v1/tokens/count", body)
        assert answer.status == answer.json["status_code"] == status

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_prompt_that_is_too_long_is_openais_error(self, shared_gateway: ProductProcess, stream: bool):
        body = {"model": MODEL, "messages": [{"role": "user", "content": " a" * 5000}], "stream": stream}
        error = ask(shared_gateway.url, CHAT, body).json["error"]
        assert (error["type"], error["param"], error["code"]) == (
            "invalid_request_error",
            "messages",
            "context_length_exceeded",
        )
        counted = ask(shared_gateway.url, "/api/v1/tokens/count", body).json
        assert f"maximum context length is {CONTEXT} tokens" in error["message"]
        assert f"resulted in {counted['prompt_tokens']} tokens" in error["message"]
        assert counted["max_output_tokens"] == 0

    def test_a_model_has_its_context_by_the_names_that_programs_look_for(self, shared_gateway: ProductProcess):
        entry = ask(shared_gateway.url, f"/v1/models/{MODEL}").json
        assert entry["context_length"] == entry["max_model_len"] == CONTEXT


@pytest.fixture(scope="module")
def native_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with native_service(tmp_path_factory.mktemp("native")) as running:
        yield running.url


async def test_foundry_locals_own_service_counts_by_refusing(native_url: str, tmp_path: Path):
    async with _service_engine(native_url, tmp_path) as engine:
        await engine.load_model(CHAT_MODEL)
        call = Call(CHAT, b"").with_parsed(chat(model=CHAT_MODEL))
        counted = await engine.count_tokens(call)
        answer = json.loads((await engine.post(call.with_parsed({**call.parsed, "max_tokens": 1}))).body)
        assert counted == TokenCount(answer["usage"]["prompt_tokens"], CONTEXT)
        too_long = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": " a" * 5000}], "max_tokens": 5}
        with pytest.raises(ContextLengthExceededError) as caught:
            await engine.post(Call(CHAT, b"").with_parsed(too_long))
        assert caught.value.context_length == CONTEXT
        assert caught.value.prompt_tokens > 5000


Answers = dict[str, Any]


@asynccontextmanager
async def stranger(answers: Answers) -> AsyncIterator[OpenAIHttpEngine]:
    """An engine at a server that answers each path with that, and all others with 404."""
    models = {"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "x"}]}
    answers = {"/v1/models": models} | answers

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                lengths = [line.split(":")[1] for line in lines if line.lower().startswith("content-length:")]
                sent = await reader.readexactly(int(lengths[0]) if lengths else 0)
                answer = answers.get(lines[0].split(" ")[1])
                answer = answer(json.loads(sent)) if callable(answer) else answer
                body = json.dumps(answer or {"detail": "Not Found"}).encode()
                status = "200 OK" if answer else "404 Not Found"
                kind = "content-type: application/json"
                writer.write(f"HTTP/1.1 {status}\r\n{kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = OpenAIHttpEngine(EngineSettings(name="x", url=f"http://127.0.0.1:{port}"), FoundryAISettings())
    await engine.start()
    try:
        await engine.wait_ready(10)
        yield engine
    finally:
        await engine.aclose()
        server.close()


VLLM = {"/tokenize": lambda asked: {"count": len(asked["messages"]), "max_model_len": 99, "tokens": [1]}}
LLAMA = {
    "/apply-template": lambda asked: {"prompt": "|".join(message["content"] for message in asked["messages"])},
    "/tokenize": lambda asked: {"tokens": list(range(len(asked.get("content", ""))))},
}
CALL = Call(CHAT, b"").with_parsed({"model": "m", "messages": TALK})


@pytest.mark.parametrize(
    ("answers", "count"),
    [
        (VLLM, TokenCount(4, 99)),
        (LLAMA, TokenCount(len("|".join(message["content"] for message in TALK)))),
        ({}, None),
        ({"/tokenize": {"error": "Unexpected endpoint"}}, None),
    ],
    ids=["vllm", "llama.cpp", "no such route", "an error with status 200"],
)
async def test_a_stranger_is_asked_as_vllm_and_as_llama_cpp(answers: Answers, count: TokenCount | None):
    async with stranger(answers) as engine:
        assert await engine.count_tokens(CALL) == count


async def test_a_conversation_is_shortened_to_what_the_engine_takes_and_no_more(
    shared_service: ProductProcess, tmp_path: Path
):
    turns = [
        {"role": role, "content": f"{number} " + "word " * 200}
        for number in range(15)
        for role in ("user", "assistant")
    ]
    messages = [TALK[0], *turns, TALK[-1]]
    call = Call(CHAT, b"").with_parsed(chat(messages=messages, truncation="auto", max_tokens=500))
    async with _service_engine(shared_service.url, tmp_path) as engine:
        fitted, cut = await Truncation(ContextService(engine, ModelsService(engine))).fitted(call)
        answer = json.loads((await engine.post(fitted.with_parsed({**fitted.parsed, "max_tokens": 5}))).body)
        one_more = [TALK[0], *messages[-len(fitted.parsed["messages"]) - 1 :]]
        longer = await engine.count_tokens(fitted.with_parsed({**fitted.parsed, "messages": one_more}))
    assert cut is not None
    assert len(fitted.parsed["messages"]) == len(messages) - cut.messages
    assert [fitted.parsed["messages"][0], fitted.parsed["messages"][-1]] == [TALK[0], TALK[-1]]
    assert answer["usage"]["prompt_tokens"] <= CONTEXT - 500
    assert longer is not None
    assert longer.prompt_tokens > CONTEXT - 500


@asynccontextmanager
async def _service_engine(url: str, home: Path) -> AsyncIterator[FoundryLocalEngine]:
    service = FoundryServiceSettings(start="never", port_range_start=50799, port_range_end=50799)
    engine = FoundryLocalEngine(
        Settings(home=home, foundry_ai=FoundryAISettings(base_url=url), foundry_service=service)
    )
    await engine.start()
    try:
        await engine.wait_ready(10)
        yield engine
    finally:
        await engine.aclose()


async def test_a_count_for_a_model_that_is_not_there_says_so(shared_service: ProductProcess, tmp_path: Path):
    async with _service_engine(shared_service.url, tmp_path) as engine:
        with pytest.raises(ModelNotFoundError):
            await engine.count_tokens(Call(CHAT, b"").with_parsed(chat(model="none")))
        assert (await engine.count_tokens(Call(CHAT, b"").with_parsed(chat()))) is not None
