"""Signing in and out on the chat page, in a real browser."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from fastapi_foundry.cli.gateway import gateway_file
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest, NewKey
from tests.e2e.conftest import PHONE
from tests.e2e.test_chat_page import CONTRAST
from tests.support.cli import cli_in_a_pipe
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import RunningGateway, running_gateway

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

REFUSED = "the server responded with a status of 40[13]"
PARTS_WITH_TEXT = ("h2", "label", "p", "code", "#key", "#show-key", "#enter", "#sign-in-reason", "#sign-in-problem")
WIDER_THAN_THE_SCREEN = "document.documentElement.scrollWidth > document.documentElement.clientWidth"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """A gateway that demands a key from everybody."""
    home = tmp_path_factory.mktemp("guarded")
    async with running_gateway(home, FakeEngine(), security__require_key="always") as gateway:
        yield gateway


async def make_key(gateway: RunningGateway, name: str = "kitchen", **wanted: object) -> NewKey:
    scopes = wanted.pop("scopes", frozenset({Scope.CHAT}))
    return await gateway.services.keys.create(KeyRequest(name=name, scopes=scopes, **wanted), actor="test")  # type: ignore[arg-type]


async def make_link(gateway: RunningGateway, key: NewKey) -> str:
    secret, _ = await gateway.services.sessions.make_link(key.key.principal(), "")
    return secret


async def sign_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.keyboard.press("Enter")


async def traces(page: Page) -> str:
    """Everything that a page, its storage and its history could keep of a secret."""
    found = await page.evaluate("""() => [
      document.documentElement.outerHTML,
      ...[...document.querySelectorAll("input, textarea")].map((field) => field.value),
      ...[localStorage, sessionStorage].map((storage) => JSON.stringify({ ...storage })),
      ...navigation.entries().map((entry) => entry.url),
      JSON.stringify(history.state), document.cookie, location.href, document.referrer,
    ]""")
    return "\n".join(found)


async def test_a_key_signs_in_and_leaves_no_trace_in_the_page(guarded, chat_page):
    key = await make_key(guarded, "Anna's laptop")
    async with chat_page(guarded.url) as chat:
        await chat.open()
        field = chat.page.get_by_label("API key")
        await expect(field).to_be_focused()
        await expect(field).to_have_attribute("type", "password")
        await expect(field).to_have_attribute("autocomplete", "current-password")
        await expect(chat.page).to_have_title(re.compile("^Sign in"))
        await expect(chat.page.get_by_role("heading", level=1)).to_have_count(1)
        await expect(chat.prompt).to_be_hidden()
        await expect(chat.page.locator("#model")).to_be_hidden()
        await sign_in(chat.page, f"  {key.text}\n")
        await chat.ready()
        await expect(chat.prompt).to_be_focused()
        await expect(chat.page.get_by_text("Signed in with the key Anna's laptop")).to_be_visible()
        assert key.text not in await traces(chat.page)
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".text")).to_have_text("Hello.")
        await chat.page.reload()
        await chat.ready()
        await expect(chat.answers).to_have_count(1)
        (cookie,) = await chat.page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")


async def test_a_key_that_does_not_open_is_said_in_words(guarded, chat_page):
    revoked, expired = await make_key(guarded, "old phone"), await make_key(guarded, "guest", expires_in_s=0.001)
    await guarded.services.keys.revoke(revoked.key.id, actor="test")
    async with chat_page(guarded.url) as chat:
        chat.expected.append(REFUSED)
        await chat.open()
        for key, words in (
            ("ffk_wrong", "The API key is not valid. Check that the whole of it was copied."),
            (revoked.text[:-1], "The API key is not valid."),
            (revoked.text, "The API key 'old phone' "),
            (revoked.text, "has been revoked."),
            (expired.text, "has expired."),
            ("", "Enter a key."),
        ):
            await chat.button("Show key").click()
            await sign_in(chat.page, key)
            await expect(chat.page.get_by_role("alert")).to_contain_text(words)
            await expect(chat.page.get_by_label("API key")).to_have_attribute("type", "password" if key else "text")
            await expect(chat.page.get_by_label("API key")).to_be_focused()
            await expect(chat.page.get_by_label("API key")).to_have_attribute("aria-invalid", "true")
            await expect(chat.prompt).to_be_hidden()
        assert await chat.page.context.cookies() == []
        chat.expected.append("Failed to load resource")
        await chat.page.route("**/api/v1/session", lambda route: route.abort("connectionrefused"))
        await sign_in(chat.page, expired.text)
        await expect(chat.page.get_by_role("alert")).to_contain_text("The server does not answer.")


async def test_a_link_signs_in_once_and_leaves_address_and_history_at_once(guarded, chat_page):
    key = await make_key(guarded, "tablet")
    link = await make_link(guarded, key)
    async with chat_page(guarded.url) as chat:
        await chat.open(f"/#link={link}")
        await chat.ready()
        await expect(chat.page.locator("#account-name")).to_have_text("tablet")
        assert chat.page.url == f"{guarded.url}/"
        assert link not in await traces(chat.page)
    async with chat_page(guarded.url) as chat:
        chat.expected.append(REFUSED)
        await chat.open(f"/#link={link}")
        await expect(chat.page.get_by_role("alert")).to_contain_text("has been used, or has expired")
        await expect(chat.page.get_by_label("API key")).to_be_focused()
        assert link not in await traces(chat.page)
        # One that is opened in the page as it is: no load, a change of the fragment alone.
        await chat.open(f"/#link={await make_link(guarded, key)}")
        await expect(chat.page.locator("#account-name")).to_have_text("tablet")
        assert "link=" not in await traces(chat.page)


async def test_a_key_that_ends_while_chatting_leads_to_the_field_and_everything_is_kept(guarded, chat_page):
    first, second, third = [await make_key(guarded, name) for name in ("first", "second", "third")]
    async with chat_page(guarded.url) as chat:
        chat.expected.append(REFUSED)
        await chat.open(f"/#link={await make_link(guarded, first)}")
        await chat.ready()
        await chat.ask("One")
        await expect(chat.answers.last.locator(".text")).to_have_text("Hello.")
        await chat.prompt.fill("Half a\nquestion")
        await guarded.services.keys.revoke(first.key.id, actor="test")
        await chat.page.locator("#model").focus()  # which asks for the models
        await expect(chat.page.locator("#sign-in-reason")).to_contain_text("You have been signed out")
        await expect(chat.page.get_by_label("API key")).to_be_focused()
        await expect(chat.page.locator("#messages")).to_be_hidden()
        await sign_in(chat.page, second.text)
        await expect(chat.prompt).to_have_value("Half a\nquestion")
        await expect(chat.prompt).to_be_focused()
        await guarded.services.keys.revoke(second.key.id, actor="test")
        await chat.ask("Two")
        await expect(chat.page.locator("#sign-in-reason")).to_contain_text("You have been signed out")
        await sign_in(chat.page, third.text)
        await expect(chat.page.locator(".message.user .text")).to_have_text(["One", "Two"])
        await expect(chat.answers.last.locator(".problem")).to_contain_text("You had been signed out.")
        await chat.button("Try again").click()
        await expect(chat.answers.locator(".text")).to_have_text(["Hello.", "Hello."])


async def test_a_right_that_the_key_lacks_is_said_in_words(guarded, chat_page):
    key = await make_key(guarded, "indexer", scopes=frozenset({Scope.EMBEDDINGS}))
    async with chat_page(guarded.url) as chat:
        chat.expected.append(REFUSED)
        await chat.open(f"/#link={await make_link(guarded, key)}")
        await chat.ready()
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".problem")).to_contain_text("Your key may not do this.")
        await expect(chat.answers.last.locator(".detail")).to_contain_text("'chat'")
        await expect(chat.prompt).to_be_visible()


async def test_signing_out_ends_the_session_here_and_in_other_tabs_and_forgets_the_conversation(guarded, chat_page):
    key = await make_key(guarded, "shared screen")
    async with chat_page(guarded.url) as chat:
        chat.expected.append(REFUSED)
        await chat.open(f"/#link={await make_link(guarded, key)}")
        await chat.ready()
        await chat.ask("A secret question")
        await expect(chat.answers.last.locator(".text")).to_have_text("Hello.")
        other = await chat.page.context.new_page()
        await other.goto(guarded.url)
        await other.locator("#model:enabled").wait_for()
        (cookie,) = await chat.page.context.cookies()
        async with chat.page.expect_request(lambda request: request.method == "DELETE") as ended:
            await chat.button("Sign out").click()
        assert (await (await ended.value).all_headers())["x-csrf-token"]
        await expect(chat.page.locator("#sign-in-reason")).to_have_text("You are signed out.")
        assert "A secret question" not in await traces(chat.page)
        assert await chat.page.context.cookies() == []
        headers = {"cookie": f"foundry_session={cookie['value']}"}
        assert (await guarded.client.get("/v1/models", headers=headers)).status_code == 401
        await other.locator("#model").focus()
        await expect(other.get_by_label("API key")).to_be_visible()


async def test_only_the_pages_own_token_lets_it_change_something_and_a_new_one_is_fetched(guarded, chat_page):
    first, second = await make_key(guarded, "first"), await make_key(guarded, "second")
    async with chat_page(guarded.url) as chat:
        chat.expected.append(REFUSED)
        await chat.open(f"/#link={await make_link(guarded, first)}")
        await chat.ready()
        statuses = await chat.page.evaluate("""async () => {
          const { csrf } = await (await fetch("/api/v1/session")).json();
          const body = JSON.stringify({ model: "m:1", messages: [{ role: "user", content: "Hi" }] });
          const ask = async (token) => (await fetch("/v1/chat/completions", {
            method: "POST", body, headers: { "content-type": "application/json", ...token },
          })).status;
          return [await ask({}), await ask({ "x-csrf-token": csrf + "x" }), await ask({ "x-csrf-token": csrf })];
        }""")
        assert statuses == [403, 403, 200]
        other = await chat.page.context.new_page()
        await other.goto(f"{guarded.url}/#link={await make_link(guarded, second)}")
        await expect(other.locator("#account-name")).to_have_text("second")
        await chat.ask("Hi")
        await expect(chat.answers.last.locator(".text")).to_have_text("Hello.")


async def test_signing_in_works_by_keyboard_alone_and_the_focus_is_visible(guarded, chat_page):
    key = await make_key(guarded)
    async with chat_page(guarded.url) as chat:
        await chat.open()
        await expect(chat.page.get_by_label("API key")).to_be_focused()
        keyboard = chat.page.keyboard
        await keyboard.type(key.text)
        await keyboard.press("Tab")
        await expect(chat.button("Show key")).to_be_focused()
        await keyboard.press("Space")
        await expect(chat.page.get_by_label("API key")).to_have_attribute("type", "text")
        assert await chat.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await expect(chat.button("Hide key")).to_be_focused()
        await keyboard.press("Tab")
        await expect(chat.button("Sign in")).to_be_focused()
        assert await chat.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await keyboard.press("Enter")
        await chat.ready()
        await expect(chat.page.locator("#key")).to_have_attribute("type", "password")
        for _ in ("documentation", "third example", "second", "first", "sign out"):
            await keyboard.press("Shift+Tab")
        await expect(chat.button("Sign out")).to_be_focused()
        await keyboard.press("Enter")
        await expect(chat.page.get_by_label("API key")).to_be_focused()


async def test_at_320_pixels_nothing_scrolls_sideways_and_all_text_stands_out(guarded, chat_page):
    key = await make_key(guarded, "a key with quite a long name, since " + "names-can-be-long" * 3)
    async with chat_page(guarded.url, viewport=PHONE) as chat:
        chat.expected.append(REFUSED)
        await chat.open()
        await sign_in(chat.page, "x" * 512)
        await expect(chat.page.get_by_role("alert")).to_be_visible()
        assert not await chat.page.evaluate(WIDER_THAN_THE_SCREEN)
        for scheme in ("light", "dark"):
            await chat.page.emulate_media(color_scheme=scheme)
            for part in PARTS_WITH_TEXT:
                shown = chat.page.locator(f"#sign-in {part}").first
                assert await shown.evaluate(CONTRAST) >= 4.5, (scheme, part)
        await sign_in(chat.page, key.text)
        await chat.ready()
        assert not await chat.page.evaluate(WIDER_THAN_THE_SCREEN)
        await expect(chat.button("Sign out")).to_be_in_viewport()
        assert await chat.page.locator("#account-name").evaluate(CONTRAST) >= 4.5


async def test_the_documentation_of_the_api_works_for_who_is_signed_in(guarded, chat_page):
    key = await make_key(guarded, scopes=frozenset({Scope.ADMIN}))
    async with chat_page(guarded.url) as chat:
        chat.expected.append("Deprecated: escaping deep link")  # Swagger UI, about its own address
        await chat.open("/docs")
        await expect(chat.page.get_by_text("This server asks for a key.")).to_be_visible()
        await chat.open(f"/#link={await make_link(guarded, key)}")
        await chat.ready()
        await chat.open("/docs#/Models/load_model")
        await chat.page.get_by_role("button", name="Try it out").click()
        await chat.page.get_by_placeholder("model_id").fill("other:2")
        async with chat.page.expect_response("**/load") as answered:
            await chat.page.get_by_role("button", name="Execute").click()
        assert (await answered.value).status == 200
        assert guarded.engine.loaded[-1] == "other:2"


async def test_the_command_makes_a_link_while_the_gateway_runs_in_another_process(guarded, chat_page):
    await make_key(guarded, "phone")
    home = guarded.services.settings.home
    with gateway_file(home) as record:
        record(guarded.url)
        made = await asyncio.to_thread(cli_in_a_pipe, home, "keys", "link", "phone")
    assert made.out.strip().startswith(f"{guarded.url}/#link=")
    async with chat_page(guarded.url) as chat:
        await chat.page.goto(made.out.strip())
        await expect(chat.page.locator("#account-name")).to_have_text("phone")
