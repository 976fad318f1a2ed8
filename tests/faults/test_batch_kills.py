"""A batch whose gateway is killed again and again: every line is answered, none is lost, none is there twice."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import openai

from tests.support.cli import cli_in_a_pipe
from tests.support.doubles.running import RunningDouble, running_double
from tests.support.processes import ProductProcess, gateway_process
from tests.support.waiting import eventually_sync

MODEL = "quick-generic-cpu:1"
LINES = 500
CONCURRENCY = 8


def line(number: int) -> bytes:
    messages = [{"role": "user", "content": f"echo: this is answer {number}"}]
    body = {"model": MODEL, "messages": messages}
    request = {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(request).encode() + b"\n"


@contextmanager
def gateway_of(home: Path, engine: RunningDouble, **settings: str) -> Iterator[tuple[ProductProcess, openai.OpenAI]]:
    env = {"FOUNDRY_BASE_URL": engine.url, "FOUNDRY_DEFAULT_MODEL": MODEL}
    given = {"foundry_ai.preload": "false", "foundry_ai.probe_engines": "false", "batches.lease_s": "0.5"}
    given["batches.concurrency"] = str(CONCURRENCY)
    given |= settings
    env |= {f"FASTAPI_FOUNDRY__{name.upper().replace('.', '__')}": value for name, value in given.items()}
    with (
        gateway_process(home, arguments=["--port", "0"], env=env) as process,
        openai.OpenAI(base_url=f"{process.url}/v1", api_key="none", timeout=20) as client,
    ):
        yield process, client


def completed(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    assert counts is not None
    return counts.completed


def test_a_batch_of_500_survives_kills_without_a_line_lost_or_doubled(tmp_path: Path) -> None:
    home, batch_id, seen = tmp_path / "home", "", []
    with running_double("gen3", tmp_path / "engine", models=[f"{MODEL},state=loaded"], chunk_delay_s=0.01) as engine:
        for part in (0.2, 0.4, 0.6):
            with gateway_of(home, engine) as (process, client):
                if not batch_id:
                    content = b"".join(map(line, range(LINES)))
                    file = client.files.create(file=("in.jsonl", content), purpose="batch")
                    batch_id = client.batches.create(
                        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
                    ).id
                eventually_sync(lambda: completed(client, batch_id) >= part * LINES, timeout_s=15)  # noqa: B023 - called here
                seen.append(completed(client, batch_id))
                process.kill()
        assert seen == sorted(set(seen)), "nothing that was done is forgotten"
        assert seen[-1] < LINES, "the last kill was in the middle too"
        with ExitStack() as stack:
            process, client = stack.enter_context(gateway_of(home, engine))
            eventually_sync(lambda: client.batches.retrieve(batch_id).status == "completed", timeout_s=15)
            batch = client.batches.retrieve(batch_id)
            assert batch.output_file_id is not None
            results = [json.loads(text) for text in client.files.content(batch.output_file_id).text.splitlines()]
            time.sleep(1.0)  # the record of use is written every 0.75 s
        asked = Counter(body["messages"][0]["content"] for body in engine.bodies("/v1/chat/completions"))
    assert batch.error_file_id is None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (
        LINES,
        LINES,
        0,
    )
    said = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in results}
    assert len(results) == LINES
    assert said == {f"r{number}": f"this is answer {number}" for number in range(LINES)}
    # What was under way, or on its way to the disk, at a kill is run again, and nothing else.
    again = sum(asked.values()) - LINES
    assert 0 <= again < len(seen) * 8 * CONCURRENCY
    total = cli_in_a_pipe(home, "usage", "--json").json["total"]
    assert LINES / 4 < total["requests"] <= sum(asked.values())
    assert list((home / "files").glob("*.part*")) == []


def test_a_gateway_that_is_told_to_stop_ends_in_time_and_lets_go_of_its_batches(tmp_path: Path) -> None:
    home = tmp_path / "home"
    slow = running_double("gen3", tmp_path / "engine", models=[f"{MODEL},state=loaded"], chunk_delay_s=0.05)
    with slow as engine:
        with gateway_of(home, engine, **{"batches.lease_s": "600"}) as (process, client):
            content = b"".join(map(line, range(100)))
            file = client.files.create(file=("in.jsonl", content), purpose="batch")
            batch_id = client.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            ).id
            eventually_sync(lambda: completed(client, batch_id) >= CONCURRENCY)
            began = time.monotonic()
            assert process.stop() == 0
            assert time.monotonic() - began < 5
        asked = len(engine.bodies("/v1/chat/completions"))
        with gateway_of(home, engine) as (_, client):
            # What was under way has been finished and kept, and the lease of ten minutes is nobody's.
            assert completed(client, batch_id) == asked
            eventually_sync(lambda: client.batches.retrieve(batch_id).status == "completed", timeout_s=15)
        assert len(engine.bodies("/v1/chat/completions")) == 100
