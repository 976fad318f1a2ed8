from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from fastapi_foundry.daemon import http
from fastapi_foundry.daemon.http import ClientGoneError, Exchange
from fastapi_foundry.errors import BodyTooLargeError, InvalidInputError


def exchange(
    *messages: dict[str, Any], headers: dict[str, str] | None = None, sent: list[Any] | None = None, **scope: Any
) -> Exchange:
    waiting = list(messages)

    async def receive() -> MutableMapping[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        if sent is not None:
            sent.append(message)

    head = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
    base = {"method": "POST", "path": "/x", "raw_path": b"/x", "query_string": b"", "headers": head}
    return Exchange(base | scope, receive, send, max_body_bytes=10)


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_parts_is_put_together():
    assert await exchange(part(b'{"a"', more=True), part(b":1}")).json() == {"a": 1}


async def test_a_body_that_grows_too_large_is_cut_off():
    with pytest.raises(BodyTooLargeError):
        await exchange(part(b"x" * 6, more=True), part(b"x" * 6, more=True)).json()


async def test_a_body_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "_BODY_STALL_S", 0.01)
    with pytest.raises(InvalidInputError) as caught:
        await exchange(part(b"{", more=True)).json()
    assert caught.value.code == "body_stalled"


async def test_a_client_that_leaves_in_its_body_is_noticed():
    with pytest.raises(ClientGoneError):
        await exchange(part(b"{", more=True), {"type": "http.disconnect"}).json()


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/ld+json"])
async def test_every_spelling_of_json_is_accepted(kind: str):
    assert await exchange(part(b"{}"), headers={"content-type": kind}).json() == {}


async def test_an_answer_to_an_unread_body_closes_the_connection():
    sent: list[Any] = []
    await exchange(sent=sent).answer({})
    assert (b"connection", b"close") in sent[0]["headers"]
    sent.clear()
    await exchange(sent=sent, method="GET").answer({})
    assert (b"connection", b"close") not in sent[0]["headers"]


@pytest.mark.parametrize(
    ("client", "local"),
    [
        (("127.0.0.1", 1), True),
        (("::1", 1), True),
        (("::ffff:127.0.0.1", 1), True),
        (("10.0.0.1", 1), False),
        (None, False),
    ],
)
def test_loopback_is_known_by_its_address(client: tuple[str, int] | None, local: bool):
    assert exchange(client=client).from_loopback is local


def test_the_rest_of_a_path_is_decoded_once():
    made = exchange(path="/m/a/b%3A1", raw_path=b"/m/a%2Fb%253A1?x=1")
    assert made.rest_of_path("/m/") == "a/b%3A1"
    assert exchange(path="/m/a:1", raw_path=b"").rest_of_path("/m/") == "a:1"


def test_query_parameters_are_read():
    made = exchange(query_string=b"refresh=1&refresh=2")
    assert (made.query("refresh"), made.query("other")) == ("1", None)
