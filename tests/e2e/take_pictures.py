"""Take the screenshots of docs/chat-page.md again: ``python -m tests.e2e.take_pictures``."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from tests.e2e.conftest import CHROMIUM_ARGUMENTS, WIDE
from tests.support.processes import gateway_process
from tests.support.tools import require_tool

PICTURES = Path(__file__).parents[2] / "docs" / "images"
TALL_PHONE: ViewportSize = {"width": 360, "height": 720}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        gateway_process(Path(home)) as gateway,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=require_tool("chromium"), headless=True, args=CHROMIUM_ARGUMENTS
        )
        take(browser, gateway.url, WIDE, "light", "chat-light")
        take(browser, gateway.url, WIDE, "dark", "chat-dark")
        take(browser, gateway.url, TALL_PHONE, "light", "chat-phone")
        take_sign_in(browser, Path(home) / "guarded")
        browser.close()


def take_sign_in(browser: Browser, home: Path) -> None:
    env = {"FASTAPI_FOUNDRY__SECURITY__REQUIRE_KEY": "always", "FOUNDRY_ADMIN_KEY": "k" * 32}
    with gateway_process(home, env=env) as gateway:
        page = browser.new_page(viewport=WIDE, color_scheme="light")
        page.goto(gateway.url)
        page.locator("#health[data-state=healthy]").wait_for()
        page.get_by_label("API key").fill("ffk_wrong")
        page.keyboard.press("Enter")
        page.get_by_role("alert").wait_for()
        shoot(page, "sign-in")
        page.context.close()


def take(browser: Browser, url: str, viewport: ViewportSize, scheme: str, name: str) -> None:
    mobile = viewport["width"] < WIDE["width"]
    page = browser.new_page(viewport=viewport, color_scheme=scheme, is_mobile=mobile)  # type: ignore[arg-type]
    page.goto(url)
    page.locator("#health[data-state=healthy]").wait_for()
    page.locator("option", has_text="loaded").wait_for(state="attached")
    if name == "chat-light":
        shoot(page, "chat-empty")
    for question in ("What are you?", "How do I get a bigger model?"):
        answered = page.locator(".facts").count()
        page.get_by_label("Your message").fill(question)
        page.keyboard.press("Enter")
        page.locator(".facts").nth(answered).wait_for()
    page.wait_for_timeout(300)
    shoot(page, name)
    page.context.close()


def shoot(page: Page, name: str) -> None:
    page.screenshot(path=PICTURES / f"{name}.png", animations="disabled", caret="hide")


if __name__ == "__main__":
    main()
