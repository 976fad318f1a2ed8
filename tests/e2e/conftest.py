"""A real browser that tolerates nothing: no console error, no policy violation, no request to elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, ViewportSize, async_playwright

from tests.support.tools import require_tool

CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    # Names that lead to this machine, as those do that somebody points there to get behind the same-origin policy.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
)
WIDE: ViewportSize = {"width": 1100, "height": 760}
PHONE: ViewportSize = {"width": 320, "height": 640}


@dataclass
class ChatPage:
    """The page as somebody who uses it sees it; ``expected`` are the console errors that a test provokes."""

    page: Page
    url: str
    expected: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    async def open(self, path: str = "/") -> None:
        await self.page.goto(self.url + path)

    @property
    def prompt(self) -> Locator:
        return self.page.get_by_role("textbox", name="Your message")

    @property
    def answers(self) -> Locator:
        return self.page.locator(".message.assistant")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    async def ready(self) -> None:
        """Wait until the server's health and its models are known."""
        await self.page.locator("#health[data-state=healthy]").wait_for()
        await self.page.locator("#model:enabled").wait_for()

    async def ask(self, text: str) -> None:
        await self.prompt.fill(text)
        await self.prompt.press("Enter")

    async def last_answer(self) -> str:
        return await self.answers.last.locator(".text").inner_text()

    def note(self, what: str) -> None:
        if not any(re.search(pattern, what) for pattern in self.expected):
            self.seen.append(what)


Open = Callable[..., AbstractAsyncContextManager[ChatPage]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = require_tool("chromium")
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_ARGUMENTS)
        yield launched
        await launched.close()


@pytest.fixture
def chat_page(browser: Browser) -> Open:
    """Open a page on a server; leaving fails the test for whatever the page did wrong."""

    @asynccontextmanager
    async def opened(url: str, *, viewport: ViewportSize = WIDE, scheme: str = "light") -> AsyncIterator[ChatPage]:
        context = await browser.new_context(viewport=viewport, color_scheme=scheme)  # type: ignore[arg-type]
        context.set_default_timeout(10_000)
        page = await context.new_page()
        chat = ChatPage(page, url)
        host = urlsplit(url).netloc

        def on_console(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                chat.note(f"console {message.type}: {message.text}")

        def on_request(request: Request) -> None:
            parts = urlsplit(request.url)
            if parts.scheme not in {"data", "blob"} and parts.netloc != host:
                chat.seen.append(f"request to elsewhere: {request.url}")

        page.on("console", on_console)
        page.on("pageerror", lambda error: chat.note(f"page error: {error}"))
        page.on("request", on_request)
        await context.expose_function("reportViolation", lambda what: chat.note(f"policy violation: {what}"))
        await context.add_init_script(
            "document.addEventListener('securitypolicyviolation',"
            " (event) => window.reportViolation(event.violatedDirective + ' ' + event.blockedURI))"
        )
        try:
            yield chat
        finally:
            await context.close()
        assert chat.seen == []

    return opened
