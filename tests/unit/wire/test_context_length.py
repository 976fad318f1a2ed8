from __future__ import annotations

import orjson
import pytest

from fastapi_foundry.errors import ContextLengthExceededError, InvalidInputError
from fastapi_foundry.wire.context_length import context_of, numbers_in
from fastapi_foundry.wire.errors import fact_from_response, openai_error
from fastapi_foundry.wire.openai import model_entry

REFUSALS = {
    "OpenAI and our service": {
        "message": "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens. "
        "Please reduce the length of the messages.",
        "code": "context_length_exceeded",
        "param": "messages",
    },
    "vLLM": {
        "message": "This model's maximum context length is 4096 tokens. However, you requested 5100 tokens (5000 in the "
        "messages, 100 in the completion). Please reduce the length of the messages or completion.",
        "code": 400,
    },
    "newer vLLM": {
        "message": "'max_tokens' or 'max_completion_tokens' is too large: 100. This model's maximum context length is "
        "4096 tokens and your request has 5000 input tokens (100 > 4096 - 5000).",
        "code": 400,
    },
    "llama.cpp": {
        "code": 400,
        "message": "the request exceeds the available context size, try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 5000,
        "n_ctx": 4096,
    },
    "newer llama.cpp": {
        "code": 400,
        "message": "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    },
    "Foundry Local": {
        "message": "Invalid request: search_options.cc:108 int fl::Validate(int) request requires 5009 total tokens "
        "(5000 input + 9 output), which exceeds the model's maximum context length of 4096 tokens"
    },
    "LM Studio": {
        "message": "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with "
        "context length of only 4096 tokens, which is not enough."
    },
}


@pytest.mark.parametrize("engine", REFUSALS)
def test_every_engines_words_become_openais_error_with_both_numbers(engine: str):
    fact = fact_from_response(400, orjson.dumps({"error": REFUSALS[engine]}))
    assert isinstance(fact, ContextLengthExceededError)
    assert (fact.prompt_tokens, fact.context_length) == (5000, 4096)
    answer = openai_error(fact)
    assert answer.status == 400
    assert answer.body["error"] == {
        "message": "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens. "
        "Please reduce the length of the messages.",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


def test_a_prompt_that_fits_with_a_shorter_answer_is_another_error():
    message = (
        "request requires 5009 total tokens (9 input + 5000 output), which exceeds the maximum context length of 4096"
    )
    fact = fact_from_response(400, orjson.dumps({"error": {"message": message}}))
    assert not isinstance(fact, ContextLengthExceededError)
    assert isinstance(fact, InvalidInputError)


def test_embeddings_keep_the_words_of_our_service():
    message = "An input has 5000 tokens; this model's maximum context length is 4096."
    body = {"error": {"message": message, "code": "context_length_exceeded", "param": "input"}}
    told = openai_error(fact_from_response(400, orjson.dumps(body))).body["error"]
    assert (told["message"], told["param"], told["code"]) == (message, "input", "context_length_exceeded")


@pytest.mark.parametrize("text", ["", "n must be 1", "the context is too long", "port 9696 is in use"])
def test_other_words_hold_no_numbers(text: str):
    assert numbers_in(text) is None


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        ({"context_length": 4096, "max_model_len": 9}, 4096),
        ({"max_model_len": 8192}, 8192),
        ({"max_context_length": 32768}, 32768),
        ({"meta": {"n_ctx_train": 131072, "n_ctx": 2048}}, 2048),
        ({"context_length": None}, None),
        ({"context_length": True}, None),
        ({"meta": "x"}, None),
    ],
)
def test_a_context_is_known_by_many_names(entry: dict[str, object], length: int | None):
    assert context_of(entry) == length


def test_an_entry_of_the_model_list_has_the_context_by_the_names_that_programs_look_for():
    entry = model_entry("m", 1, "o", "loaded", {"max_model_len": 512, "alias": "a"})
    assert entry["context_length"] == entry["max_model_len"] == 512
    assert "max_model_len" not in model_entry("m", 1, "o", "loaded", {"context_length": None})
