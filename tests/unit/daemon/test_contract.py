from __future__ import annotations

import pytest

from fastapi_foundry.daemon import contract
from fastapi_foundry.errors import InvalidInputError

USER = {"role": "user", "content": "hi"}


def made(**body: object) -> dict[str, object]:
    return contract.engine_request({"messages": [USER], **body}, model_id="m:1", max_tokens=5)


def test_the_engine_gets_its_model_id_and_the_clamped_limit():
    assert made(model="alias", max_tokens=10**9) == {"messages": [USER], "model": "m:1", "max_tokens": 5}


def test_what_the_engine_does_not_know_is_left_out():
    request = made(user="u", metadata={}, n=1, logprobs=False, frequency_penalty=0, stream=True, seed=7, top_p=0.5)
    assert set(request) == {"messages", "model", "max_tokens", "seed", "top_p"}


def test_text_parts_are_joined_and_developer_becomes_system():
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    messages = [{"role": "developer", "content": parts, "name": None}]
    request = contract.engine_request({"messages": messages}, model_id="m:1", max_tokens=1)
    assert request["messages"] == [{"role": "system", "content": "ab"}]


def test_a_named_schema_is_unwrapped_and_a_bare_one_is_kept():
    schema = {"type": "object"}
    named = made(
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    )
    bare = made(response_format={"type": "json_schema", "json_schema": schema})
    assert named["response_format"] == bare["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_a_format_without_a_schema_is_refused():
    with pytest.raises(InvalidInputError) as caught:
        made(response_format={"type": "json_schema", "json_schema": "text"})
    assert caught.value.param == "response_format.json_schema"


def test_plain_text_is_no_format_and_json_object_is_one():
    assert "response_format" not in made(response_format={"type": "text"})
    assert made(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}


def test_strict_leaves_the_tools_and_missing_parts_are_filled_in():
    tool = {"type": "function", "function": {"name": "f", "strict": True}}
    request = made(tools=[tool], tool_choice="auto")
    empty = {"type": "object", "properties": {}}
    assert request["tools"] == [{"type": "function", "function": {"name": "f", "description": "", "parameters": empty}}]
    assert request["tool_choice"] == "auto"


@pytest.mark.parametrize("body", [{"tools": []}, {"tool_choice": "auto"}, {"tools": [], "tool_choice": "none"}])
def test_no_tools_means_no_choice(body: dict[str, object]):
    assert not {"tools", "tool_choice"} & set(made(**body))


def test_choice_none_hides_the_tools():
    assert "tools" not in made(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="none")


@pytest.mark.parametrize(
    ("body", "wanted"),
    [({}, None), ({"max_tokens": 3}, 3), ({"max_completion_tokens": 4, "max_tokens": 3}, 4)],
)
def test_both_names_of_the_limit_are_read(body: dict[str, int], wanted: int | None):
    assert contract.wanted_tokens(body) == wanted


def test_tool_calls_decide_the_finish_reason_of_an_answer():
    call = {"id": "c", "index": 0, "function": {"name": "f", "arguments": "{}"}}
    answer = {
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "", "tool_calls": [call]}}]
    }
    (choice,) = contract.repair_answer(answer)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["logprobs"] is None
    assert choice["message"]["content"] is None
    assert choice["message"]["refusal"] is None
    assert choice["message"]["tool_calls"] == [{"id": "c", "type": "function", "function": call["function"]}]


def test_an_answer_without_calls_keeps_its_reason_or_gets_stop():
    for given, expected in (("length", "length"), (None, "stop")):
        answer = {"choices": [{"finish_reason": given, "message": {"role": "assistant", "content": "x"}}]}
        assert contract.repair_answer(answer)["choices"][0]["finish_reason"] == expected


def test_stream_deltas_get_the_index_of_their_call_and_the_end_says_tool_calls():
    indexes = contract.CallIndexes()

    def delta(*calls: dict[str, object], finish: str | None = None) -> dict[str, object]:
        chunk = {"choices": [{"delta": {"tool_calls": list(calls)} if calls else {}, "finish_reason": finish}]}
        return indexes.repair_chunk(chunk)["choices"][0]

    first = delta({"id": "a", "function": {"name": "f"}})
    more = delta({"function": {"arguments": "{"}})
    second = delta({"id": "b", "function": {"name": "g"}})
    assert [d["delta"]["tool_calls"][0]["index"] for d in (first, more, second)] == [0, 0, 1]
    assert first["delta"]["tool_calls"][0]["type"] == "function"
    assert delta(finish="stop")["finish_reason"] == "tool_calls"


def test_a_stream_without_calls_ends_as_the_engine_says():
    chunk = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    assert contract.CallIndexes().repair_chunk(chunk)["choices"][0]["finish_reason"] == "stop"


def test_a_call_that_was_cut_off_ends_a_stream_in_its_own_frames():
    indexes = contract.CallIndexes()
    head = {"id": "i", "object": "chat.completion.chunk", "created": 5, "model": "m:1"}
    indexes.repair_chunk(head | {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
    end, usage = indexes.cut_off("m:1", {"total_tokens": 2})
    choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert end == head | {"choices": [choice]}
    assert usage == head | {"choices": [], "usage": {"total_tokens": 2}}
    assert indexes.cut_off("m:1", None) == [end]


def test_a_stream_that_was_cut_off_before_its_first_chunk_gets_one():
    (chunk,) = contract.CallIndexes().cut_off("m:1", None)
    assert chunk["id"].startswith("chatcmpl-")
    assert (chunk["model"], chunk["object"]) == ("m:1", "chat.completion.chunk")
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_calls_that_came_before_the_one_that_was_cut_off_stay_calls():
    indexes = contract.CallIndexes()
    delta = {"tool_calls": [{"id": "a", "function": {"name": "f"}}]}
    indexes.repair_chunk({"id": "i", "choices": [{"delta": delta, "finish_reason": None}]})
    assert indexes.cut_off("m:1", None)[0]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_usage_frame_has_no_choices_and_the_streams_own_id():
    answer = {"id": "i", "created": 5, "model": "m:1", "usage": {"total_tokens": 2}, "choices": [1]}
    frame = contract.usage_chunk(answer)
    assert (frame["id"], frame["choices"], frame["usage"]) == ("i", [], {"total_tokens": 2})
    assert frame["object"] == "chat.completion.chunk"
