"""Who gets in: every route of the application, with every kind of key."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.routing import BaseRoute

from fastapi_foundry.api.permissions import RULES, UNDECLARED, rule_for
from fastapi_foundry.app import create_app
from fastapi_foundry.security.key_format import new_key
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest
from tests.support.fake_engine import FakeEngine
from tests.support.gateway import RunningGateway, gateway_settings, running_gateway

CHAT_BODY = {"model": "m:1", "messages": [{"role": "user", "content": "Hello"}]}
OPEN_TO_ALL = {
    "GET /",
    "GET /chat.html",
    "GET /docs",
    "GET /static/{path:path}",
    "GET /api/v1/health",
    "GET /api/v1/session",
    "POST /api/v1/session",
}


def flat(routes: list[BaseRoute]) -> Iterator[Any]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is None:
            yield route
        else:
            yield from flat(included.routes)


def declared_routes(home: Path) -> set[str]:
    """``METHOD template`` of everything that the application answers."""
    names = set()
    for route in flat(create_app(gateway_settings(home)).router.routes):
        methods = getattr(route, "methods", None) or {"GET"}
        path = route.path if hasattr(route, "dependant") else f"{route.path}/{{path:path}}"
        names |= {f"{method} {path}" for method in methods if method != "HEAD"}
    return names


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[RunningGateway]:
    async with running_gateway(tmp_path, security__require_key="always") as gateway:
        yield gateway


async def key(gateway: RunningGateway, *scopes: Scope, name: str = "test", **more: Any) -> str:
    made = await gateway.services.keys.create(KeyRequest(name, frozenset(scopes), **more), actor="test")
    return made.text


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


async def ask(gateway: RunningGateway, route: str, **more: Any) -> httpx2.Response:
    method, _, template = route.partition(" ")
    path = re.sub(r"\{\w+(:path)?\}", "m:1", template)
    return await gateway.client.request(method, path, **more)


def test_every_route_is_declared_and_nothing_else(tmp_path: Path) -> None:
    assert declared_routes(tmp_path) == set(RULES)
    assert {route for route, rule in RULES.items() if rule.public} == OPEN_TO_ALL


def test_what_is_not_declared_takes_the_highest_right() -> None:
    for method, path in (
        ("GET", "/api/v1/new"),
        ("PUT", "/v1/chat/completions"),
        ("GET", "/v1/chat/completions/"),
        ("GET", "//"),
        ("GET", "/static"),
        ("GET", "/api/v1/keys/a/b"),
        ("GET", "/v1/models/x\ny"),
    ):
        assert rule_for(method, path) is UNDECLARED, path
    assert UNDECLARED.scopes == {Scope.ADMIN}
    assert rule_for("HEAD", "/") is rule_for("GET", "/")
    assert rule_for("GET", "/api/v1/models/catalog") is not UNDECLARED


async def test_no_route_lets_anybody_in_without_a_good_key(guarded: RunningGateway) -> None:
    revoked, expired = await key(guarded, Scope.ADMIN, name="old"), await key(guarded, Scope.ADMIN, expires_in_s=1e-6)
    await guarded.services.keys.revoke("old", actor="test")
    good = await key(guarded, Scope.ADMIN, name="good")
    attempts: dict[str, dict[str, str]] = {
        "none": {},
        "wrong": bearer(new_key()),
        "cut": bearer(good[:-1]),
        "revoked": bearer(revoked),
        "expired": bearer(expired),
        "other scheme": {"Authorization": f"Basic {good}"},
        "empty": {"Authorization": "Bearer"},
        "cookie": {"Cookie": f"foundry_session={good}"},
        "query is no header": {"X-Original-Url": f"/?key={good}"},
    }
    for route in set(RULES) - OPEN_TO_ALL:
        for kind, headers in attempts.items():
            answer = await ask(guarded, route, headers=headers)
            assert answer.status_code == 401, (route, kind, answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            body = answer.json()
            if route.partition(" ")[2].startswith("/v1/"):
                assert body["error"]["code"] == "invalid_api_key"
            else:
                assert (body["status_code"], body["code"]) == (401, "invalid_api_key")
            assert good not in answer.text
    assert guarded.engine.calls == []
    assert guarded.engine.loaded == []
    query = await guarded.client.get("/v1/models", params={"api_key": good, "key": good})
    assert query.status_code == 401


@pytest.mark.parametrize("scope", [None, *Scope])
async def test_a_key_opens_what_its_right_says_and_nothing_else(guarded: RunningGateway, scope: Scope | None) -> None:
    text = await key(guarded, Scope.CHAT if scope is None else scope)
    if scope is None:
        text = await key(guarded, Scope.RAG_READ)
    for route, rule in RULES.items():
        answer = await ask(guarded, route, headers=bearer(text))
        own = scope or Scope.RAG_READ
        allowed = rule.public or not rule.scopes or own in rule.scopes or own is Scope.ADMIN
        refused = answer.status_code == 403 and "insufficient_scope" in answer.text
        assert refused is not allowed, (route, answer.status_code, answer.text)
        assert answer.status_code != 401, route


async def test_both_headers_carry_a_key_and_a_known_one_gets_an_honest_404(guarded: RunningGateway) -> None:
    text = await key(guarded, Scope.CHAT)
    for headers in (bearer(text), {"authorization": f"bearer {text}"}, {"x-api-key": text}):
        answer = await guarded.client.post("/v1/chat/completions", json=CHAT_BODY, headers=headers)
        assert answer.status_code == 200, headers
    assert (await guarded.client.get("/v1/nothing", headers=bearer(text))).status_code == 404
    assert (await guarded.client.put("/v1/chat/completions", headers=bearer(text))).status_code == 405
    assert (await guarded.client.get("/v1/nothing")).status_code == 401
    refused = await guarded.client.get("/api/v1/keys", headers=bearer(text))
    assert "'admin'" in refused.json()["detail"]
    assert "'chat'" in refused.json()["detail"]


async def test_a_revoked_key_is_refused_by_every_process_with_its_next_request(tmp_path: Path) -> None:
    async with (
        running_gateway(tmp_path, security__require_key="always") as one,
        running_gateway(tmp_path, security__require_key="always") as other,
    ):
        for _ in range(5):
            text = await key(one, Scope.CHAT, name="short")
            for gateway in (other, one):
                assert (await gateway.client.get("/v1/models", headers=bearer(text))).status_code == 200
            await one.services.keys.revoke("short", actor="test")
            for gateway in (other, one):
                answer = await gateway.client.get("/v1/models", headers=bearer(text))
                assert answer.status_code == 401
                assert "revoked" in answer.text


async def test_on_loopback_no_key_is_needed_and_one_that_other_servers_want_does_no_harm(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        for headers in ({}, bearer("sk-anything"), {"x-api-key": "ollama"}, {"Authorization": "Basic eA=="}):
            assert (await gateway.client.get("/v1/models", headers=headers)).status_code == 200, headers
        assert (await gateway.client.get("/v1/models", headers=bearer(new_key()))).status_code == 401
        limited = await key(gateway, Scope.EMBEDDINGS)
        answer = await gateway.client.post("/v1/chat/completions", json=CHAT_BODY, headers=bearer(limited))
        assert answer.status_code == 403


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "X-Real-IP"])
async def test_what_a_proxy_hands_on_is_not_taken_for_this_machine(tmp_path: Path, header: str) -> None:
    async with running_gateway(tmp_path) as gateway:
        assert (await gateway.client.get("/v1/models", headers={header: "203.0.113.9"})).status_code == 401
    async with running_gateway(tmp_path, security__require_key="never") as gateway:
        assert (await gateway.client.get("/v1/models", headers={header: "203.0.113.9"})).status_code == 200


async def test_the_key_of_the_settings_has_every_right(tmp_path: Path) -> None:
    own = "a key of my own making, long enough"
    async with running_gateway(tmp_path, security__require_key="always", security__admin_key=own) as gateway:
        assert (await gateway.client.get("/api/v1/keys", headers=bearer(own))).status_code == 200
        assert (await gateway.client.get("/api/v1/keys", headers=bearer(own + "x"))).status_code == 401


async def test_a_session_of_the_settings_key_ends_with_it(tmp_path: Path) -> None:
    def settings(own: str) -> dict[str, object]:
        return {"security__require_key": "always", "security__admin_key": own}

    async with running_gateway(tmp_path, **settings("one" * 12)) as gateway:
        assert (await sign_in(gateway, key="one" * 12)).status_code == 200
        cookies = dict(gateway.client.cookies)
        assert (await gateway.client.get("/api/v1/keys")).status_code == 200
    for own, status in (("one" * 12, 200), ("two" * 12, 401)):
        async with running_gateway(tmp_path, **settings(own)) as gateway:
            gateway.client.cookies.update(cookies)
            assert (await gateway.client.get("/api/v1/keys")).status_code == status


async def test_strangers_learn_of_the_health_no_more_than_whether_it_is_well(guarded: RunningGateway) -> None:
    answer = await guarded.client.get("/api/v1/health")
    assert answer.status_code == 200
    assert answer.json().keys() == {"status", "foundry_status", "models_count", "port"}
    assert (await guarded.client.get("/api/v1/health?level=model")).status_code == 401
    assert guarded.engine.calls == []
    text = await key(guarded, Scope.CHAT)
    assert "foundry" in (await guarded.client.get("/api/v1/health", headers=bearer(text))).json()


# Keys over HTTP


async def test_a_key_is_made_shown_once_exchanged_and_ended(guarded: RunningGateway) -> None:
    admin = bearer(await key(guarded, Scope.ADMIN, name="boss"))
    body = {"name": "app", "scopes": ["chat"], "expires_in_s": 60, "limits": {"tokens_per_day": 5}}
    made = await guarded.client.post("/api/v1/keys", json=body, headers=admin)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    text, key_id = made.json()["key"], made.json()["id"]
    assert (await guarded.client.get("/v1/models", headers=bearer(text))).status_code == 200
    listed = await guarded.client.get("/api/v1/keys", headers=admin)
    assert text not in listed.text
    assert [entry["name"] for entry in listed.json()["keys"]] == ["app", "boss"]
    assert listed.json()["keys"][0]["limits"] == {"tokens_per_day": 5}

    again = await guarded.client.post(f"/api/v1/keys/{key_id}/rotate", json={"grace_s": 0.4}, headers=admin)
    assert again.status_code == 201
    fresh = again.json()["key"]
    assert again.json()["rotated_from"] == key_id
    for each in (text, fresh):
        assert (await guarded.client.get("/v1/models", headers=bearer(each))).status_code == 200
    await asyncio.sleep(0.5)
    assert (await guarded.client.get("/v1/models", headers=bearer(text))).status_code == 401

    ended = await guarded.client.post(f"/api/v1/keys/{again.json()['id']}/revoke", headers=admin)
    assert ended.json()["status"] == "revoked"
    assert (await guarded.client.get("/v1/models", headers=bearer(fresh))).status_code == 401
    twice = await guarded.client.post(f"/api/v1/keys/{again.json()['id']}/revoke", headers=admin)
    assert (twice.status_code, twice.json()["param"]) == (400, "key")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a" * 101}, "name"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["root"]}, "scopes.0"),
        ({"name": "a", "expires_in_s": 0}, "expires_in_s"),
        ({"name": "a", "expires_in_s": 1e30}, "expires_in_s"),
        ({"name": "a", "limits": {"tokens_per_dya": 1}}, "limits.tokens_per_dya"),
        ({"name": "a", "limits": {"tokens_per_day": -1}}, "limits.tokens_per_day"),
        ({"name": "a", "allowed_models": "m"}, "allowed_models"),
        ({"name": "a", "owner": "x"}, "owner"),
    ],
)
async def test_a_key_that_makes_no_sense_is_refused_by_name(
    guarded: RunningGateway, body: dict[str, Any], param: str
) -> None:
    admin = bearer(await key(guarded, Scope.ADMIN))
    answer = await guarded.client.post("/api/v1/keys", json=body, headers=admin)
    assert (answer.status_code, answer.json()["param"]) == (400, param)
    assert len(await guarded.services.keys.list_keys()) == 1


async def test_a_key_that_is_not_there_is_a_404(guarded: RunningGateway) -> None:
    admin = bearer(await key(guarded, Scope.ADMIN))
    for path, method in (("/api/v1/keys/nobody", "GET"), ("/api/v1/keys/nobody/revoke", "POST")):
        answer = await guarded.client.request(method, path, headers=admin)
        assert (answer.status_code, answer.json()["code"]) == (404, "key_not_found")


# Sessions of a browser


async def sign_in(gateway: RunningGateway, **body: str) -> httpx2.Response:
    return await gateway.client.post("/api/v1/session", json=body)


async def test_a_session_stands_for_its_key_until_somebody_ends_one_of_them(guarded: RunningGateway) -> None:
    text = await key(guarded, Scope.CHAT, name="mine")
    signed = await sign_in(guarded, key=text)
    assert signed.status_code == 200
    cookie = signed.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert text.lower() not in cookie
    assert signed.json()["signed_in"] is True
    csrf = signed.json()["csrf"]

    assert (await guarded.client.get("/v1/models")).status_code == 200
    told = (await guarded.client.get("/api/v1/session")).json()
    assert (told["signed_in"], told["name"], told["csrf"], told["scopes"]) == (True, "mine", csrf, ["chat"])
    for token in ({}, {"x-csrf-token": "guess"}, {"x-csrf-token": ""}):
        forged = await guarded.client.post("/v1/chat/completions", json=CHAT_BODY, headers=token)
        assert forged.status_code == 403, token
    right = {"x-csrf-token": csrf}
    assert (await guarded.client.post("/v1/chat/completions", json=CHAT_BODY, headers=right)).status_code == 200
    assert (await guarded.client.get("/api/v1/keys")).status_code == 403

    await guarded.services.keys.revoke("mine", actor="test")
    assert (await guarded.client.get("/v1/models")).status_code == 401
    assert (await guarded.client.get("/")).status_code == 200
    assert (await guarded.client.get("/api/v1/session")).json()["signed_in"] is False


async def test_signing_out_ends_the_session_everywhere(guarded: RunningGateway) -> None:
    signed = await sign_in(guarded, key=await key(guarded, Scope.CHAT))
    secret = guarded.client.cookies["foundry_session"]
    token = {"x-csrf-token": signed.json()["csrf"]}
    assert (await guarded.client.delete("/api/v1/session")).status_code == 403
    assert (await guarded.client.delete("/api/v1/session", headers=token)).json()["signed_in"] is False
    async with httpx2.AsyncClient(base_url=guarded.url, cookies={"foundry_session": secret}) as thief:
        assert (await thief.get("/v1/models")).status_code == 401


async def test_a_link_opens_one_session_however_many_try_at_once(guarded: RunningGateway) -> None:
    admin = await key(guarded, Scope.ADMIN)
    made = await guarded.client.post("/api/v1/session/links", headers=bearer(admin))
    assert made.status_code == 201
    link = made.json()["path"].removeprefix("/#link=")
    async with httpx2.AsyncClient(base_url=guarded.url, cookies={"foundry_session": link}) as thief:
        assert (await thief.get("/v1/models")).status_code == 401
    answers = await asyncio.gather(*(sign_in(guarded, link=link) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401, 401]
    assert (await sign_in(guarded, link=link)).status_code == 401


@pytest.mark.parametrize("body", [{}, {"key": "a", "link": "b"}, {"key": ""}, {"key": 1}, {"password": "x"}])
async def test_signing_in_with_something_else_is_refused(guarded: RunningGateway, body: dict[str, Any]) -> None:
    assert (await guarded.client.post("/api/v1/session", json=body)).status_code == 400


async def test_signing_in_with_a_wrong_key_opens_nothing(guarded: RunningGateway) -> None:
    for text in (new_key(), "x", "ffk_"):
        answer = await sign_in(guarded, key=text)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


# Pages of other origins

PAGE = "https://chat.example.org"


async def test_a_page_that_is_allowed_may_ask_and_others_may_not(tmp_path: Path) -> None:
    overrides = {"security__require_key": "always", "security__allowed_origins": [PAGE]}
    async with running_gateway(tmp_path, **overrides) as gateway:
        text = await key(gateway, Scope.CHAT)
        preflight = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        allowed = await gateway.client.options("/v1/chat/completions", headers={"Origin": PAGE, **preflight})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == PAGE
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in allowed.headers
        for origin in ("https://evil.example.org", "null", PAGE + ".evil.org"):
            refused = await gateway.client.options("/v1/chat/completions", headers={"Origin": origin, **preflight})
            assert "access-control-allow-origin" not in refused.headers, origin
            posted = await gateway.client.post(
                "/v1/chat/completions", json=CHAT_BODY, headers={"Origin": origin, **bearer(text)}
            )
            assert posted.status_code == 403
            assert "access-control-allow-origin" not in posted.headers
        answer = await gateway.client.post(
            "/v1/chat/completions", json=CHAT_BODY, headers={"Origin": PAGE, **bearer(text)}
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
        unknown = await gateway.client.get("/v1/models", headers={"Origin": PAGE})
        assert unknown.status_code == 401
        assert unknown.headers["access-control-allow-origin"] == PAGE


async def test_without_a_setting_no_other_origin_gets_anything(tmp_path: Path) -> None:
    async with running_gateway(tmp_path) as gateway:
        for origin in (PAGE, "null", "http://localhost:1"):
            read = await gateway.client.get("/v1/models", headers={"Origin": origin})
            assert not [name for name in read.headers if name.startswith("access-control")]
            assert (
                await gateway.client.post("/api/v1/keys", json={"name": "x"}, headers={"Origin": origin})
            ).status_code == 403


async def test_a_name_of_the_settings_is_ours_too(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, security__allowed_hosts=["ai.example.org"]) as gateway:
        for host, status in (("ai.example.org", 200), ("AI.example.org:443", 200), ("evil.example.org", 403)):
            assert (await gateway.client.get("/v1/models", headers={"Host": host})).status_code == status


async def test_while_keys_cannot_be_read_nobody_is_let_in(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, FakeEngine(), security__require_key="always") as gateway:
        text = await key(gateway, Scope.CHAT)
        await gateway.services.database.aclose()
        gateway.services.access.close()
        answer = await gateway.client.get("/v1/models", headers=bearer(text))
        assert answer.status_code == 503
        assert gateway.engine.lists == 0


async def test_acts_are_recorded_with_who_and_from_where(guarded: RunningGateway) -> None:
    boss = bearer(await key(guarded, Scope.ADMIN, name="boss"))
    boss_id = (await guarded.client.get("/api/v1/keys/boss", headers=boss)).json()["id"]
    made = await guarded.client.post("/api/v1/keys", json={"name": "app"}, headers=boss)
    await guarded.client.post("/api/v1/models/m:1/load", headers=boss)
    await guarded.client.post("/api/v1/models/far/download", headers=boss)
    await guarded.client.post("/api/v1/keys/app/revoke", headers=boss)
    entries = (await guarded.client.get("/api/v1/audit", headers=boss)).json()["entries"]
    assert [(entry["action"], entry["target"], entry["actor"]) for entry in entries[:4]] == [
        ("key.revoke", made.json()["id"], boss_id),
        ("model.download", "far", boss_id),
        ("model.load", "m:1", boss_id),
        ("key.create", made.json()["id"], boss_id),
    ]
    assert {entry["address"] for entry in entries[:4]} == {"127.0.0.1"}
    assert entries[0]["request_id"].startswith("req_")
    assert made.json()["key"] not in str(entries)
