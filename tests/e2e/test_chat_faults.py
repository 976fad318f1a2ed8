"""What the chat page does when something is slow, broken or hostile."""

from __future__ import annotations

import asyncio
import json

import pytest
from playwright.async_api import Route, expect

from fastapi_foundry.engines.base import ModelCard
from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineFailedError,
    EngineUnavailableError,
    ModelNotFoundError,
)
from tests.support.fake_engine import FakeEngine, content_chunks
from tests.support.gateway import running_gateway
from tests.support.processes import gateway_process, service_process
from tests.support.waiting import eventually

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_words_show_as_they_arrive_and_stop_ends_the_models_work(chat_page, tmp_path):
    gate = asyncio.Event()
    engine = FakeEngine(gate=gate, chunks=[*content_chunks("Once ", "upon ", "a ", "time."), b""])
    async with running_gateway(tmp_path, engine) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("Tell a story")
        await expect(chat.answers.last.locator(".waiting")).to_contain_text("Thinking")
        await expect(chat.button("Stop")).to_be_visible()
        for _ in range(3):
            await _let_one_through(engine)
        await expect(chat.answers.last.locator(".text")).to_have_text("Once upon ")
        await chat.button("Stop").click()
        await expect(chat.answers.last.locator(".facts")).to_have_text("Stopped")
        await expect(chat.answers.last.locator(".text")).to_have_text("Once upon ")
        await expect(chat.button("Send")).to_be_visible()
        await eventually(lambda: engine.calls[-1].cancelled)


async def _let_one_through(engine: FakeEngine) -> None:
    """Release the gate for exactly one chunk."""
    gate = engine.gate
    assert gate is not None
    engine.gate = asyncio.Event()
    gate.set()
    await asyncio.sleep(0)


async def test_escape_stops_an_answer(chat_page, tmp_path):
    engine = FakeEngine(gate=asyncio.Event())
    async with running_gateway(tmp_path, engine) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("Hi")
        await expect(chat.button("Stop")).to_be_visible()
        await chat.page.keyboard.press("Escape")
        await expect(chat.answers.last.locator(".facts")).to_have_text("Stopped")
        await expect(chat.prompt).to_be_focused()


async def test_a_new_chat_in_the_middle_of_an_answer_leaves_nothing_of_it(chat_page, tmp_path):
    engine = FakeEngine(gate=asyncio.Event())
    async with running_gateway(tmp_path, engine) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("Hi")
        await chat.button("New chat").click()
        await expect(chat.page.locator("#empty")).to_be_visible()
        await eventually(lambda: engine.calls[-1].cancelled)
        await chat.page.reload()
        await expect(chat.page.locator(".message")).to_have_count(0)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EngineUnavailableError("It is being started."), "The engine is away."),
        (ModelNotFoundError("m:1"), "This model is not available any more."),
        (ContextLengthExceededError(prompt_tokens=900, context_length=512, model="m:1"), "too long for the model"),
    ],
)
async def test_a_refusal_is_said_in_words_and_can_be_tried_again(chat_page, tmp_path, error, words):
    engine = FakeEngine(error=error)
    async with running_gateway(tmp_path, engine) as gateway, chat_page(gateway.url) as chat:
        chat.expected.append("Failed to load resource")
        await chat.open()
        await chat.ready()
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".problem")).to_contain_text(words)
        await expect(chat.answers.last.locator(".detail")).to_have_text(error.message)
        await expect(chat.page.locator("#announcer")).to_contain_text(words)
        engine.error = None
        await chat.button("Try again").click()
        await expect(chat.answers.last.locator(".text")).to_have_text("Hello.")
        await expect(chat.answers).to_have_count(1)
        assert engine.calls[-1].parsed["messages"] == [{"role": "user", "content": "Hi"}]


async def test_an_engine_that_breaks_in_the_middle_keeps_what_it_said(chat_page, tmp_path):
    chunks = [*content_chunks("Half ", "an answer")[:3], EngineFailedError("The engine stopped while it answered.")]
    async with running_gateway(tmp_path, FakeEngine(chunks=chunks)) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".problem")).to_contain_text("stopped in the middle")
        await expect(chat.answers.last.locator(".text")).to_have_text("Half an answer")
        await chat.page.reload()
        await expect(chat.answers.last.locator(".problem")).to_contain_text("stopped in the middle")
        await expect(chat.button("Try again")).to_be_visible()


async def test_a_reload_in_the_middle_of_an_answer_offers_to_ask_again(chat_page, tmp_path):
    engine = FakeEngine(gate=asyncio.Event())
    async with running_gateway(tmp_path, engine) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("Hi")
        await expect(chat.button("Stop")).to_be_visible()
        await chat.page.reload()
        await chat.ready()
        await expect(chat.answers).to_have_count(1)
        await expect(chat.answers.last.locator(".problem")).to_contain_text("ended before the answer did")
        engine.gate = None
        await chat.button("Try again").click()
        await expect(chat.answers.last.locator(".text")).to_have_text("Hello.")


