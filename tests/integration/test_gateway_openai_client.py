"""The newest official client, as its users write it, against the real engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from tests.support.processes import ProductProcess

MODEL = "foundry-demo:1"
ASK = [{"role": "user", "content": "What are you?"}]


@pytest.fixture
def client(shared_gateway: ProductProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_gateway.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
async def aclient(shared_gateway: ProductProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    url = f"{shared_gateway.url}/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in {"stop", "length"}
    assert answer.model == MODEL
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    assert answer._request_id


def test_an_alias_means_the_same_model(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="foundry-demo", messages=ASK, max_tokens=2).model == MODEL


def test_chat_streamed_is_what_it_is_unstreamed(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=ASK, temperature=0, seed=1)
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=ASK, temperature=0, seed=1, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_max_tokens_ends_the_answer_with_length(client: openai.OpenAI) -> None:
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        answer = client.chat.completions.create(model=MODEL, messages=ASK, **limit)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 2


def test_the_streaming_helper(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model=MODEL, messages=ASK, temperature=0) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="Hello", max_tokens=4)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 4


def test_completions_streamed(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model=MODEL, prompt="Hello", max_tokens=4, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def test_models(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert models[MODEL].object == "model"
    assert client.models.retrieve(MODEL).id == MODEL
    assert client.models.retrieve("foundry-demo").id == MODEL


def test_an_unknown_model_is_the_clients_not_found_error(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as caught:
            client.chat.completions.create(model="no-such-model", messages=ASK, stream=stream)
        assert caught.value.code == "model_not_found"
        assert "no-such-model" in caught.value.message
        assert caught.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_a_wrong_value_is_the_clients_bad_request_error_with_its_param(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=ASK, temperature=9)
    assert caught.value.param == "temperature"


def test_embeddings_of_a_model_that_cannot_are_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=MODEL, input="x")


async def test_chat_async(aclient: openai.AsyncOpenAI) -> None:
    answer = await aclient.chat.completions.create(model=MODEL, messages=ASK, max_tokens=4)
    assert answer.choices[0].message.content


async def test_chat_async_streamed(aclient: openai.AsyncOpenAI) -> None:
    stream = await aclient.chat.completions.create(model=MODEL, messages=ASK, max_tokens=4, stream=True)
    texts = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
    assert "".join(texts)


async def test_models_async(aclient: openai.AsyncOpenAI) -> None:
    assert MODEL in [model.id async for model in aclient.models.list()]
