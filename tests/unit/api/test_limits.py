"""Limits as a client meets them."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest
from fastapi_foundry.services.usage import Use
from tests.support.fake_engine import content_chunks
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

CHAT = {"model": "m:1", "messages": [{"role": "user", "content": "Hello"}]}
OPENAI = {f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")}
IETF = {"ratelimit", "ratelimit-policy"}
# A list of strings with parameters, of RFC 9651.
ITEM = r'"[a-z-]+"(?:;[a-z]+=(?:\d+|"[a-z-]+"))+'


async def guest(gateway: RunningGateway, *models: str, scope: Scope = Scope.CHAT, **limits: int) -> dict[str, str]:
    wanted = KeyRequest("guest", frozenset({scope}), allowed_models=models or None, limits=KeyLimits(**limits))
    made = await gateway.services.keys.create(wanted, actor="test")
    return {"Authorization": f"Bearer {made.text}"}


async def chat(gateway: RunningGateway, headers: dict[str, str] | None = None, **extra: Any) -> httpx2.Response:
    return await gateway.client.post("/v1/chat/completions", json={**CHAT, **extra}, headers=headers)


def limits_of(answer: httpx2.Response) -> set[str]:
    return {name for name in answer.headers if "ratelimit" in name}


async def test_where_nothing_is_limited_no_answer_speaks_of_limits(gateway: RunningGateway) -> None:
    for headers in (None, await guest(gateway)):
        assert limits_of(await chat(gateway, headers)) == set()


async def test_whole_answers_streams_and_errors_say_what_is_left(gateway: RunningGateway) -> None:
    headers = await guest(gateway, requests_per_minute=10, tokens_per_minute=1000, tokens_per_day=500)
    answers = [
        await chat(gateway, headers),
        await chat(gateway, headers, stream=True),
        await chat(gateway, headers, model="no-such"),
        await chat(gateway, headers, temperature=9),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 400]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["9", "8", "7", "6"]
    assert all(limits_of(answer) == OPENAI | IETF for answer in answers)
    last = answers[-1].headers
    assert (last["x-ratelimit-limit-requests"], last["x-ratelimit-limit-tokens"]) == ("10", "500")
    assert last["x-ratelimit-remaining-tokens"] == "486"  # of the day: two answers of seven tokens
    assert re.fullmatch(r"(60|61)s|1m[01]s", last["x-ratelimit-reset-requests"])
    assert re.fullmatch(r"(\d+h)?\d+m\d+s|\d+s", last["x-ratelimit-reset-tokens"])
    assert re.fullmatch(rf"{ITEM}(, {ITEM})*", last["ratelimit"])
    assert last["ratelimit-policy"] == (
        '"requests";q=10;w=60, "tokens";q=1000;qu="tokens";w=60, "tokens-per-day";q=500;qu="tokens";w=86400'
    )


async def test_other_routes_neither_count_nor_speak_of_limits(gateway: RunningGateway) -> None:
    headers = await guest(gateway, requests_per_minute=1)
    for path in ("/v1/models", "/api/v1/models", "/api/v1/usage", "/api/v1/version"):
        answer = await gateway.client.get(path, headers=headers)
        assert (answer.status_code, limits_of(answer)) == (200, set())
    assert (await chat(gateway, headers)).status_code == 200


async def test_a_refusal_names_the_limit_in_the_form_of_the_dialect(gateway: RunningGateway) -> None:
    headers = await guest(gateway, requests_per_minute=1)
    await chat(gateway, headers)
    refused = await chat(gateway, headers)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] in {"60", "61"}
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-request-id" in refused.headers
    error = refused.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert "The key 'guest' is limited to 1 requests per minute" in error["message"]
    native = await gateway.client.post("/api/v1/generate", json={"prompt": "hi"}, headers=headers)
    body = native.json()
    assert (native.status_code, body["status_code"], body["code"]) == (429, 429, "rate_limit_exceeded")
    # The seconds that are left may have become one less in between.
    assert body["error"] == "Too many requests"
    assert re.sub(r"\d+ s", "n s", body["detail"]) == re.sub(r"\d+ s", "n s", error["message"])
    assert "x-should-retry" not in native.headers
    assert len(gateway.engine.calls) == 1


async def test_a_used_up_budget_is_another_error_and_not_worth_a_retry(gateway: RunningGateway) -> None:
    headers = await guest(gateway, tokens_per_day=5)
    assert (await chat(gateway, headers)).status_code == 200  # seven tokens, counted when they are known
    refused = await chat(gateway, headers)
    assert refused.status_code == 429
    assert (refused.json()["error"]["type"], refused.json()["error"]["code"]) == (
        "insufficient_quota",
        "token_budget_exceeded",
    )
    assert refused.headers["x-should-retry"] == "false"
    assert 0 < int(refused.headers["retry-after"]) <= 86_400
    assert len(gateway.engine.calls) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/api/v1/generate"])
async def test_a_stream_that_passes_its_budget_ends_with_an_error_and_no_normal_end(
    gateway: RunningGateway, path: str
) -> None:
    gateway.engine.chunks = content_chunks(*"abcdefgh")
    headers = await guest(gateway, tokens_per_day=4)
    body = {"model": "m:1", "prompt": "hi", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    answer = await gateway.client.post(path, json=body, headers=headers)
    assert answer.status_code == 200
    frames = [frame for frame in answer.text.split("\n\n") if frame]
    error = orjson.loads(frames[-1].removeprefix("data: "))["error"]
    assert error["code"] == "token_budget_exceeded"
    text = error.get("message") or error["detail"]
    assert "The key 'guest' is limited to 4 tokens per day and this answer ends here" in text
    assert not any("[DONE]" in frame or '"finish_reason":"' in frame for frame in frames)
    assert (gateway.engine.active, "f" in "".join(frames[:-1]).replace("finish_reason", "")) == (0, False)


async def test_the_servers_limits_are_for_clients_without_a_key_too(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, limits__requests_per_minute=2) as gateway:
        answers = [await chat(gateway), await chat(gateway, await guest(gateway)), await chat(gateway)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "This server is limited to 2 requests per minute" in answers[2].json()["error"]["message"]


async def test_a_place_is_free_again_when_its_request_has_ended_or_its_client_has_gone(gateway: RunningGateway) -> None:
    headers = await guest(gateway, concurrent_requests=1)
    gate = gateway.engine.gate = asyncio.Event()
    first = asyncio.create_task(chat(gateway, headers))
    await eventually(lambda: gateway.engine.active)
    refused = await chat(gateway, headers)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert '"concurrent-requests";q=1;qu="concurrent-requests"' in refused.headers["ratelimit-policy"]
    first.cancel()
    await eventually(lambda: not gateway.engine.active)
    gate.set()
    assert (await chat(gateway, headers)).status_code == 200
    assert (await chat(gateway, headers, stream=True)).status_code == 200


async def test_a_batch_counts_its_prompts(gateway: RunningGateway) -> None:
    headers = await guest(gateway, requests_per_minute=5)

    async def batch(count: int) -> httpx2.Response:
        return await gateway.client.post("/api/v1/generate/batch", json={"prompts": ["hi"] * count}, headers=headers)

    answer = await batch(4)
    assert (answer.status_code, answer.headers["x-ratelimit-remaining-requests"]) == (200, "1")
    refused = await batch(2)
    assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")


async def test_a_batch_that_fits_into_no_minute_is_told_so(gateway: RunningGateway) -> None:
    headers = await guest(gateway, requests_per_minute=5)
    answer = await gateway.client.post("/api/v1/generate/batch", json={"prompts": ["hi"] * 6}, headers=headers)
    assert (answer.status_code, answer.json()["param"]) == (400, "prompts")


async def test_tokens_without_a_key_are_held_against_the_server(tmp_path: Path) -> None:
    async with running_gateway(tmp_path, limits__tokens_per_minute=10) as gateway:
        answers = [await chat(gateway) for _ in range(3)]  # seven tokens each
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-tokens"] for answer in answers] == ["3", "0", "0"]


async def test_a_key_sees_and_uses_its_models_alone(gateway: RunningGateway) -> None:
    headers = await guest(gateway, "other", scope=Scope.MODELS_MANAGE)
    assert [card["id"] for card in (await gateway.client.get("/v1/models", headers=headers)).json()["data"]] == [
        "other:2"
    ]
    native = (await gateway.client.get("/api/v1/models", headers=headers)).json()
    assert [model["id"] for model in native["models"]] == ["other:2"]
    assert native["count"] == 1
    assert (await gateway.client.get("/api/v1/models/catalog", headers=headers)).json()["models"] == []
    assert (await gateway.client.get("/v1/models/other:2", headers=headers)).status_code == 200
    hidden = await gateway.client.get("/v1/models/m:1", headers=headers)
    assert (hidden.status_code, "m:1" in hidden.json()["error"]["message"].replace("'m:1'", "")) == (403, False)
    for operation in ("load", "unload", "download", "download/cancel"):
        refused = await gateway.client.post(f"/api/v1/models/m:1/{operation}", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "model_not_allowed"), operation
    assert (await gateway.client.post("/api/v1/models/other:2/load", headers=headers)).status_code == 200
    assert gateway.engine.loaded == ["other:2"]
    chatting = await guest(gateway, "other")
    assert (await chat(gateway, chatting)).status_code == 403
    assert (await chat(gateway, chatting, model="other")).status_code == 200


async def test_keys_see_their_own_use_and_admin_sees_all(gateway: RunningGateway) -> None:
    mine, theirs, admin = [await guest(gateway) for _ in range(2)] + [await guest(gateway, scope=Scope.ADMIN)]
    await chat(gateway, mine)
    for _ in range(2):
        await chat(gateway, theirs)
    await chat(gateway)

    async def usage(headers: dict[str, str] | None, **query: str) -> Any:
        answer = await gateway.client.get("/api/v1/usage", params=query, headers=headers)
        return answer.json() if answer.status_code == 200 else (answer.status_code, answer.json()["code"])

    own = await usage(mine)
    assert own["total"] == {
        "requests": 1,
        "failures": 0,
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "duration_s": pytest.approx(0, abs=1),
    }
    (key,) = {row["key"] for row in (await usage(mine, group="key"))["usage"]}
    assert (await usage(theirs, key=key)) == (403, "insufficient_scope")
    assert (await usage(theirs, group="none"))["count"] == 1
    everybody = await usage(admin, group="key")
    assert [(row["key_name"], row["requests"]) for row in everybody["usage"]] == [
        ("guest", 2),
        *sorted([(None, 1), ("guest", 1)], key=lambda row: row[0] is None and everybody["usage"][1]["key"] != "local"),
    ]
    assert (await usage(None))["total"]["requests"] == 4
    assert (await usage(admin, key="local"))["total"]["requests"] == 1
    assert (await usage(admin, model="other:2"))["usage"] == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-02-30"}, "to"),
        ({"from": "2026-02-02", "to": "2026-02-01"}, "from"),
        ({"group": "hour"}, "group"),
        ({"format": "xml"}, "format"),
    ],
)
async def test_wrong_questions_about_use_are_told_what_is_wrong(
    gateway: RunningGateway, query: dict[str, str], param: str
) -> None:
    answer = await gateway.client.get("/api/v1/usage", params=query)
    assert (answer.status_code, answer.json()["param"]) == (400, param)


async def test_use_and_audit_log_come_as_csv_that_no_spreadsheet_takes_for_formulas(gateway: RunningGateway) -> None:
    gateway.services.usage.record(Use("key_1", '=cmd|"x"!A1', 1, 2, 0.5, failed=False))
    answer = await gateway.client.get("/api/v1/usage", params={"group": "model", "format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    assert "attachment" in answer.headers["content-disposition"]
    assert answer.text.splitlines() == [
        "model,requests,failures,prompt_tokens,completion_tokens,total_tokens,duration_s",
        '"\'=cmd|""x""!A1",1,0,1,2,3,0.5',
    ]
    await guest(gateway)
    audit = await gateway.client.get("/api/v1/audit", params={"format": "csv"})
    assert audit.text.splitlines()[0] == "at,actor,action,target,detail,address,request_id"
    assert "key.create" in audit.text


async def test_the_audit_log_is_for_admin_and_shows_the_newest_first(gateway: RunningGateway) -> None:
    chatting = await guest(gateway)
    assert (await gateway.client.get("/api/v1/audit", headers=chatting)).status_code == 403
    await guest(gateway, scope=Scope.ADMIN)
    entries = (await gateway.client.get("/api/v1/audit", params={"limit": 1})).json()["entries"]
    assert [(entry["action"], entry["detail"]["scopes"]) for entry in entries] == [("key.create", ["admin"])]
    later = await gateway.client.get("/api/v1/audit", params={"since": "2100-01-01T00:00:00+02:00"})
    assert later.json() == {"success": True, "entries": [], "count": 0}
    wrong = await gateway.client.get("/api/v1/audit", params={"since": "lately"})
    assert (wrong.status_code, wrong.json()["param"]) == (400, "since")
