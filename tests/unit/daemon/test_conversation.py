from __future__ import annotations

from typing import Any

import pytest

from fastapi_foundry.daemon.conversation import Conversation, Turn, continuable

LONG = "a fact. " * 200


def body(*messages: tuple[str, Any], **further: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": content} for role, content in messages], **further}


TALK = (("system", LONG), ("user", "One?"), ("assistant", "Two."), ("user", "Three?"))


def conversation(*messages: tuple[str, Any], **further: Any) -> Conversation:
    found = continuable(body(*messages, **further))
    assert found is not None
    return found


def test_a_conversation_is_found_where_its_last_answer_ended():
    first = conversation(*TALK[:2])
    later = conversation(*TALK)
    assert later.earlier() == [(3, first.key_after("Two."))]


def test_the_longest_earlier_place_comes_first():
    more = conversation(*TALK, ("assistant", "Four."), ("user", "Five?"))
    assert [number for number, _ in more.earlier()] == [5, 3]
    assert more.earlier()[0][1] == conversation(*TALK).key_after("Four.")


@pytest.mark.parametrize(
    "changed",
    [
        (("system", LONG + "!"), *TALK[1:]),
        (("system", LONG), ("user", "One"), ("assistant", "?Two."), ("user", "Three?")),
        (("user", LONG), *TALK[1:]),
        (*TALK[:2], ("assistant", "Two"), TALK[3]),
    ],
)
def test_another_text_or_speaker_is_another_conversation(changed: tuple[tuple[str, str], ...]):
    keys = {key for _, key in conversation(*changed).earlier()}
    assert conversation(*TALK[:2]).key_after("Two.") not in keys


def test_the_sampling_is_part_of_the_key_and_the_limit_is_not():
    key = conversation(*TALK[:2], max_tokens=5, temperature=0).key_after("Two.")
    assert conversation(*TALK, max_tokens=9, temperature=0).earlier() == [(3, key)]
    assert conversation(*TALK, temperature=1).earlier() != [(3, key)]


def test_parts_of_text_and_a_developer_are_the_same_to_the_engine():
    parts = [{"type": "text", "text": "On"}, {"type": "text", "text": "e?"}]
    assert conversation(("developer", LONG), ("user", parts)).turns == (Turn("system", LONG), Turn("user", "One?"))


@pytest.mark.parametrize(
    "further",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"stop": ["."]},
        {"response_format": {"type": "json_object"}},
        {"temperature": 1, "seed": 4},
        {"seed": 4},
        {"something_new": True},
    ],
)
def test_what_the_engine_cannot_go_on_after_is_not_kept(further: dict[str, Any]):
    assert continuable(body(*TALK, **further)) is None


@pytest.mark.parametrize("further", [{"tools": []}, {"response_format": {"type": "text"}}, {"stop": None, "user": "u"}])
def test_what_changes_nothing_is_kept(further: dict[str, Any]):
    assert continuable(body(*TALK, **further)) is not None


def test_short_and_unusual_conversations_are_not_kept():
    assert continuable(body(("user", "Hello"))) is None
    assert continuable(body(*TALK[:3])) is None
    assert continuable(body(*TALK[:3], ("assistant", "And"), ("user", "?"))) is None
    assert continuable(body(("system", LONG), ("user", " "))) is None
    assert continuable(body(("system", LONG), ("tool", "x"), ("user", "y"))) is None
    named = body(*TALK)
    named["messages"][1]["name"] = "Ada"
    assert continuable(named) is None
