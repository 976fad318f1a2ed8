"""The service's OpenAI routes with the real engine and the demo model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from tests.support.http import LONG_ANSWER, ask, chat_body, event_stream, send_raw
from tests.support.processes import ProductProcess

CHAT = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def client_of(service: ProductProcess) -> OpenAI:
    return OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0)


class TestChat:
    def test_an_answer_has_every_field_that_clients_read(self, shared_service: ProductProcess):
        answer = ask(shared_service.url, CHAT, chat_body("Hello, who are you?"))
        assert answer.status == 200
        body = answer.json
        assert body["object"] == "chat.completion"
        assert body["id"].startswith("chatcmpl-")
        assert body["created"] > 1_700_000_000
        assert body["model"] == "foundry-demo:1"
        (choice,) = body["choices"]
        assert choice["finish_reason"] == "stop"
        assert choice["logprobs"] is None
        assert choice["message"]["role"] == "assistant"
        assert choice["message"]["content"]
        assert choice["message"]["refusal"] is None
        usage = body["usage"]
        assert usage["prompt_tokens"] > 0
        assert usage["completion_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    def test_a_stream_keeps_the_contract(self, shared_service: ProductProcess):
        with event_stream(shared_service.url, CHAT, chat_body(stream_options={"include_usage": True})) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            payloads = list(stream.payloads())
        assert payloads.count("[DONE]") == 1
        assert payloads[-1] == "[DONE]"
        chunks = [json.loads(payload) for payload in payloads[:-1]]
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert len({chunk["created"] for chunk in chunks}) == 1
        assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
        assert {chunk["model"] for chunk in chunks} == {"foundry-demo:1"}
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
        *content, usage = chunks
        assert usage["choices"] == []
        total = usage["usage"]["prompt_tokens"] + usage["usage"]["completion_tokens"]
        assert usage["usage"]["total_tokens"] == total
        reasons = [chunk["choices"][0]["finish_reason"] for chunk in content]
        assert reasons[-1] == "stop"
        assert set(reasons[:-1]) == {None}

    def test_a_stream_has_no_usage_unless_it_is_asked_for(self, shared_service: ProductProcess):
        with event_stream(shared_service.url, CHAT, chat_body()) as stream:
            chunks = [json.loads(payload) for payload in stream.payloads() if payload != "[DONE]"]
        assert all(chunk["choices"] for chunk in chunks)

    def test_streamed_and_whole_answers_are_the_same_at_temperature_zero(self, shared_service: ProductProcess):
        body = chat_body("Which port does the gateway use?", temperature=0, seed=1)
        whole = ask(shared_service.url, CHAT, body).json["choices"][0]["message"]["content"]
        with event_stream(shared_service.url, CHAT, body) as stream:
            chunks = [json.loads(payload) for payload in stream.payloads() if payload != "[DONE]"]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole

    @pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
    def test_reaching_the_token_limit_finishes_with_length(self, shared_service: ProductProcess, key: str):
        body = ask(shared_service.url, CHAT, chat_body("How do I get a bigger model?", **{key: 3}, temperature=0)).json
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 3

    def test_huge_max_tokens_is_clamped_to_the_room_left(self, shared_service: ProductProcess):
        body = ask(shared_service.url, CHAT, chat_body(max_tokens=10**18))
        assert body.status == 200

    def test_an_answer_may_fill_the_context_to_its_last_token(self, shared_service: ProductProcess):
        body = ask(shared_service.url, CHAT, chat_body("word " * 1970, **LONG_ANSWER | {"max_tokens": 10**9})).json
        assert body["usage"]["total_tokens"] == 4096
        assert body["choices"][0]["finish_reason"] == "length"

    def test_a_prompt_over_the_context_names_both_numbers(self, shared_service: ProductProcess):
        for stream in (False, True):
            answer = ask(shared_service.url, CHAT, chat_body("word " * 9000, stream=stream))
            assert answer.status == 400
            assert answer.error["code"] == "context_length_exceeded"
            assert answer.error["param"] == "messages"
            assert "4096" in answer.error["message"]
            numbers = [int(word) for word in answer.error["message"].split() if word.isdigit()]
            assert max(numbers) > 9000

    def test_text_parts_and_developer_messages_work(self, shared_service: ProductProcess):
        parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
        messages = [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": parts}]
        assert ask(shared_service.url, CHAT, chat_body() | {"messages": messages}).status == 200

    def test_stop_sequences_end_the_answer(self, shared_service: ProductProcess):
        body = ask(shared_service.url, CHAT, chat_body("Hello", stop=["foundry"], temperature=0)).json
        assert "foundry" not in body["choices"][0]["message"]["content"]
        assert body["choices"][0]["finish_reason"] == "stop"

    def test_a_json_schema_in_openais_wrapper_is_followed(self, shared_service: ProductProcess):
        schema = {
            "type": "object",
            "properties": {"size": {"type": "string", "enum": ["small", "large"]}},
            "required": ["size"],
            "additionalProperties": False,
        }
        wrapper = {"type": "json_schema", "json_schema": {"name": "size", "strict": True, "schema": schema}}
        body = ask(shared_service.url, CHAT, chat_body("Answer in JSON.", response_format=wrapper, max_tokens=300)).json
        text = body["choices"][0]["message"]["content"]
        # A tiny model may fill the rest with white space, which the grammar allows.
        assert text.lstrip().startswith("{")
        assert '"size"' in text

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_tool_call_has_openais_form(self, shared_service: ProductProcess, stream: bool):
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        function = {"name": "get_weather", "description": "Get the weather of a city", "parameters": parameters}
        more: dict[str, Any] = {
            "tools": [{"type": "function", "function": function | {"strict": True}}],
            "temperature": 0,
        }
        body = chat_body("What is the weather in Lisbon?", **more, max_tokens=300)
        if not stream:
            answer = ask(shared_service.url, CHAT, body)
            assert answer.status == 200, answer.body
            (choice,) = answer.json["choices"]
            (call,) = choice["message"]["tool_calls"]
            assert choice["message"]["content"] is None
            assert "index" not in call
            arguments = call["function"]["arguments"]
        else:
            with event_stream(shared_service.url, CHAT, body) as events:
                chunks = [json.loads(payload) for payload in events.payloads() if payload != "[DONE]"]
            assert "error" not in chunks[-1], chunks[-1]
            choice = chunks[-1]["choices"][0]
            calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls") or ()]
            assert {call["index"] for call in calls} == {0}
            call = calls[0]
            arguments = "".join(delta["function"].get("arguments") or "" for delta in calls)
        assert choice["finish_reason"] == "tool_calls"
        assert call["id"]
        assert call["type"] == "function"
        assert call["function"]["name"] == "get_weather"
        assert "city" in json.loads(arguments)

    @pytest.mark.parametrize("choice", ["auto", "required"])
    def test_a_tool_call_over_the_token_limit_is_cut_like_a_text(self, shared_service: ProductProcess, choice: str):
        asked = chat_body("What is the weather in Lisbon?", tools=[WEATHER], tool_choice=choice, temperature=0)
        called = ask(shared_service.url, CHAT, asked | {"max_tokens": 300}).json["usage"]
        most = called["completion_tokens"] - 2
        assert most > 3
        for limit in (1, 3, most):
            answer = ask(shared_service.url, CHAT, asked | {"max_tokens": limit})
            assert answer.status == 200, answer.body
            (cut,) = answer.json["choices"]
            message = {"role": "assistant", "content": "", "refusal": None}
            assert cut == {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
            assert answer.json["usage"] == {
                "prompt_tokens": called["prompt_tokens"],
                "completion_tokens": limit,
                "total_tokens": called["prompt_tokens"] + limit,
            }

    @pytest.mark.parametrize("usage", [False, True])
    def test_a_stream_whose_tool_call_is_cut_ends_in_order(self, shared_service: ProductProcess, usage: bool):
        asked = chat_body("What is the weather in Lisbon?", tools=[WEATHER], max_tokens=3, temperature=0)
        with event_stream(shared_service.url, CHAT, asked | {"stream_options": {"include_usage": usage}}) as events:
            *payloads, end = events.payloads()
        chunks = [json.loads(payload) for payload in payloads]
        assert end == "[DONE]"
        assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
        if usage:
            last = chunks.pop()
            assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 3)
        choices = [chunk["choices"][0] for chunk in chunks]
        assert [choice["delta"] for choice in choices] == [{"role": "assistant", "content": ""}, {}]
        assert [choice["finish_reason"] for choice in choices] == [None, "length"]

    @pytest.mark.parametrize(
        "more",
        [
            # Nothing fits; and too much for a small model, which the engine asks again before it gives up.
            {"city": False},
            {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1000}},
        ],
    )
    def test_a_tool_call_that_makes_no_sense_is_said_to_make_none(
        self, shared_service: ProductProcess, more: dict[str, Any]
    ):
        parameters = {"type": "object", "properties": more, "required": list(more)}
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
        asked = chat_body("What is the weather in Lisbon?", tools=[tool], tool_choice="required", temperature=0)
        answer = ask(shared_service.url, CHAT, asked | {"max_tokens": 200})
        assert (answer.status, answer.error["code"]) == (502, "engine_failed")
        assert answer.error["message"].startswith("The model's tool call makes no sense.")
        with event_stream(shared_service.url, CHAT, asked | {"max_tokens": 200}) as events:
            payloads = list(events.payloads())
        assert json.loads(payloads[-1])["error"] == answer.error

    def test_unknown_parameters_and_neutral_penalties_are_tolerated(self, shared_service: ProductProcess):
        extra: dict[str, Any] = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "n": 1}
        extra |= {"user": "me", "store": False, "metadata": {"a": "b"}, "invented": {"x": 1}, "logprobs": False}
        assert ask(shared_service.url, CHAT, chat_body(**extra)).status == 200

    def test_the_openai_client_gets_answers_streams_and_lists(self, shared_service: ProductProcess):
        client = client_of(shared_service)
        messages: Any = [{"role": "user", "content": "Hello"}]
        assert client.chat.completions.create(model="foundry-demo:1", messages=messages).choices[0].message.content
        stream = client.chat.completions.create(model="foundry-demo", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert "foundry-demo:1" in [model.id for model in client.models.list()]
        assert client.models.retrieve("foundry-demo").id == "foundry-demo:1"

    def test_the_request_id_comes_back(self, shared_service: ProductProcess):
        given = ask(shared_service.url, CHAT, chat_body(), headers={"x-request-id": "abc-123"})
        assert given.headers["x-request-id"] == "abc-123"
        made = ask(shared_service.url, CHAT, chat_body(), headers={"x-request-id": "not usable at all!"})
        assert made.headers["x-request-id"].startswith("req_")


class TestCompletions:
    def test_several_prompts_give_indexed_choices_with_echo(self, shared_service: ProductProcess):
        body = ask(
            shared_service.url, "/v1/completions", {"model": "foundry-demo", "prompt": ["Hello", "Bye"], "echo": True}
        ).json
        assert body["object"] == "text_completion"
        assert body["id"].startswith("cmpl-")
        assert [choice["index"] for choice in body["choices"]] == [0, 1]
        assert body["choices"][1]["text"].startswith("Bye")
        assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]

    def test_a_stream_of_completions_ends_with_usage_and_done(self, shared_service: ProductProcess):
        request = {"model": "foundry-demo", "prompt": ["a", "b"], "stream_options": {"include_usage": True}}
        with event_stream(shared_service.url, "/v1/completions", request) as stream:
            *frames, done = stream.payloads()
        assert done == "[DONE]"
        chunks = [json.loads(frame) for frame in frames]
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert {chunk["choices"][0]["index"] for chunk in chunks[:-1]} == {0, 1}
        assert chunks[-1]["usage"]["completion_tokens"] > 0

    def test_the_openai_client_completes(self, shared_service: ProductProcess):
        client = client_of(shared_service)
        assert client.completions.create(model="foundry-demo", prompt="Hello").choices[0].text
        stream = client.completions.create(model="foundry-demo", prompt="Hello", stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream)

    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"prompt": [1, 2]}, "prompt"),
            ({"prompt": []}, "prompt"),
            ({"suffix": "end"}, "suffix"),
            ({"logprobs": 2}, "logprobs"),
            ({"best_of": 3}, "best_of"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"model": None}, "model"),
        ],
    )
    def test_bad_completions_name_the_field(self, shared_service: ProductProcess, change: dict[str, Any], param: str):
        answer = ask(shared_service.url, "/v1/completions", {"model": "foundry-demo", "prompt": "x"} | change)
        assert answer.status == 400
        assert answer.error["param"] == param

    def test_an_early_failure_of_a_stream_keeps_its_status(self, shared_service: ProductProcess):
        body = {"model": "foundry-demo", "prompt": "word " * 9000, "stream": True}
        answer = ask(shared_service.url, "/v1/completions", body)
        assert answer.status == 400
        assert answer.error["code"] == "context_length_exceeded"


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "param"),
        [
            ({"messages": []}, "messages"),
            ({"messages": None}, "messages"),
            ({"messages": "hello"}, "messages"),
            ({"messages": ["hello"]}, "messages.0"),
            ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
            ({"messages": [{"role": "user"}]}, "messages.0.content"),
            ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": -5}, "max_tokens"),
            ({"max_tokens": "many"}, "max_tokens"),
            ({"max_tokens": 1.5}, "max_tokens"),
            ({"max_tokens": True}, "max_tokens"),
            ({"max_completion_tokens": 0}, "max_completion_tokens"),
            ({"temperature": 3}, "temperature"),
            ({"temperature": "hot"}, "temperature"),
            ({"top_p": -0.1}, "top_p"),
            ({"n": 2}, "n"),
            ({"logprobs": True}, "logprobs"),
            ({"logit_bias": {"1": 5}}, "logit_bias"),
            ({"presence_penalty": 0.5}, "presence_penalty"),
            ({"stream": "yes"}, "stream"),
            ({"model": 7}, "model"),
            ({"model": ""}, "model"),
            ({"stop": [""]}, "stop"),
            ({"tools": {}}, "tools"),
            ({"tools": [{"type": "function"}]}, "tools.0"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"response_format": {"type": "xml"}}, "response_format.type"),
        ],
    )
    def test_a_wrong_field_is_named(self, shared_service: ProductProcess, change: dict[str, Any], param: str):
        answer = ask(shared_service.url, CHAT, chat_body() | change)
        assert answer.status == 400
        assert answer.error["param"] == param
        assert answer.error["type"] == "invalid_request_error"

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b'"text"',
            b'{"model": NaN}',
            b'{"model": Infinity}',
            b'{"model": "\xff\xfe"}',
            b'{"a":' * 5000 + b"1" + b"}" * 5000,
        ],
    )
    def test_what_is_no_json_object_is_refused(self, shared_service: ProductProcess, body: bytes):
        answer = ask(shared_service.url, CHAT, body, method="POST")
        assert answer.status == 400
        assert answer.error["message"]

    def test_another_content_type_is_refused(self, shared_service: ProductProcess):
        body = json.dumps(chat_body()).encode()
        answer = ask(shared_service.url, CHAT, body, headers={"Content-Type": "text/plain"})
        assert answer.status == 400
        assert "application/json" in answer.error["message"]

    @pytest.mark.parametrize("stream", [False, True])
    def test_an_unknown_model_is_404_before_any_event(self, shared_service: ProductProcess, stream: bool):
        answer = ask(shared_service.url, CHAT, chat_body(stream=stream) | {"model": "no-such-model"})
        assert answer.status == 404
        assert answer.error["code"] == "model_not_found"
        assert "no-such-model" in answer.error["message"]

    def test_an_announced_body_of_50_mb_is_refused_at_once(self, shared_service: ProductProcess):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        received = send_raw(shared_service.url, head + b"Content-Length: 52428800\r\n\r\n{")
        assert received.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in received.lower()

    def test_a_chunked_body_is_cut_off_at_the_limit(self, shared_service: ProductProcess):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        received = send_raw(shared_service.url, head + piece * 11)
        assert received.startswith(b"HTTP/1.1 413")

    def test_a_chat_model_cannot_embed(self, shared_service: ProductProcess):
        answer = ask(shared_service.url, "/v1/embeddings", {"model": "foundry-demo", "input": "text"})
        assert answer.status == 400
        assert "cannot embed" in answer.error["message"]

    @pytest.mark.parametrize("value", [None, "", [], [""], [1, 2], {"a": 1}, ["ok", 7]])
    def test_bad_embedding_inputs_are_refused(self, shared_service: ProductProcess, value: object):
        answer = ask(shared_service.url, "/v1/embeddings", {"model": "foundry-demo", "input": value})
        assert answer.status == 400
        assert str(answer.error["param"]).startswith("input")


class TestEdges:
    def test_unknown_routes_and_methods_have_the_envelope(self, shared_service: ProductProcess):
        missing = ask(shared_service.url, "/v1/nothing")
        assert (missing.status, missing.error["code"]) == (404, "not_found")
        wrong = ask(shared_service.url, CHAT)
        assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"

    @pytest.mark.parametrize("host", ["evil.example", "evil.example:50477", "", "127.0.0.1.evil.example"])
    def test_a_foreign_host_is_refused_on_every_path(self, shared_service: ProductProcess, host: str):
        for path in ("/status", "/v1/models", "/nowhere"):
            answer = ask(shared_service.url, path, headers={"Host": host})
            assert answer.status == 403

    @pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]", "[::1]:50477"])
    def test_loopback_hosts_are_served(self, shared_service: ProductProcess, host: str):
        assert ask(shared_service.url, "/status", headers={"Host": host}).status == 200

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("POST", "/models/load/foundry-demo"),
            ("GET", "/models/load/foundry-demo"),
            ("GET", "/models/unload/foundry-demo"),
            ("POST", "/models/remove"),
            ("POST", "/shutdown"),
            ("POST", CHAT),
        ],
    )
    def test_web_pages_change_nothing(self, shared_service: ProductProcess, method: str, path: str):
        answer = ask(shared_service.url, path, method=method, headers={"Origin": "http://127.0.0.1:9696"})
        assert answer.status == 403
        assert answer.error["code"] == "forbidden"

    def test_an_image_in_a_web_page_loads_no_model(self, shared_service: ProductProcess):
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert ask(shared_service.url, "/models/load/foundry-demo", headers=headers).status == 403
        assert ask(shared_service.url, "/models/unload/foundry-demo", method="HEAD").status == 403

    def test_head_has_no_body(self, shared_service: ProductProcess):
        answer = ask(shared_service.url, "/status", method="HEAD")
        assert (answer.status, answer.body) == (200, b"")

    def test_status_tells_what_foundry_locals_own_tells_and_more(self, shared_service: ProductProcess):
        status = ask(shared_service.url, "/status").json
        assert status["endpoints"] == [shared_service.url]
        assert status["pid"] == shared_service.pid
        assert status["modelCachePath"].endswith("cache/models")
        assert status["offline"] is True
        assert status["product"] == "fastapi-foundry-service"
        assert status["memory_mb"] < 90
