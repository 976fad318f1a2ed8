from __future__ import annotations

import json

import pytest

from fastapi_foundry import errors
from fastapi_foundry.cli.conversation import Conversation
from fastapi_foundry.cli.http import HttpApi
from tests.unit.cli.stub_server import Said, stub_server

CHAT = "POST /v1/chat/completions"


def frame(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def piece(text: str | None = None, finish: str | None = None) -> bytes:
    return frame({"choices": [{"delta": {"content": text} if text else {}, "finish_reason": finish}]})


USAGE = frame({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}})
DONE = b"data: [DONE]\n\n"


def test_pieces_are_yielded_in_order_and_kept_as_the_answer():
    whole = [b": loading\n\n", piece("Hel"), piece("lo"), piece(finish="stop"), USAGE, DONE]
    with stub_server({CHAT: Said(pieces=whole)}) as stub:
        talk = Conversation(HttpApi(stub.url), "m:1", system="Be brief.")
        assert list(talk.ask("Hi")) == ["Hel", "lo"]
    assert talk.last.text == "Hello"
    assert talk.last.finish_reason == "stop"
    assert talk.last.usage["completion_tokens"] == 2
    assert talk.last.tokens_per_second is not None
    assert stub.asked[0].body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
    ]
    assert stub.asked[0].body["stream_options"] == {"include_usage": True}


def test_a_second_question_carries_the_conversation():
    with stub_server({CHAT: Said(pieces=[piece("A"), DONE])}) as stub:
        talk = Conversation(HttpApi(stub.url), "m:1")
        list(talk.ask("one"))
        list(talk.ask("two"))
    assert [message["content"] for message in stub.asked[1].body["messages"]] == ["one", "A", "two"]


def test_an_error_frame_ends_the_answer_and_takes_the_question_back():
    broken = [piece("A"), frame({"error": {"message": "The engine stopped.", "code": "engine_failed"}})]
    with stub_server({CHAT: Said(pieces=broken)}) as stub:
        talk = Conversation(HttpApi(stub.url), "m:1")
        with pytest.raises(errors.EngineFailedError, match="The engine stopped"):
            list(talk.ask("one"))
    assert talk.messages == []


def test_an_answer_without_its_end_is_a_failure():
    with stub_server({CHAT: Said(pieces=[piece("A")])}) as stub:
        talk = Conversation(HttpApi(stub.url), "m:1")
        with pytest.raises(errors.EngineFailedError, match="ended before"):
            list(talk.ask("one"))


@pytest.mark.parametrize("nonsense", [b"data: {not json\n\n", b"data: [1]\n\n"])
def test_a_chunk_that_makes_no_sense_is_a_failure(nonsense):
    with stub_server({CHAT: Said(pieces=[nonsense, DONE])}) as stub:
        talk = Conversation(HttpApi(stub.url), "m:1")
        with pytest.raises(errors.EngineFailedError, match="makes no sense"):
            list(talk.ask("one"))


def test_leaving_early_keeps_what_had_arrived():
    with stub_server({CHAT: Said(pieces=[piece("A"), piece("B"), DONE])}) as stub:
        talk = Conversation(HttpApi(stub.url), "m:1")
        pieces = talk.ask("one")
        next(pieces)
        pieces.close()
    assert talk.last.finish_reason == "stopped"
    assert [message["content"] for message in talk.messages] == ["one", "A"]


def test_clear_forgets_everything_but_the_system_message():
    with stub_server({CHAT: Said(pieces=[piece("A"), DONE])}) as stub:
        talk = Conversation(HttpApi(stub.url), "m:1", system="S")
        list(talk.ask("one"))
        talk.clear()
        list(talk.ask("two"))
    assert [message["content"] for message in stub.asked[1].body["messages"]] == ["S", "two"]
