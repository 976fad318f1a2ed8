"""Files and batches through the official client, against a real gateway with an engine double behind it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import update

from fastapi_foundry.engines.base import EngineState, ModelCard
from fastapi_foundry.errors import EngineFailedError, EngineUnavailableError, FoundryError, InvalidInputError
from fastapi_foundry.security.key_limits import KeyLimits
from fastapi_foundry.security.scopes import Scope
from fastapi_foundry.services.keys import KeyRequest
from fastapi_foundry.storage.tables import files as stored_files
from tests.support.engine_double import EngineDouble
from tests.support.fake_engine import FakeEngine, SeenCall
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

ENDED = {"completed", "failed", "expired", "cancelled"}


class BatchEngine(FakeEngine):
    """Says back what it was told; ``refused`` maps a text to what is said instead."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str, FoundryError] = {}

    def answer(self, call: SeenCall) -> dict[str, Any] | FoundryError:
        body = call.parsed
        if "input" in body:
            data = [{"object": "embedding", "index": 0, "embedding": [0.5]}]
            return {"object": "list", "data": data, "model": body["model"], "usage": {"prompt_tokens": 3}}
        text = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        if text in self.refused:
            return self.refused[text]
        self.text = f"said: {text}"
        return super().answer(call)

    @property
    def said(self) -> list[str]:
        return [call.parsed["messages"][-1]["content"] for call in self.calls]


@asynccontextmanager
async def gateway_with(home: Path, engine: BatchEngine, **settings: Any) -> AsyncIterator[RunningGateway]:
    async with running_gateway(home, engine, batches__lease_s=0.5, **settings) as gateway:
        yield gateway


def client_of(gateway: RunningGateway, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=20)


@pytest.fixture
def engine() -> BatchEngine:
    return BatchEngine()


@pytest.fixture
async def gateway(tmp_path: Path, engine: BatchEngine) -> AsyncIterator[RunningGateway]:
    async with gateway_with(tmp_path, engine) as running:
        yield running


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(gateway) as made:
        yield made


def chat_line(custom_id: str, text: str, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m:1", "messages": messages} | body,
    }


