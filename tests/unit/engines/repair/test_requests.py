from __future__ import annotations

from dataclasses import replace

import pytest

from fastapi_foundry.engines.repair.profile import CONFORMING, KNOWN_PROFILES, EngineProfile, ModelFacts, known_profile
from fastapi_foundry.engines.repair.requests import clamped_after, is_plain, passes_plain_requests, plan_chat
from fastapi_foundry.errors import (
    ContextLengthExceededError,
    EngineFailedError,
    InvalidInputError,
    UnsupportedParameterError,
)

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
IMAGE = [{"type": "text", "text": "See"}, {"type": "image_url", "image_url": {"url": "data:x"}}]
TOOL = {"type": "function", "function": {"name": "f", "strict": True, "parameters": {"type": "object"}}}


@pytest.mark.parametrize("kind", ["ours", "openai", "gateway"])
def test_plain_request_is_the_very_same_object(kind):
    plan = plan_chat(PLAIN, known_profile(kind))
    assert plan.request is PLAIN
    assert not plan.touches_answer
    assert plan.alterations == ()


@pytest.mark.parametrize("kind", sorted(KNOWN_PROFILES))
@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"messages": [{"role": "user", "content": IMAGE}]}, "messages.0.content.1"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(kind, values, param):
    if kind in {"openai", "gateway"}:
        assert plan_chat(PLAIN | values, known_profile(kind)).request == PLAIN | values
        return
    with pytest.raises(UnsupportedParameterError) as caught:
        plan_chat(PLAIN | values, known_profile(kind))
    assert caught.value.param == param


@pytest.mark.parametrize("values", [{"logprobs": False}, {"logit_bias": {}}, {"presence_penalty": 0}])
def test_values_that_ask_for_nothing_are_no_reason_to_refuse(values):
    assert plan_chat(PLAIN | values, known_profile("ours")).request == PLAIN | values


def test_image_for_a_model_known_to_read_text_alone_is_refused_by_any_engine():
    request = PLAIN | {"messages": [{"role": "user", "content": IMAGE}]}
    with pytest.raises(UnsupportedParameterError, match="image_url"):
        plan_chat(request, CONFORMING, ModelFacts(vision=False))


def test_text_parts_are_joined_and_developer_becomes_system():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    request = PLAIN | {"messages": [{"role": "developer", "content": "Be brief"}, {"role": "user", "content": parts}]}
    plan = plan_chat(request, replace(CONFORMING, content_parts="refused", developer_role="ignored"))
    assert [(each["role"], each["content"]) for each in plan.request["messages"]] == [
        ("system", "Be brief"),
        ("user", "ab"),
    ]
    assert plan.alterations == ("content: text parts joined", "role: developer sent as system")
    assert request["messages"][1]["content"] is parts


def test_several_choices_become_several_requests_where_the_engine_gives_one():
    plan = plan_chat(PLAIN | {"n": 3}, known_profile("gen3"))
    assert (plan.choices, "n" in plan.request) == (3, False)
    assert plan.alterations == ("n: answered by 3 requests",)
    assert plan_chat(PLAIN | {"n": 3}, CONFORMING).request["n"] == 3
    assert plan_chat(PLAIN | {"n": 1}, known_profile("gen3")).choices == 1


def test_strict_leaves_the_tools_and_newer_names_become_older_ones():
    request = PLAIN | {"tools": [TOOL], "max_completion_tokens": 7}
    plan = plan_chat(request, known_profile("gen3"))
    assert plan.request["max_tokens"] == 7
    assert "max_completion_tokens" not in plan.request
    assert "strict" not in plan.request["tools"][0]["function"]
    assert "strict" in request["tools"][0]["function"]
    assert plan.fills_answer


def test_tools_are_refused_where_there_are_none_and_dropped_where_none_may_be_called():
    profile = replace(CONFORMING, tools="none")
    with pytest.raises(UnsupportedParameterError) as caught:
        plan_chat(PLAIN | {"tools": [TOOL]}, profile)
    assert caught.value.param == "tools"
    plan = plan_chat(PLAIN | {"tools": [TOOL], "tool_choice": "none"}, profile)
    assert "tools" not in plan.request


