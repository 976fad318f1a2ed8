"""Pages and files: everything comes from this package, nothing from elsewhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import fastapi_foundry.web.routes as web_routes
from tests.support.gateway import RunningGateway

VENDORED = web_routes.STATIC / "vendor" / "swagger-ui"


@pytest.mark.parametrize("path", ["/", "/chat.html", "/docs"])
async def test_pages_are_served(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert (await gateway.client.head(path)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/chat.html", "/docs"])
async def test_everything_a_page_refers_to_is_on_this_server_and_allowed_by_its_policy(
    gateway: RunningGateway, path: str
) -> None:
    page = (await gateway.client.get(path)).text
    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)["']""", page)
    assert targets
    for target in targets:
        if target.startswith("#"):
            continue
        assert target.startswith("/"), target
        assert not target.startswith("//"), target
        assert (await gateway.client.get(target)).status_code == 200, target
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"<[^>]+\son\w+=", page)


async def test_the_documentation_page_never_asks_another_server(gateway: RunningGateway) -> None:
    assert "validatorUrl: null" in (await gateway.client.get("/static/docs/docs.js")).text
    policy = (await gateway.client.get("/docs")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "http" not in policy


async def test_scripts_are_served_as_scripts(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/static/docs/docs.js")
    assert answer.headers["content-type"].startswith("text/javascript")
    assert answer.headers["cache-control"] == "no-cache"
    again = await gateway.client.get("/static/docs/docs.js", headers={"if-none-match": answer.headers["etag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    "path",
    ["/static/../routes.py", "/static/..%2froutes.py", "/static/%2e%2e/routes.py", "/static//etc/passwd", "/static/"],
)
async def test_nothing_outside_of_the_static_files_is_served(gateway: RunningGateway, path: str) -> None:
    answer = await gateway.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"


def test_vendored_files_are_the_published_ones() -> None:
    sums = re.findall(r"^([0-9a-f]{64})  (\S+)$", (VENDORED / "VERSION.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(sums) == 3
    for digest, name in sums:
        assert hashlib.sha256(Path(VENDORED / name).read_bytes()).hexdigest() == digest, name
    assert (VENDORED / "LICENSE").is_file()
