from __future__ import annotations

import pytest

from fastapi_foundry.wire.engine_text import clean_engine_text, is_cut_tool_call, is_invalid_tool_call, shows_inside


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (
            "search_options.cc:108 int fl::ValidateGeneratorRequestBudget(int64_t, int, int) request requires 5015 total",
            "request requires 5015 total",
        ),
        (
            "chat_session.cc:968 void fl::{anonymous}::ThrowInvalid(const std::string&) Model emitted an invalid call",
            "Model emitted an invalid call",
        ),
        (
            "chat_session.cc:1298 std::unique_ptr<fl::P> fl::{anonymous}::Prepare(const fl::Request&, const T<U>&) nothing",
            "nothing",
        ),
        ("[json.exception.out_of_range.403] key 'model' not found", "key 'model' not found"),
        ("cannot open /home/someone/models/x/model.onnx now", "cannot open <path> now"),
        ("Invalid request: tools.cc:170 std::optional<bool> fl::tools::Parse(const J&) strict is out", "strict is out"),
        ("plain words", "plain words"),
        ("", "The engine gave no reason."),
    ],
)
def test_messages_lose_what_only_the_engines_makers_can_read(raw: str, clean: str):
    assert clean_engine_text(raw) == clean


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("search_options.cc:108 int fl::X() wrong", True),
        ("cannot open /home/someone/model.onnx", True),
        ("C:\\Users\\x\\model.onnx is missing", True),
        ("see http://127.0.0.1:5273/openai/status", True),
        ("Microsoft.ML.OnnxRuntimeGenAI.OnnxRuntimeGenAIException: no", True),
        ("use POST /models/load/x instead", False),
        ("'messages.0.content' must be text", False),
    ],
)
def test_what_is_no_clients_business_is_seen(text: str, inside: bool):
    assert shows_inside(text) is inside


@pytest.mark.parametrize(
    ("text", "cut", "invalid"),
    [
        ("Model emitted an invalid tool call: Tool-call output was interrupted before the batch", True, True),
        (
            "Model emitted a malformed tool call and guided recovery did not produce a valid tool call: Missing",
            False,
            True,
        ),
        ("The model did not emit the required tool call", False, True),
        ("tool 'f': instance '/a', keyword '/properties/a/type': Expected integer, found string", False, True),
        ("tools/0/function 'f'/parameters: instance '', keyword '/allOf': Must be valid", False, False),
        ("Tool-call output was interrupted, says a text", False, False),
        ("search_options.cc:108 int fl::X() wrong", False, False),
    ],
)
def test_tool_calls_that_the_engine_refuses_are_told_apart(text: str, cut: bool, invalid: bool):
    assert (is_cut_tool_call(text), is_invalid_tool_call(text)) == (cut, invalid)