def jsonl(lines: list[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


async def uploaded(client: openai.AsyncOpenAI, lines: list[Any]) -> str:
    return (await client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")).id


async def begun(
    client: openai.AsyncOpenAI, lines: list[Any], endpoint: str = "/v1/chat/completions", **more: Any
) -> Any:
    file_id = await uploaded(client, lines)
    return await client.batches.create(
        input_file_id=file_id,
        endpoint=endpoint,  # type: ignore[arg-type] # tests use wrong ones too
        completion_window="24h",
        **more,
    )


async def at_end(client: openai.AsyncOpenAI, batch_id: str) -> Any:
    async def ended() -> Any:
        batch = await client.batches.retrieve(batch_id)
        return batch if batch.status in ENDED else None

    return await eventually(ended, timeout_s=10)


async def lines_of(client: openai.AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in (await client.files.content(file_id)).text.splitlines()]


async def key(gateway: RunningGateway, *scopes: Scope, name: str = "test", **more: Any) -> str:
    made = await gateway.services.keys.create(KeyRequest(name, frozenset(scopes), **more), actor="test")
    return made.text


# Files


async def test_a_file_is_uploaded_listed_read_and_deleted(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    content = jsonl([chat_line(f"r{number}", "x" * 1000) for number in range(1500)])
    made = await client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert (made.bytes, made.filename, made.purpose, made.status) == (
        len(content),
        "requests.jsonl",
        "batch",
        "processed",
    )
    assert made.expires_at == made.created_at + 30 * 86_400
    assert (await client.files.retrieve(made.id)) == made
    assert (await client.files.content(made.id)).content == content
    (stored,) = (tmp_path / "files").iterdir()
    assert stored.name == made.id
    assert stored.stat().st_mode & 0o777 == 0o600
    others = [await client.files.create(file=(name, b"{}"), purpose="batch") for name in ("a", "b", "c")]
    listed = [file.id async for file in client.files.list(limit=2)]
    assert listed == [file.id for file in reversed([made, *others])]
    oldest = await client.files.list(order="asc", limit=1, purpose="batch")
    assert [file.id for file in oldest.data] == [made.id]
    assert (await client.files.list(purpose="batch_output")).data == []
    assert (await client.files.delete(made.id)).deleted is True
    assert not stored.exists()
    for asking in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await asking(made.id)


async def test_what_a_client_calls_its_file_never_reaches_the_disk(client: openai.AsyncOpenAI, tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "C:\\x\\y.jsonl", "/", "grüße\n.jsonl", 'a"b.jsonl', "x" * 4000):
        made = await client.files.create(file=(name, b"{}"), purpose="batch")
        assert "/" not in made.filename
        assert "\n" not in made.filename
        assert 0 < len(made.filename) <= 255
        assert (await client.files.content(made.id)).content == b"{}"
    assert all(path.name.startswith("file-") for path in (tmp_path / "files").iterdir())
    for name in ("..%2f..%2fetc%2fpasswd", "file-..", "%00"):
        with pytest.raises(openai.APIStatusError) as caught:
            await client.get(f"/files/{name}/content", cast_to=object)
        assert caught.value.status_code == 404


async def test_other_purposes_and_wrong_forms_are_refused_and_leave_nothing_behind(
    gateway: RunningGateway, client: openai.AsyncOpenAI, tmp_path: Path
) -> None:
    for purpose in ("assistants", "user_data", "batch_output"):
        with pytest.raises(openai.BadRequestError, match="'batch'"):
            await client.files.create(file=("a", b"{}"), purpose=purpose)  # type: ignore[arg-type] # one is no purpose
    with pytest.raises(openai.BadRequestError, match="seconds"):
        await client.files.create(
            file=("a", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 5}
        )
    wrong: list[dict[str, Any]] = [
        {"files": {"other": ("a", b"{}")}, "data": {"purpose": "batch"}},
        {"files": {"file": ("a", b"")}, "data": {"purpose": "batch"}},
        {"files": {"file": ("a", b"{}")}},
        {"files": [("file", ("a", b"{}")), ("file", ("b", b"{}"))], "data": {"purpose": "batch"}},
        {"data": {"purpose": "batch", "file": "text"}},
        {"json": {"purpose": "batch"}},
        {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    ]
    for request in wrong:
        answer = await gateway.client.post("/v1/files", **request)
        assert answer.status_code == 400, (request, answer.text)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert list((tmp_path / "files").iterdir()) == []
    kept = await client.files.create(
        file=("a", b"{}"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert kept.expires_at == kept.created_at + 3600


async def test_a_file_may_be_larger_than_other_bodies_but_not_than_its_own_limit(
    tmp_path: Path, engine: BatchEngine
) -> None:
    bounds = {"batches__max_file_bytes": 300_000, "fastapi_server__max_body_bytes": 1024}
    async with (
        gateway_with(tmp_path, engine, **bounds, http_limits__max_held_body_bytes=65_536) as gateway,
        client_of(gateway) as client,
    ):
        assert (await client.files.create(file=("a", b"x" * 300_000), purpose="batch")).bytes == 300_000
        for size in (300_001, 900_000):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.files.create(file=("a", b"x" * size), purpose="batch")
            assert caught.value.status_code == 413
        assert len(list((tmp_path / "files").iterdir())) == 1
        body = {"model": "m:1", "messages": [{"role": "user", "content": "x" * 2000}]}
        assert (await gateway.client.post("/v1/chat/completions", json=body)).status_code == 413


async def test_nobody_keeps_more_files_or_bytes_than_he_may(tmp_path: Path, engine: BatchEngine) -> None:
    bounds = {"batches__max_files_per_key": 2, "batches__max_bytes_per_key": 1024}
    async with gateway_with(tmp_path, engine, **bounds) as gateway, client_of(gateway) as client:
        first = await client.files.create(file=("a", b"x" * 1000), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="1024 bytes"):
            await client.files.create(file=("b", b"x" * 100), purpose="batch")
        await client.files.delete(first.id)
        attempts = [client.files.create(file=("c", b"x"), purpose="batch") for _ in range(4)]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        assert sum(isinstance(outcome, openai.BadRequestError) for outcome in outcomes) == 2
        assert len(list((tmp_path / "files").iterdir())) == 2


async def test_an_upload_that_is_broken_off_leaves_nothing_behind(gateway: RunningGateway, tmp_path: Path) -> None:
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nContent-Length: 900000\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(head.encode() + b"x" * 600_000)
    await writer.drain()
    files = tmp_path / "files"
    await eventually(lambda: files.is_dir() and sum(path.stat().st_size for path in files.iterdir()) > 200_000)
    assert [path.suffix for path in files.iterdir()] == [".part"]
    writer.close()
    await eventually(lambda: not list(files.iterdir()))
    assert not gateway.services.files._arriving
    assert gateway.services.files._uploads == 0
    await reader.read()


async def test_files_that_have_expired_or_that_nobody_knows_are_swept_away(
    gateway: RunningGateway, client: openai.AsyncOpenAI, tmp_path: Path
) -> None:
    kept, old = [(await client.files.create(file=("a", b"{}"), purpose="batch")).id for _ in range(2)]
    directory = tmp_path / "files"
    unknown, young, foreign = f"file-{'0' * 32}", f"file-{'1' * 32}", "somebody.txt"
    for name in (unknown, f"{unknown}.abcd.part", young, foreign):
        (directory / name).write_bytes(b"x")
        if name != young:
            os.utime(directory / name, (1, 1))
    async with gateway.services.database.transaction() as connection:
        await connection.execute(update(stored_files).where(stored_files.c.id == old).values(expires_at=1))
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(old)
    await gateway.services.files.tidy()
    assert {path.name for path in directory.iterdir()} == {kept, young, foreign}


# Batches


async def test_a_batch_answers_every_line_and_counts_it(
    gateway: RunningGateway, client: openai.AsyncOpenAI, engine: BatchEngine
) -> None:
    engine.refused["bad"] = InvalidInputError("No.", param="messages")
    lines = [chat_line(f"r{number}", f"text {number}") for number in range(20)]
    lines[7] = chat_line("r7", "bad")
    lines[9] = chat_line("r9", "x", temperature=9)
    lines[11] = chat_line("r11", "x", stream=True)
    lines[13] = chat_line("r13", "x", model="nobody")
    made = await begun(client, lines, metadata={"for": "a test"})
    assert made.status == "validating"
    assert made.expires_at == made.created_at + 86_400
    batch = await at_end(client, made.id)
    assert batch.status == "completed"
    assert batch.metadata == {"for": "a test"}
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (20, 16, 4)
    assert batch.usage.total_tokens == 16 * 7
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    good, bad = await lines_of(client, batch.output_file_id), await lines_of(client, batch.error_file_id)
    expected = [f"r{number}" for number in range(20) if number not in {7, 9, 11, 13}]
    assert [line["custom_id"] for line in good] == expected
    for line in good:
        assert set(line) == {"id", "custom_id", "response", "error"}
        assert line["error"] is None
        response = line["response"]
        assert (response["status_code"], bool(response["request_id"])) == (200, True)
        text = response["body"]["choices"][0]["message"]["content"]
        assert text == f"said: text {line['custom_id'][1:]}"
    codes = {line["custom_id"]: (line["response"]["status_code"], line["response"]["body"]["error"]) for line in bad}
    assert {name: status for name, (status, _) in codes.items()} == {"r7": 400, "r9": 400, "r11": 400, "r13": 404}
    assert codes["r9"][1]["param"] == "temperature"
    output = await client.files.retrieve(batch.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    await gateway.services.usage.flush()
    usage = (await gateway.client.get("/api/v1/usage")).json()
    assert usage["total"]["prompt_tokens"] == 16 * 5
    with pytest.raises(openai.BadRequestError, match="cannot be cancelled"):
        await client.batches.cancel(batch.id)


async def test_the_other_endpoints_run_in_batches_too(client: openai.AsyncOpenAI) -> None:
    for endpoint, body in (
        ("/v1/completions", {"model": "m:1", "prompt": "once"}),
        ("/v1/embeddings", {"model": "m:1", "input": "once"}),
    ):
        line = {"custom_id": "a", "method": "POST", "url": endpoint, "body": body}
        batch = await at_end(client, (await begun(client, [line], endpoint)).id)
        assert batch.status == "completed", batch
        (answer,) = await lines_of(client, batch.output_file_id)
        assert answer["response"]["body"]["model"] == "m:1"
        assert batch.error_file_id is None


async def test_the_example_of_the_documentation_works(
    gateway: RunningGateway, engine: BatchEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "batches.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    engine.cards.append(ModelCard("foundry-demo:1", 1, "tests", "loaded", {}))
    monkeypatch.chdir(tmp_path)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        await asyncio.to_thread(exec, example.replace("http://127.0.0.1:9696", gateway.url), {})
    assert said.getvalue().splitlines() == ["q0 said: What are you?", "q1 said: What is a model?"]


async def test_an_input_that_is_wrong_fails_with_its_lines_and_runs_nothing(
    client: openai.AsyncOpenAI, engine: BatchEngine
) -> None:
    good = chat_line("a", "x")
    lines: list[Any] = [
        good,
        chat_line("a", "y"),
        {**good, "custom_id": 5},
        {**good, "custom_id": "m", "method": "GET"},
        {**good, "custom_id": "u", "url": "/v1/embeddings"},
        {**good, "custom_id": "v", "url": "/v1/other"},
        {**good, "custom_id": "b", "body": "x"},
        [],
    ]
    content = b"\n" + jsonl(lines) + b"{not json\n"
    file = await client.files.create(file=("in", content), purpose="batch")
    made = await client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = await at_end(client, made.id)
    assert (batch.status, batch.output_file_id, bool(batch.failed_at)) == ("failed", None, True)
    assert [(error.line, error.code) for error in batch.errors.data] == [
        (3, "duplicate_custom_id"),
        (4, "invalid_value"),
        (5, "invalid_method"),
        (6, "mismatched_endpoint"),
        (7, "invalid_url"),
        (8, "invalid_body"),
        (9, "invalid_json_line"),
        (10, "invalid_json_line"),
    ]
    empty = await client.files.create(file=("in", b"\n \n"), purpose="batch")
    made = await client.batches.create(input_file_id=empty.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert (await at_end(client, made.id)).errors.data[0].code == "empty_file"
    assert engine.calls == []


async def test_a_batch_that_makes_no_sense_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    file_id = await uploaded(client, [chat_line("a", "x")])
    right = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    for change, param in (
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.batches.create(**{**right, **change})
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        await client.batches.create(**{**right, "input_file_id": "file-nothing"})


async def test_a_cancelled_batch_ends_at_once_and_keeps_what_is_done(
    client: openai.AsyncOpenAI, engine: BatchEngine
) -> None:
    engine.gate = asyncio.Event()
    made = await begun(client, [chat_line(f"r{number}", "x") for number in range(40)])
    await eventually(lambda: engine.active == 8)
    engine.gate.set()
    await eventually(lambda: len(engine.calls) > 10)
    engine.gate.clear()
    await eventually(lambda: engine.active == 8 or len(engine.calls) == 40)
    with pytest.raises(openai.BadRequestError, match="reads from"):
        await client.files.delete(made.input_file_id)
    cancelled = await client.batches.cancel(made.id)
    assert cancelled.status == "cancelling"
    batch = await at_end(client, made.id)
    assert (batch.status, bool(batch.cancelled_at), engine.active) == ("cancelled", True, 0)
    assert len(await lines_of(client, batch.output_file_id)) == batch.request_counts.completed
    assert (await client.batches.cancel(made.id)).status == "cancelled"
    await client.files.delete(made.input_file_id)


async def test_lines_wait_while_the_engine_is_away(client: openai.AsyncOpenAI, engine: BatchEngine) -> None:
    engine.error = EngineUnavailableError("away", retry_after_s=0.2)
    made = await begun(client, [chat_line(f"r{number}", "x") for number in range(10)])
    await eventually(lambda: len(engine.calls) >= 16)
    assert (await client.batches.retrieve(made.id)).status == "in_progress"
    engine.error = None
    batch = await at_end(client, made.id)
    assert (batch.status, batch.request_counts.completed) == ("completed", 10)


async def test_a_model_is_not_given_up_before_the_engines_are_there(
    client: openai.AsyncOpenAI, engine: BatchEngine
) -> None:
    cards, engine.cards, engine.state = engine.cards, [], EngineState.STARTING
    made = await begun(client, [chat_line("a", "x")])
    await eventually(lambda: engine.lists >= 2)
    assert (await client.batches.retrieve(made.id)).request_counts.failed == 0
    engine.cards, engine.state = cards, EngineState.READY
    assert (await at_end(client, made.id)).request_counts.completed == 1


async def test_a_line_that_breaks_the_engine_is_given_up_after_three_tries(
    client: openai.AsyncOpenAI, engine: BatchEngine
) -> None:
    engine.refused["bad"] = EngineFailedError("It broke.")
    batch = await at_end(client, (await begun(client, [chat_line("a", "bad"), chat_line("b", "good")])).id)
    (bad,) = await lines_of(client, batch.error_file_id)
    assert bad["response"]["status_code"] == 502
    assert engine.said.count("bad") == 3
    assert batch.request_counts.completed == 1


async def test_results_that_could_not_be_written_as_files_are_written_later(
    client: openai.AsyncOpenAI, engine: BatchEngine, tmp_path: Path
) -> None:
    engine.gate = asyncio.Event()
    made = await begun(client, [chat_line(f"r{number}", "x") for number in range(3)])
    await eventually(lambda: engine.active == 3)
    (tmp_path / "files").rename(tmp_path / "away")
    (tmp_path / "files").write_text("in the way of the directory")
    engine.gate.set()

    async def is_finalizing() -> bool:
        return (await client.batches.retrieve(made.id)).status == "finalizing"

    await eventually(is_finalizing)
    with pytest.raises(openai.BadRequestError, match="cannot be cancelled"):
        await client.batches.cancel(made.id)
    (tmp_path / "files").unlink()
    (tmp_path / "away").rename(tmp_path / "files")
    batch = await at_end(client, made.id)
    assert batch.status == "completed"
    assert len(await lines_of(client, batch.output_file_id)) == len(engine.calls) == 3


async def test_what_is_not_done_when_the_window_ends_expires(tmp_path: Path, engine: BatchEngine) -> None:
    engine.refused["away"] = EngineUnavailableError("away")
    async with gateway_with(tmp_path, engine, batches__window_s=1) as gateway, client_of(gateway) as client:
        made = await begun(client, [chat_line("a", "x"), chat_line("b", "away"), chat_line("c", "y")])
        batch = await at_end(client, made.id)
        assert batch.status == "expired"
        assert [line["custom_id"] for line in await lines_of(client, batch.output_file_id)] == ["a", "c"]
        (left,) = await lines_of(client, batch.error_file_id)
        assert (left["custom_id"], left["response"], left["error"]["code"]) == ("b", None, "batch_expired")


async def test_batches_are_listed_page_by_page(client: openai.AsyncOpenAI) -> None:
    file_id = await uploaded(client, [chat_line("a", "x")])
    made = [
        (
            await client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
        ).id
        for _ in range(5)
    ]
    assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]
    page = await client.batches.list(limit=2, after=made[2])
    assert ([batch.id for batch in page.data], page.has_more) == (made[1::-1], False)


async def test_the_worker_goes_on_where_another_process_left(tmp_path: Path, engine: BatchEngine) -> None:
    async with gateway_with(tmp_path, engine, batches__concurrency=2) as gateway, client_of(gateway) as client:
        engine.gate = asyncio.Event()
        made = await begun(client, [chat_line(f"r{number}", f"t{number}") for number in range(6)])
        await eventually(lambda: engine.active == 2)
    engine.gate.set()
    async with gateway_with(tmp_path, engine) as gateway, client_of(gateway) as client:
        batch = await at_end(client, made.id)
        assert batch.request_counts.completed == 6
    assert set(engine.said) == {f"t{number}" for number in range(6)}


async def test_two_gateways_share_the_batches_and_run_each_line_once(tmp_path: Path) -> None:
    engines = BatchEngine(), BatchEngine()
    bounds = {"batches__max_running": 2, "batches__concurrency": 2}
    async with (
        gateway_with(tmp_path, engines[0], **bounds) as one,
        gateway_with(tmp_path, engines[1], **bounds) as other,
        client_of(one) as client,
        client_of(other) as another,
    ):
        for engine in engines:
            engine.gate = asyncio.Event()
        lines = [chat_line(f"r{number}", f"t{number}") for number in range(10)]
        made = [(await begun(each, lines)).id for each in (client, another, client, another)]
        await eventually(lambda: all(engine.active == 2 for engine in engines))
        for engine in engines:
            assert engine.gate is not None
            engine.gate.set()
        for batch_id in made:
            batch = await at_end(client, batch_id)
            assert (batch.status, batch.request_counts.completed) == ("completed", 10)
            assert len(await lines_of(another, batch.output_file_id)) == 10
    assert sorted(engines[0].said + engines[1].said) == sorted(f"t{number}" for number in range(10) for _ in made)
    assert all(engine.calls for engine in engines)


async def test_a_batch_whose_input_has_gone_fails_and_keeps_what_is_done(
    client: openai.AsyncOpenAI, engine: BatchEngine, tmp_path: Path
) -> None:
    file_id = await uploaded(client, [chat_line("a", "x")])
    (tmp_path / "files" / file_id).unlink()
    made = await client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h")
    batch = await at_end(client, made.id)
    assert (batch.status, batch.errors.data[0].code) == ("failed", "input_file_unavailable")
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file_id)


async def test_lines_stand_behind_everybody_who_waits(tmp_path: Path, engine: BatchEngine) -> None:
    async with EngineDouble(kind="openai", delay_s=0.05) as double:
        others = [{"name": "double", "url": double.url, "max_active": 1}]
        async with gateway_with(tmp_path, engine, engines=others) as gateway, client_of(gateway) as client:
            made = await begun(client, [chat_line(f"r{number}", "x", model="double:1") for number in range(20)])
            await eventually(lambda: double.counts["POST /v1/chat/completions"] >= 3)
            body = {"model": "double:1", "messages": [{"role": "user", "content": "me first"}]}
            before = double.counts["POST /v1/chat/completions"]
            assert (await gateway.client.post("/v1/chat/completions", json=body)).status_code == 200
            assert (await at_end(client, made.id)).request_counts.completed == 20
    asked = [b"me first" in sent for method, path, _, sent in double.seen if path == "/v1/chat/completions"]
    assert asked.index(True) <= before + 2


# Whose they are


@pytest.fixture
async def guarded(tmp_path: Path, engine: BatchEngine) -> AsyncIterator[RunningGateway]:
    async with gateway_with(tmp_path, engine, security__require_key="always") as running:
        yield running


async def test_files_and_batches_are_their_keys_alone(guarded: RunningGateway) -> None:
    mine, other = await key(guarded, Scope.CHAT, name="mine"), await key(guarded, Scope.CHAT, name="other")
    boss = await key(guarded, Scope.ADMIN, name="boss")
    async with client_of(guarded, mine) as client, client_of(guarded, other) as stranger:
        made = await begun(client, [chat_line("a", "x")])
        batch = await at_end(client, made.id)
        for file_id in (batch.input_file_id, batch.output_file_id):
            for asking in (stranger.files.retrieve, stranger.files.content, stranger.files.delete):
                with pytest.raises(openai.NotFoundError):
                    await asking(file_id)
        for asking in (stranger.batches.retrieve, stranger.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                await asking(batch.id)
        with pytest.raises(openai.NotFoundError):
            await stranger.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        with pytest.raises(openai.NotFoundError):
            await stranger.batches.list(after=batch.id)
        assert (await stranger.files.list()).data == []
        assert (await stranger.batches.list()).data == []
    async with client_of(guarded, boss) as admin:
        assert [each.id for each in (await admin.batches.list()).data] == [batch.id]
        assert len((await admin.files.list()).data) == 2


async def test_embeddings_take_their_own_right(guarded: RunningGateway) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m:1", "input": "x"}}
    async with client_of(guarded, await key(guarded, Scope.CHAT)) as client:
        with pytest.raises(openai.PermissionDeniedError, match="embeddings"):
            await begun(client, [line], "/v1/embeddings")
    async with client_of(guarded, await key(guarded, Scope.EMBEDDINGS)) as client:
        with pytest.raises(openai.PermissionDeniedError, match="chat"):
            await begun(client, [chat_line("a", "x")])
        assert (await at_end(client, (await begun(client, [line], "/v1/embeddings")).id)).status == "completed"


async def test_a_batch_uses_up_its_keys_budget_and_sees_its_models_alone(guarded: RunningGateway) -> None:
    text = await key(guarded, Scope.CHAT, limits=KeyLimits(tokens_per_day=21), allowed_models=("m:1",))
    async with client_of(guarded, text) as client:
        other = await at_end(client, (await begun(client, [chat_line("a", "x", model="other:2")])).id)
        (refused,) = await lines_of(client, other.error_file_id)
        assert (refused["response"]["status_code"], refused["error"]) == (403, None)
        lines = [chat_line(f"r{number}", "x") for number in range(30)]
        batch = await at_end(client, (await begun(client, lines)).id)
        assert batch.status == "completed"
        errors = [line["response"] for line in await lines_of(client, batch.error_file_id)]
    kinds = {(error["status_code"], error["body"]["error"]["type"]) for error in errors}
    assert kinds == {(429, "insufficient_quota")}
    # Those that were under way together when the last token went were let in before.
    assert 3 <= batch.request_counts.completed <= 3 + 8
    assert batch.request_counts.completed + len(errors) == 30


async def test_limits_of_a_minute_are_waited_for(guarded: RunningGateway, engine: BatchEngine) -> None:
    text = await key(guarded, Scope.CHAT, limits=KeyLimits(concurrent_requests=1))
    async with client_of(guarded, text) as client:
        batch = await at_end(client, (await begun(client, [chat_line(str(each), "x") for each in range(12)])).id)
        assert (batch.status, batch.request_counts.completed, engine.most_active) == ("completed", 12, 1)


async def test_a_revoked_key_ends_its_batches_and_says_so(guarded: RunningGateway, engine: BatchEngine) -> None:
    text, boss = await key(guarded, Scope.CHAT, name="short"), await key(guarded, Scope.ADMIN, name="boss")
    engine.gate = asyncio.Event()
    async with client_of(guarded, text) as client:
        made = await begun(client, [chat_line(f"r{number}", "x") for number in range(20)])
        await eventually(lambda: engine.active == 8)
    await guarded.services.keys.revoke("short", actor="test")
    engine.gate.set()
    async with client_of(guarded, boss) as admin:
        batch = await at_end(admin, made.id)
        assert batch.status == "failed"
        assert [error.code for error in batch.errors.data] == ["api_key_ended"]
        assert "revoked" in batch.errors.data[0].message
    assert len(engine.calls) == 8
