"""An engine is probed once, after its first answer, and what was found outlives the gateway."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.doubles import running_double
from tests.support.http import ask
from tests.support.processes import gateway_process
from tests.support.waiting import eventually_sync

CHAT = "/v1/chat/completions"
MODEL = "phi-x-generic-cpu:2"
BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}


def test_a_foreign_engine_is_probed_after_its_first_answer_and_never_again(tmp_path: Path) -> None:
    file = tmp_path / "ours" / "engine-profiles.json"
    with running_double("gen3", tmp_path / "theirs", models=[f"{MODEL},alias=phi-x,state=loaded"]) as double:
        env = {"FOUNDRY_BASE_URL": double.url, "FOUNDRY_DEFAULT_MODEL": MODEL}
        with gateway_process(tmp_path / "ours", arguments=["--port", "0"], env=env) as gateway:
            assert double.seen(CHAT) == []
            assert ask(gateway.url, CHAT, BODY).status == 200
            eventually_sync(file.exists, timeout_s=30)
            assert ask(gateway.url, CHAT, BODY | {"n": 2}).status == 200
        (entry,) = json.loads(file.read_bytes())["profiles"].values()
        assert entry["profile"]["json_schema"] == "bare"
        assert entry["profile"]["n"] == "ignored"
        double.forget()
        with gateway_process(tmp_path / "ours", arguments=["--port", "0"], env=env) as gateway:
            assert ask(gateway.url, CHAT, BODY).status == 200
            assert ask(gateway.url, CHAT, BODY | {"n": 2}).status == 200
            assert len(double.seen(CHAT)) == 3


def test_probing_can_be_switched_off(tmp_path: Path) -> None:
    with running_double("gen1", tmp_path / "theirs", models=[f"{MODEL},alias=phi-x,state=loaded"]) as double:
        env = {"FOUNDRY_BASE_URL": double.url, "FASTAPI_FOUNDRY__FOUNDRY_AI__PROBE_ENGINES": "false"}
        with gateway_process(tmp_path / "ours", arguments=["--port", "0"], env=env) as gateway:
            assert ask(gateway.url, CHAT, BODY).status == 200
            assert len(double.seen(CHAT)) == 1
    assert not (tmp_path / "ours" / "engine-profiles.json").exists()