def test_stop_is_enforced_where_the_engine_does_not():
    plan = plan_chat(PLAIN | {"stop": "END"}, replace(CONFORMING, stop="refused"))
    assert plan.stops == ("END",)
    assert "stop" not in plan.request
    assert plan_chat(PLAIN | {"stop": ["a", "b"]}, replace(CONFORMING, stop="ignored")).stops == ("a", "b")
    assert plan_chat(PLAIN | {"stop": "END"}, CONFORMING).stops == ()


def test_limit_beyond_the_context_is_clamped_ahead():
    plan = plan_chat(PLAIN | {"max_tokens": 5000}, known_profile("gen3"), ModelFacts(context_length=4096))
    assert 3900 < plan.request["max_tokens"] < 4096
    assert plan.alterations[0].startswith("max_tokens: 5000 clamped to ")
    assert plan_chat(PLAIN | {"max_tokens": 5000}, known_profile("ours"), ModelFacts(4096)).alterations == ()


@pytest.mark.parametrize(
    ("message", "facts", "room"),
    [
        ("request requires 5015 total tokens but model context length is 4096", ModelFacts(), 4096 - 15),
        ("max_length (5015) cannot be greater than model context_length (4096)", ModelFacts(), 4096 - 15),
        (
            "5015 total tokens (15 input + 5000 output) which exceeds the model's maximum context length of 4096 tokens",
            ModelFacts(),
            4096 - 15,
        ),
        ("Error: input_ids size (15) + max_length is over 4096", ModelFacts(), 4096 - 15),
        ("request requires 5015 total tokens", ModelFacts(context_length=4096), 4096 - 15),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 5015 tokens (15 in the messages).",
            ModelFacts(),
            4096 - 15,
        ),
    ],
)
def test_limit_that_the_engine_refused_is_clamped_to_the_room_it_told(message, facts, room):
    request = PLAIN | {"max_completion_tokens": 5000}
    assert clamped_after(request, InvalidInputError(message), facts) == PLAIN | {"max_tokens": room}


@pytest.mark.parametrize(
    "refusal",
    [InvalidInputError("temperature must be a number"), EngineFailedError("it broke"), InvalidInputError("context")],
)
def test_other_refusals_are_not_about_the_limit(refusal):
    assert clamped_after(PLAIN | {"max_tokens": 10}, refusal) is None


def test_prompt_that_fills_the_context_is_an_error_with_both_numbers():
    refusal = InvalidInputError("maximum context length is 100 tokens; your messages resulted in 120 tokens")
    with pytest.raises(ContextLengthExceededError) as caught:
        clamped_after(PLAIN | {"max_tokens": 10}, refusal)
    assert (caught.value.prompt_tokens, caught.value.context_length) == (120, 100)


@pytest.mark.parametrize("kind", sorted(KNOWN_PROFILES))
def test_profile_survives_a_dictionary(kind):
    profile = known_profile(kind)
    assert EngineProfile.from_dict(profile.to_dict()) == profile


def test_unknown_kind_is_an_openai_server_and_bad_values_are_refused():
    assert known_profile("novelty") == known_profile("openai") == known_profile(None)
    with pytest.raises(ValueError, match="stop"):
        EngineProfile.from_dict({"stop": "sometimes"})
    with pytest.raises(ValueError, match="colour"):
        EngineProfile.from_dict({"colour": "red"})
    assert known_profile("gen3").changed(n="native").n == "native"
    assert CONFORMING.departures() == ()
    assert "n" in known_profile("gen3").departures()


@pytest.mark.parametrize(
    ("kind", "passes"), [("ours", True), ("openai", True), ("gateway", True), ("gen3", False), ("gen1", False)]
)
def test_plain_requests_pass_where_nothing_about_them_needs_repair(kind, passes):
    assert passes_plain_requests(known_profile(kind)) is passes


@pytest.mark.parametrize(
    "more",
    [
        {"n": 2},
        {"stop": "x"},
        {"tools": []},
        {"response_format": {"type": "text"}},
        {"logprobs": True},
        {"messages": [{"role": "developer", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
    ],
)
def test_a_request_that_may_need_something_is_not_plain(more):
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 1, "stream": True}
    assert is_plain(plain)
    assert not is_plain(plain | more)
