"""The chat page in a real browser, against the real gateway and the real demo model."""

from __future__ import annotations

import json

import pytest
from playwright.async_api import expect

from tests.e2e.conftest import PHONE

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]


async def test_first_load_shows_the_model_its_state_and_what_to_ask(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await expect(chat.page.get_by_role("heading", level=1)).to_have_count(1)
        await expect(chat.page.locator("html")).to_have_attribute("lang", "en")
        await expect(chat.page.locator("#model")).to_have_value("foundry-demo:1")
        await expect(chat.page.get_by_text("Ready", exact=True)).to_be_visible()
        await expect(chat.page.locator(".example")).to_have_count(3)
        await expect(chat.page.locator("#api-base")).to_have_text(f"{shared_gateway.url}/v1")
        await expect(chat.prompt).to_be_focused()
        await expect(chat.button("Send")).to_be_disabled()
        for what_is_for_those_who_need_a_key in ("#sign-in", "#account"):
            await expect(chat.page.locator(what_is_for_those_who_need_a_key)).to_be_hidden()


async def test_the_demo_is_called_a_demonstration_beside_the_list_and_at_its_answers(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open()
        await expect(chat.page.locator("#demonstration")).to_contain_text("Demonstration")
        await expect(chat.page.locator("#demonstration")).to_contain_text("foundry-demo:1 is a tiny model")
        await chat.ask("What are you?")
        await expect(chat.answers.last.locator(".speaker")).to_contain_text("Demonstration")


async def test_both_addresses_give_the_same_page(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open("/chat.html")
        await chat.ready()
        await expect(chat.page.get_by_role("heading", level=1)).to_have_text("FastAPI Foundry")


async def test_a_question_gets_an_answer_with_its_tokens(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("What are you?")
        await expect(chat.answers.last.locator(".facts")).to_contain_text("token")
        assert "foundry" in (await chat.last_answer()).lower()
        await expect(chat.page.locator("#announcer")).to_contain_text("The model answered:")
        await expect(chat.page.locator("#empty")).to_be_hidden()
        await expect(chat.prompt).to_be_focused()


async def test_an_example_is_asked_by_choosing_it(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.page.get_by_role("button", name="When does the library open?").click()
        await expect(chat.page.locator(".message.user .text")).to_contain_text("[1] The library opens at nine.")
        await expect(chat.answers.last.locator(".facts")).to_be_visible()
        assert await chat.last_answer()


async def test_a_reload_keeps_the_conversation_and_a_new_chat_forgets_it(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("What are you?")
        await expect(chat.answers.last.locator(".facts")).to_be_visible()
        answer = await chat.last_answer()
        await chat.page.reload()
        await expect(chat.page.locator(".message.user .text")).to_have_text("What are you?")
        assert await chat.last_answer() == answer
        await chat.button("New chat").click()
        await expect(chat.page.locator(".message")).to_have_count(0)
        await expect(chat.page.locator("#empty")).to_be_visible()
        await chat.page.reload()
        await expect(chat.page.locator(".message")).to_have_count(0)


async def test_the_whole_conversation_is_sent_with_the_next_question(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("What are you?")
        await expect(chat.answers.last.locator(".facts")).to_be_visible()
        async with chat.page.expect_request("**/v1/chat/completions") as sent:
            await chat.ask("And what else?")
        body = json.loads((await sent.value).post_data or "{}")
        assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
        await expect(chat.answers).to_have_count(2)
        await expect(chat.answers.last.locator(".facts")).to_be_visible()


async def test_everything_works_by_keyboard_and_the_focus_is_visible(shared_gateway, chat_page):
    async with chat_page(shared_gateway.url) as chat:
        await chat.open()
        await chat.ready()
        keyboard = chat.page.keyboard
        await keyboard.type("What are")
        await keyboard.press("Shift+Enter")
        await keyboard.type("you?")
        await expect(chat.prompt).to_have_value("What are\nyou?")
        await keyboard.press("Enter")
        await expect(chat.answers.last.locator(".facts")).to_be_visible()
        await expect(chat.prompt).to_have_value("")
        for key, expected in (
            ("Shift+Tab", "new-chat"),
            ("Shift+Tab", "model"),
            ("Tab", "new-chat"),
            ("Tab", "prompt"),
            ("Shift+Tab", "new-chat"),
        ):
            await keyboard.press(key)
            focus, outline = await chat.page.evaluate(_FOCUS)
            assert (focus, outline) == (expected, "solid")
        await keyboard.press("Enter")
        await expect(chat.page.locator(".message")).to_have_count(0)
        await expect(chat.prompt).to_be_focused()


async def test_at_320_pixels_nothing_scrolls_sideways(shared_gateway, chat_page):
    wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    async with chat_page(shared_gateway.url, viewport=PHONE) as chat:
        await chat.open()
        await chat.ready()
        assert not await chat.page.evaluate(wide)
        await chat.ask("https://example.org/" + "a-very-long-word" * 20)
        await expect(chat.answers.last.locator(".facts")).to_be_visible()
        assert not await chat.page.evaluate(wide)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_stands_out_from_its_background(shared_gateway, chat_page, scheme):
    async with chat_page(shared_gateway.url, scheme=scheme) as chat:
        await chat.open()
        await chat.ready()
        await chat.ask("What are you?")
        await expect(chat.answers.last.locator(".facts")).to_be_visible()
        for selector in (".brand", "#health", "#demonstration span", ".text", ".facts", ".speaker .tag", ".hint", "a"):
            found = chat.page.locator(selector).last
            if await found.is_visible():
                assert await found.evaluate(CONTRAST) >= 4.5, selector


# The focused element and the outline around it; the field around the prompt shows the prompt's.
_FOCUS = """() => {
  const at = document.activeElement;
  return [at.id, getComputedStyle(at.id === "prompt" ? at.closest(".field") : at).outlineStyle];
}"""

# The WCAG 2 contrast of an element's text with the first background behind it that is not transparent.
CONTRAST = """(element) => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parse(color).map((value) => value / 255)
      .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  let behind = element;
  while (parse(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
