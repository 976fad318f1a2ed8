"""What a browser is told of itself at the edges of being signed in."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest
from tests.support.gateway import RunningGateway, running_gateway


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
async def test_behind_a_proxy_a_browser_is_told_that_it_has_to_sign_in(gateway: RunningGateway, header: str) -> None:
    told = (await gateway.client.get("/api/v1/session", headers={header: "for=192.0.2.1"})).json()
    assert (told["needed"], told["signed_in"]) == (True, False)
    told = (await gateway.client.get("/api/v1/session")).json()
    assert (told["needed"], told["signed_in"]) == (False, True)


@pytest.mark.parametrize(("require", "status"), [("auto", 200), ("always", 401)])
async def test_a_session_whose_key_has_expired_stands_in_nobodys_way(tmp_path: Path, require: str, status: int) -> None:
    async with running_gateway(tmp_path, security__require_key=require) as gateway:
        keys = gateway.services.keys
        made = await keys.create(KeyRequest(name="k", scopes=frozenset({Scope.CHAT})), actor="test")
        assert (await gateway.client.post("/api/v1/session", json={"key": made.text})).status_code == 200
        assert (await gateway.client.get("/v1/models")).status_code == 200
        await keys.rotate(made.key.id, grace_s=0, actor="test")
        assert gateway.client.cookies
        assert (await gateway.client.get("/v1/models")).status_code == status
        told = (await gateway.client.get("/api/v1/session")).json()
        assert told["signed_in"] == (require == "auto")
