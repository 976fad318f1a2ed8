from __future__ import annotations

import pytest

from fastapi_foundry.api.hosts import HostRule, is_drive_by, is_same_origin


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:9696", "localhost", "LOCALHOST:9696", "localhost.", "[::1]", "[::1]:9696", "127.0.0.2"],
)
def test_a_loopback_server_knows_loopbacks_names(host: str) -> None:
    assert HostRule("127.0.0.1").allows(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:9696",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.5",
        "user@localhost",
        "localhost/x",
        "localhost:port",
        "[::1",
        "[::1]x",
        "::1",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "localhost:80:80",
    ],
)
def test_a_loopback_server_refuses_every_other_name(host: str) -> None:
    assert not HostRule("127.0.0.1").allows(host)


def test_a_server_on_one_address_knows_that_one_and_loopback() -> None:
    rule = HostRule("192.168.1.5")
    assert rule.allows("192.168.1.5:9696")
    assert rule.allows("localhost:9696")
    assert not rule.allows("192.168.1.6")


def test_a_server_on_every_address_knows_addresses_and_the_machines_name_but_no_other() -> None:
    rule = HostRule("0.0.0.0", machine_name="Box.lan")
    assert all(rule.allows(host) for host in ("10.0.0.1:9696", "[fe80::1]:9696", "box", "box.lan:9696", "box.local"))
    assert not rule.allows("evil.example")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:9696", "127.0.0.1:9696"),
        ("http://LOCALHOST", "localhost"),
        ("http://localhost:80", "localhost"),
        ("https://box", "box"),
        ("https://box", "box:443"),
        ("http://[::1]:9696", "[::1]:9696"),
    ],
)
def test_the_same_authority_is_the_same_origin(origin: str, host: str) -> None:
    assert is_same_origin(origin, host)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("null", "localhost"),
        ("", "localhost"),
        ("http://", "localhost"),
        ("http://evil.example", "localhost"),
        ("http://localhost:3000", "localhost:9696"),
        ("http://127.0.0.1:9696", "localhost:9696"),
        ("file://", "localhost"),
        ("chrome-extension://abc", "abc"),
        ("http://localhost:9696.evil.example", "localhost:9696"),
    ],
)
def test_any_other_origin_is_foreign(origin: str, host: str) -> None:
    assert not is_same_origin(origin, host)


def fetched(site: str, mode: str = "no-cors", dest: str = "empty") -> dict[bytes, bytes]:
    return {
        b"sec-fetch-site": site.encode(),
        b"sec-fetch-mode": mode.encode(),
        b"sec-fetch-dest": dest.encode(),
    }


@pytest.mark.parametrize(
    ("headers", "path"),
    [
        ({}, "/v1/models"),
        (fetched("same-origin"), "/v1/models"),
        (fetched("none", "navigate", "document"), "/api/v1/models"),
        (fetched("cross-site", "navigate", "document"), "/"),
        (fetched("same-site", "navigate", "document"), "/docs"),
    ],
)
def test_programs_our_own_pages_and_links_to_them_are_no_drive_by(headers: dict[bytes, bytes], path: str) -> None:
    assert not is_drive_by(headers, path)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "unheard-of"])
@pytest.mark.parametrize(
    ("mode", "dest", "path"),
    [
        ("no-cors", "image", "/static/favicon.svg"),
        ("no-cors", "script", "/"),
        ("navigate", "iframe", "/"),
        ("navigate", "document", "/api/v1/health"),
        ("navigate", "document", "/v1/models"),
    ],
)
def test_what_a_page_of_another_origin_pulls_in_is_a_drive_by(site: str, mode: str, dest: str, path: str) -> None:
    assert is_drive_by(fetched(site, mode, dest), path)
