"""A page of another origin can neither read from the server nor change anything: tried in a real browser, which alone
decides what such a page may do, and looked at on the server's side."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Error, Page
from sqlalchemy import select

from fastapi_foundry.api import middleware
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest, NewKey
from fastapi_foundry.storage.tables import metadata
from tests.support.fake_engine import FakeEngine
from tests.support.foreign_site import ForeignSite, foreign_site
from tests.support.gateway import RunningGateway, running_gateway

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

ATTACKS = Path(__file__).with_name("attacks.js")
QUESTION = {"model": "m:1", "messages": [{"role": "user", "content": "Hi"}]}
# Another port of the same host is another origin and yet the same site: the browser sends the session's cookie along.
SAME_SITE, OTHER_SITE, ALLOWED = "127.0.0.1", "attacker.test", "allowed.test"
METHODS = ("GET", "POST", "OPTIONS")


class WatchedEngine(FakeEngine):
    """Remembers every act upon it."""

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[str] = []

    async def load_model(self, model: str) -> dict[str, Any]:
        self.acts.append(f"load {model}")
        return await super().load_model(model)

    async def unload_model(self, model: str) -> dict[str, Any]:
        self.acts.append(f"unload {model}")
        return await super().unload_model(model)

    def download(self, model: str) -> Any:
        self.acts.append(f"download {model}")
        return super().download(model)

    async def cancel_download(self, model: str) -> dict[str, Any]:
        self.acts.append(f"cancel {model}")
        return await super().cancel_download(model)


@dataclass(frozen=True)
class Answer:
    method: str
    status: int
    has_cookie: bool


@dataclass
class Victim:
    """A gateway, a browser that may be signed in to it, and what was answered to its requests."""

    gateway: RunningGateway
    context: BrowserContext
    answers: list[Answer]

    async def state(self) -> list[Any]:
        """Everything that a request could have changed."""
        engine = self.gateway.engine
        assert isinstance(engine, WatchedEngine)
        await self.gateway.services.usage.flush()
        async with self.gateway.services.database.reading() as connection:
            tables = [
                [tuple(row) for row in await connection.execute(select(*_lasting(table)))]
                for table in metadata.sorted_tables
            ]
        return [*tables, [call.path for call in engine.calls], list(engine.acts)]

    async def visit(self, url: str) -> Page:
        """Open a page of somebody else, with the attacks in it."""
        page = await self.context.new_page()
        await page.goto(url)
        await page.add_script_tag(path=ATTACKS)
        return page


def _lasting(table: Any) -> list[Any]:
    return [column for column in table.columns if column.name != "last_used_at"]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site() -> AsyncIterator[ForeignSite]:
    async with foreign_site() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def usual(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """As it comes: on loopback, where nobody needs a key."""
    async with running_gateway(tmp_path_factory.mktemp("usual"), WatchedEngine()) as gateway:
        yield gateway


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(site: ForeignSite, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningGateway]:
    """One that demands a key, and allows one other origin."""
    home = tmp_path_factory.mktemp("guarded")
    settings = {"security__require_key": "always", "security__allowed_origins": [site.origin(ALLOWED)]}
    async with running_gateway(home, WatchedEngine(), **settings) as gateway:
        yield gateway


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Answer]:
    """What reached the gateway, and what came of it."""
    seen: list[Answer] = []
    serve = middleware.RequestContext.__call__

    async def watch(self: Any, scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            if message["type"] == "http.response.start":
                has_cookie = any(name == b"cookie" for name, _ in scope["headers"])
                seen.append(Answer(scope["method"], message["status"], has_cookie))
            await send(message)

        await serve(self, scope, receive, watched)

    monkeypatch.setattr(middleware.RequestContext, "__call__", watch)
    return seen


@pytest.fixture
def victim_of(browser: Browser, answers: list[Answer]) -> Callable[[RunningGateway], Any]:
    @asynccontextmanager
    async def using(gateway: RunningGateway) -> AsyncIterator[Victim]:
        context = await browser.new_context()
        context.set_default_timeout(10_000)
        try:
            yield Victim(gateway, context, answers)
        finally:
            await context.close()

    return using


async def make_key(gateway: RunningGateway, *scopes: Scope) -> NewKey:
    return await gateway.services.keys.create(KeyRequest(name="victim", scopes=frozenset(scopes)), actor="test")


async def sign_in(victim: Victim) -> None:
    """As an administrator, who can lose the most."""
    key = await make_key(victim.gateway, Scope.ADMIN)
    page = await victim.context.new_page()
    await page.goto(victim.gateway.url)
    await page.get_by_label("API key").fill(key.text)
    await page.keyboard.press("Enter")
    await page.locator("#model:enabled").wait_for()
    await page.close()
    victim.answers.clear()


@pytest.mark.parametrize("signed_in", [False, True], ids=["no key needed", "signed in"])
async def test_it_reads_nothing_and_changes_nothing(victim_of, site, usual, guarded, signed_in):
    async with victim_of(guarded if signed_in else usual) as victim:
        gateway = victim.gateway
        await (sign_in(victim) if signed_in else make_key(gateway, Scope.ADMIN))
        before = await victim.state()
        for host in (SAME_SITE, OTHER_SITE):
            page = await victim.visit(site.origin(host))
            assert await page.evaluate("(gateway) => readAll(gateway)", gateway.url) == []
            await page.evaluate("(gateway) => changeAll(gateway)", gateway.url)
            await page.evaluate("(gateway) => wake(gateway)", gateway.url)
            assert await victim.state() == before
            # Everything did arrive, with the cookie where a browser sends it: it was the server that refused it.
            statuses = {way: {answer.status for answer in victim.answers if answer.method == way} for way in METHODS}
            assert statuses["GET"] == statuses["POST"] == {403}
            assert all(status >= 400 for status in statuses["OPTIONS"])
            assert len([answer for answer in victim.answers if answer.method == "POST"]) == 64
            has_cookie = any(answer.has_cookie for answer in victim.answers if answer.method == "POST")
            assert has_cookie == (signed_in and host == SAME_SITE)
            victim.answers.clear()
        own = await victim.context.request.get(f"{gateway.url}/api/v1/session")
        assert (await own.json())["signed_in"]


async def test_none_of_its_frames_shows_a_page_or_an_answer(victim_of, site, usual):
    async with victim_of(usual) as victim:
        page = await victim.visit(site.origin(SAME_SITE))
        await page.evaluate("(gateway) => frames(gateway)", usual.url)
        shown = [await frame.content() for frame in page.frames[1:]]
        assert len(shown) == 17
        assert not [content for content in shown if "FastAPI Foundry" in content or "m:1" in content]


async def test_it_may_lead_to_our_pages_and_not_into_the_api(victim_of, site, usual):
    async with victim_of(usual) as victim:
        before = await victim.state()
        page = await victim.visit(site.origin(OTHER_SITE))
        for path, status in (("/", 200), ("/chat.html", 200), ("/api/v1/health?level=model", 403), ("/v1/models", 403)):
            async with page.expect_popup() as opened:
                await page.evaluate("(url) => { window.opened = window.open(url) }", usual.url + path)
            popup = await opened.value
            await popup.wait_for_load_state()
            assert await popup.evaluate("performance.getEntriesByType('navigation')[0].responseStatus") == status
            with pytest.raises(Error, match="cross-origin"):
                await page.evaluate("window.opened.document.body.textContent")
        assert await victim.state() == before


async def test_a_name_that_was_pointed_here_gets_nothing_although_the_browser_calls_it_our_origin(victim_of, usual):
    async with victim_of(usual) as victim:
        await make_key(usual, Scope.ADMIN)
        before = await victim.state()
        rebound = f"http://{OTHER_SITE}:{usual.port}"
        page = await victim.context.new_page()
        answer = await page.goto(rebound)
        assert answer is not None
        assert answer.status == 403
        got = await page.evaluate("""async () => {
          const asked = ["/", "/v1/models", "/api/v1/keys", "/api/v1/session", "/static/app.js"].map((path) => fetch(path));
          const options = { method: "POST", headers: { "content-type": "application/json" }, body: "{}" };
          asked.push(fetch("/api/v1/models/other:2/load", options), fetch("/api/v1/keys", options));
          return await Promise.all(asked.map(async (answer) => [(await answer).status, await (await answer).text()]));
        }""")
        assert [status for status, _ in got] == [403] * 7
        assert all("The Host header does not name this server." in text for _, text in got)
        assert await victim.state() == before


ASK = """async ([url, options]) => {
  try {
    const answer = await fetch(url, options);
    return [answer.status, (await answer.text()).slice(0, 2000), answer.headers.get("x-request-id")];
  } catch (error) {
    return [0, error.name, null];
  }
}"""


async def test_the_page_of_an_allowed_origin_can_use_the_api_with_a_key_and_no_other_page_can(victim_of, site, guarded):
    allowed, calls = site.origin(ALLOWED), guarded.engine.calls
    async with victim_of(guarded) as victim:
        key = await make_key(guarded, Scope.CHAT)
        as_owner = {"authorization": f"Bearer {key.text}"}
        question = {"method": "POST", "body": json.dumps(QUESTION), "headers": {"content-type": "application/json"}}
        asked = {**question, "headers": {**question["headers"], **as_owner}}
        page = await victim.visit(allowed)
        for path, options, status, words in (
            ("/v1/models", {"headers": as_owner}, 200, '"m:1"'),
            ("/v1/models", {"headers": {"x-api-key": key.text}}, 200, '"m:1"'),
            ("/v1/chat/completions", asked, 200, "Hello."),
            ("/v1/chat/completions", {**asked, "body": "{"}, 400, '"error"'),
            ("/v1/models", {}, 401, "API key"),
            ("/v1/models", {"headers": {"authorization": "Bearer ffk_wrong"}}, 401, "not valid"),
            ("/api/v1/keys", {"headers": as_owner}, 403, "'admin'"),
        ):
            got, text, request_id = await page.evaluate(ASK, [guarded.url + path, options])
            assert (got, words in text, bool(request_id)) == (status, True, True), (path, text)
        cookies_too = {"headers": as_owner, "credentials": "include"}
        assert (await page.evaluate(ASK, [f"{guarded.url}/v1/models", cookies_too]))[0] == 0
        assert len(calls) == 1
        # A browser asks for permission without a key; whoever is not on the list is not given it.
        for origin in (allowed, site.origin(OTHER_SITE)):
            asking = {"origin": origin, "access-control-request-method": "POST"}
            permission = await guarded.client.options("/v1/chat/completions", headers=asking)
            assert ("access-control-allow-origin" in permission.headers) == (origin == allowed)

        page = await victim.visit(site.origin(OTHER_SITE))
        assert await page.evaluate("(gateway) => readAll(gateway)", guarded.url) == []
        for options in ({"headers": as_owner}, {}, asked):
            assert await page.evaluate(ASK, [f"{guarded.url}/v1/models", options]) == [0, "TypeError", None]
        assert len(calls) == 1