async def test_a_service_that_was_killed_is_said_in_words_and_works_again_when_it_is_back(chat_page, tmp_path):
    with service_process(tmp_path / "service") as service:
        port = service.url.rpartition(":")[2]
        env = {
            "FOUNDRY_BASE_URL": service.url,
            "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never",
            "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START_TIMEOUT_S": "3",  # how long a request waits for it to come back
        }
        with gateway_process(tmp_path / "gateway", arguments=["--port", "0"], env=env) as gateway:
            async with chat_page(gateway.url) as chat:
                chat.expected.append("Failed to load resource")
                await chat.open()
                await chat.ready()
                service.kill()
                await chat.ask("What are you?")
                await expect(chat.answers.last.locator(".problem")).to_contain_text("The engine", timeout=45_000)
                await expect(chat.page.locator("#health")).not_to_have_attribute("data-state", "healthy")
                with service_process(tmp_path / "service", arguments=["--port", port]):
                    await chat.ready()
                    await chat.button("Try again").click()
                    await expect(chat.answers.last.locator(".facts")).to_be_visible()


async def test_a_server_that_is_gone_is_said_in_words(chat_page, tmp_path):
    async with running_gateway(tmp_path) as gateway, chat_page(gateway.url) as chat:
        chat.expected.append("Failed to load resource")
        await chat.open()
        await chat.ready()
        await chat.page.route("**/v1/**", lambda route: route.abort("connectionrefused"))
        await chat.page.route("**/api/**", lambda route: route.abort("connectionrefused"))
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".problem")).to_contain_text("The server does not answer.")
        await expect(chat.page.get_by_text("Server away")).to_be_visible()


async def test_without_a_model_the_page_says_how_to_get_one(chat_page, tmp_path):
    async with running_gateway(tmp_path, FakeEngine(cards=[])) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await expect(chat.page.locator("#model")).to_contain_text("No model yet")
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".problem")).to_contain_text("no model to talk to")


HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script><b>bold</b>"


async def test_hostile_names_and_answers_are_text_and_never_run(chat_page, tmp_path):
    model = ModelCard(HOSTILE, 1, "tests", "loaded", {"alias": "h", "reason": HOSTILE})
    engine = FakeEngine(cards=[model], chunks=list(content_chunks(HOSTILE)))
    async with running_gateway(tmp_path, engine) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask(HOSTILE)
        await expect(chat.answers.last.locator(".facts")).to_be_visible()
        assert await chat.last_answer() == HOSTILE
        await expect(chat.page.locator(".message.user .text")).to_have_text(HOSTILE)
        await chat.page.reload()
        await chat.ready()
        assert await chat.last_answer() == HOSTILE
        assert await chat.page.evaluate("window.hacked") is None
        assert await chat.page.locator("main img, main script, main b:not(#demonstration-name)").count() == 0


async def test_hostile_error_messages_are_text_and_never_run(chat_page, tmp_path):
    async def refuse(route: Route) -> None:
        error = {"error": {"message": HOSTILE, "code": HOSTILE, "type": "x", "param": None}}
        await route.fulfill(status=400, content_type="application/json", body=json.dumps(error))

    async with running_gateway(tmp_path) as gateway, chat_page(gateway.url) as chat:
        chat.expected.append("Failed to load resource")
        await chat.open()
        await chat.ready()
        await chat.page.route("**/v1/chat/completions", refuse)
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".detail")).to_have_text(HOSTILE)
        assert await chat.page.evaluate("window.hacked") is None


@pytest.mark.parametrize(
    "body",
    [
        b"data: not json\n\n",
        b"data: {}\n\n",
        b"data: null\n\ndata: [DONE]\n\n",
        b'data: {"choices": [{"delta": {"content": 5}}]}\n\n',
        b"<html>an answer of something else</html>",
        b"",
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_message_and_not_a_broken_page(chat_page, tmp_path, body):
    async with running_gateway(tmp_path) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(status=200, content_type="text/event-stream", body=body),
        )
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".problem")).to_be_visible()
        await expect(chat.button("Try again")).to_be_visible()


async def test_a_stored_conversation_that_makes_no_sense_is_forgotten(chat_page, tmp_path):
    async with running_gateway(tmp_path) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        for stored in ("{", "5", '[{"role": "user"}, null, 7, {"role": "evil", "content": "x"}]'):
            await chat.page.evaluate("(text) => sessionStorage.setItem('fastapi-foundry.conversation.1', text)", stored)
            await chat.page.reload()
            await chat.ready()
            await expect(chat.page.locator(".message")).to_have_count(0)


async def test_a_long_conversation_is_stored_within_its_bound(chat_page, tmp_path):
    async with running_gateway(tmp_path) as gateway, chat_page(gateway.url) as chat:
        await chat.open()
        await chat.ready()
        for _ in range(3):
            await chat.ask("x" * 90_000)
            await expect(chat.answers.last.locator(".facts")).to_be_visible()
        stored = await chat.page.evaluate("sessionStorage.getItem('fastapi-foundry.conversation.1').length")
        assert 90_000 < stored <= 200_000
