from __future__ import annotations

import pytest

from fastapi_foundry.services.cache_rules import CacheUse, cache_key, cache_use

CHAT = "/v1/chat/completions"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 5}
BOTH = CacheUse(read=True, write=True)


def key(body: dict | None = None, path: str = CHAT, **parts) -> bytes:
    known = {"model_id": "m:1", "engine": "foundry 1", "scope": "key_1"} | parts
    return cache_key(path, ASKED if body is None else body, **known)


@pytest.mark.parametrize(
    "body",
    [{"temperature": 0}, {"temperature": 0.0}, {"seed": 0}, {"seed": 7, "temperature": 1.0}, {"seed": 1, "n": 3}],
)
def test_deterministic_requests_use_the_cache(body):
    assert cache_use(CHAT, body) == BOTH
    assert cache_use("/v1/completions", body) == BOTH


@pytest.mark.parametrize("body", [{}, {"temperature": 0.1}, {"temperature": None, "seed": None}, {"temperature": 1}])
def test_others_do_so_when_they_ask_for_it(body):
    assert not cache_use(CHAT, body)
    assert cache_use(CHAT, body, asked="On ") == BOTH
    assert not cache_use(CHAT, body, asked="yes")


def test_a_client_may_keep_out_of_the_cache_or_ask_for_a_new_answer():
    body = {"temperature": 0}
    assert not cache_use(CHAT, body, asked="off")
    assert not cache_use(CHAT, body, cache_control="no-cache, No-Store")
    assert not cache_use(CHAT, body, asked="on", cache_control="no-store")
    assert cache_use(CHAT, body, cache_control="max-age=0, no-cache") == CacheUse(read=False, write=True)
    assert cache_use(CHAT, body, cache_control="no-transform") == BOTH


def test_embeddings_and_all_else_are_not_kept():
    assert not cache_use("/v1/embeddings", {"seed": 1}, asked="on")


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "Hi "}]},
        {"messages": [{"role": "system", "content": "Hi"}]},
        {"temperature": 0.5},
        {"max_tokens": 6},
        {"n": 2},
        {"seed": 1},
        {"tools": []},
        {"top_k": 1},
        {"logprobs": False},
        {"anything_else": 1},
    ],
)
def test_whatever_might_change_the_answer_changes_the_key(change):
    assert key(ASKED | change) != key()


@pytest.mark.parametrize(
    "change",
    [
        {"user": "me"},
        {"metadata": {"a": "b"}},
        {"store": True},
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"model": "an-alias"},
        {"stop": None},
    ],
)
def test_what_cannot_change_the_answer_leaves_the_key(change):
    assert key(ASKED | change) == key()
    assert key(dict(reversed((ASKED | change).items()))) == key(), "nor does the order of fields"


def test_streams_can_be_kept_apart():
    assert key(ASKED | {"stream": True}, ignore_stream=False) != key(ignore_stream=False)


def test_path_model_engine_and_scope_are_part_of_the_key_each_for_itself():
    others = [
        key(path="/v1/completions"),
        key(model_id="m:2"),
        key(engine="foundry 2"),
        key(scope="key_2"),
        key(model_id="m:1foundry", engine=" 1"),
        key(engine="key_1", scope="foundry 1"),
    ]
    assert len({key(), *others}) == 7
    assert len(key()) == 32
