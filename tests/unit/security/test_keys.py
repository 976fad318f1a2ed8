"""Keys, limits, principals, the ring: pure values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastapi_foundry.security.key_format import hash_key, new_key, shown_prefix
from fastapi_foundry.security.keys import ApiKey, KeyLimits, KeyRing
from fastapi_foundry.security.principal import LOCAL, Principal
from fastapi_foundry.security.scopes import Scope

HOUR_US = 3_600_000_000


def key_of(text: str, **more: object) -> ApiKey:
    values = {
        "id": "key_1",
        "name": "one",
        "prefix": shown_prefix(text),
        "hash": hash_key(text),
        "created_at": 1,
        "scopes": frozenset({Scope.CHAT}),
    }
    return ApiKey(**(values | more))  # type: ignore[arg-type]


def test_the_ring_knows_a_key_by_its_text_alone() -> None:
    one, two = new_key(), new_key()
    ring = KeyRing([key_of(one), key_of(two, id="key_2", name="two")])
    found = ring.find(two)
    assert found is not None
    assert found[0].name == found[1].name == "two"
    assert ring.find(new_key()) is None
    assert ring.find(hash_key(one)) is None
    assert ring.get("key_1") is not None
    assert ring.get("key_3") is None
    ring.replace([])
    assert ring.find(one) is None
    assert len(ring) == 0


def test_a_key_ends_when_it_says_or_when_it_is_revoked() -> None:
    key = key_of(new_key(), expires_at=2 * HOUR_US)
    assert [key.status(at) for at in (HOUR_US, 2 * HOUR_US - 1, 2 * HOUR_US)] == ["active", "active", "expired"]
    revoked = replace(key, revoked_at=HOUR_US)
    assert [revoked.status(at) for at in (HOUR_US - 1, HOUR_US, 3 * HOUR_US)] == ["active", "revoked", "revoked"]
    assert key_of(new_key()).status(10**18) == "active"


def test_what_is_shown_of_a_key_is_neither_its_text_nor_its_hash() -> None:
    text = new_key()
    key = key_of(text, expires_at=HOUR_US, limits=KeyLimits(tokens_per_day=5))
    shown = key.shown(HOUR_US)
    assert shown["status"] == "expired"
    assert shown["expires_at"] == "1970-01-01T01:00:00Z"
    assert shown["limits"] == {"tokens_per_day": 5}
    assert text not in str(shown)
    assert key.hash not in str(shown)


def test_limits_survive_the_way_to_the_store_and_back() -> None:
    limits = KeyLimits(requests_per_minute=3, tokens_per_month=10**12)
    assert KeyLimits.from_dict(limits.to_dict()) == limits
    assert limits.any
    assert not KeyLimits.from_dict(None).any
    assert KeyLimits.from_dict({"requests_per_minute": 3, "of_a_newer_program": 1}) == KeyLimits(3)


@pytest.mark.parametrize(
    ("scopes", "wanted", "outcome"),
    [
        ({Scope.CHAT}, {Scope.CHAT}, True),
        ({Scope.CHAT}, {Scope.EMBEDDINGS, Scope.CHAT}, True),
        ({Scope.CHAT}, {Scope.ADMIN}, False),
        ({Scope.RAG_READ}, {Scope.RAG_WRITE}, False),
        ({Scope.ADMIN}, {Scope.RAG_WRITE}, True),
        ({Scope.CHAT}, set(), True),
        (set(), {Scope.CHAT}, False),
    ],
)
def test_a_right_is_had_or_not(scopes: set[Scope], wanted: set[Scope], outcome: bool) -> None:
    assert Principal("k", "k", frozenset(scopes)).may_any(frozenset(wanted)) is outcome


def test_allowed_models_are_names_or_beginnings_of_names() -> None:
    principal = Principal("k", "k", frozenset(), allowed_models=("phi-4-mini", "qwen*"))
    assert principal.allows_model("phi-4-mini")
    assert principal.allows_model("other", "qwen2.5:4")
    assert not principal.allows_model("phi-4-mini:3", "phi-4")
    assert not principal.allows_model("")
    assert not Principal("k", "k", frozenset(), allowed_models=()).allows_model("phi-4-mini")
    assert Principal("k", "k", frozenset()).allows_model("anything")
    assert LOCAL.allows_model("x")
    assert LOCAL.allows_tool("x")
    assert LOCAL.allows_store("x")
    assert LOCAL.may(Scope.RAG_WRITE)
