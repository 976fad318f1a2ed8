"""One gateway process as the engine of another: everything that a client sees goes through both of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socket import SHUT_RDWR, create_connection, create_server, socket

import pytest

from tests.support.doubles import RunningDouble, running_double
from tests.support.http import Answer, ask, event_stream
from tests.support.processes import gateway_process, product_environment
from tests.support.waiting import eventually_sync

CHAT = "/v1/chat/completions"
MODEL = "phi-x-generic-cpu:2"
KEY = "the-key-for-b"
NO_FOUNDRY = {
    "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never",
    "FASTAPI_FOUNDRY__FOUNDRY_AI__DISCOVERY": "false",
}


@dataclass
class Wire:
    """A listener that passes bytes on to ``port``, and remembers those of the requests."""

    port: int
    url: str
    seen: bytearray = field(default_factory=bytearray)

    def requests(self, path: str) -> list[str]:
        """The heads of the requests for ``path``, in small letters."""
        heads = self.seen.decode("latin-1").lower().split("\r\n\r\n")
        return [head for head in heads if f" {path} http/1.1" in head]


@contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    listener = create_server(("127.0.0.1", 0))
    wire = Wire(port, f"http://127.0.0.1:{listener.getsockname()[1]}")
    sockets: list[socket] = []

    def pass_on(source: socket, target: socket, seen: bytearray | None) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if seen is not None:
                    seen += data
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                sockets.append(near)
                try:
                    far = create_connection(("127.0.0.1", wire.port))
                except ConnectionRefusedError:
                    near.close()
                    continue
                sockets.append(far)
                threading.Thread(target=pass_on, args=(near, far, wire.seen), daemon=True).start()
                threading.Thread(target=pass_on, args=(far, near, None), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield wire
    finally:
        listener.shutdown(SHUT_RDWR)
        for each in (listener, *sockets):
            each.close()


@dataclass
class Pair:
    """Gateway a, whose one engine is gateway b; b has a as an engine too, and a Foundry."""

    a: str
    b: str
    wire: Wire
    double: RunningDouble

    def chat(self, model: str, **more: object) -> Answer:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5} | more
        return ask(self.a, CHAT, body, headers={"Authorization": "Bearer the-clients-key", "Cookie": "a=b"})


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    home = tmp_path_factory.mktemp("pair")
    port = int(product_environment(home / "b")["API_PORT"])
    models = [f"{MODEL},alias=phi-x,state=cached", "qwen-x-generic-cpu:1,alias=qwen-x,state=cached"]
    with running_double("gen3", home / "foundry", models=models) as double, wire_to(port) as wire:
        engines = [{"name": "b", "url": wire.url, "api_key": KEY, "required": False}]
        env = {**NO_FOUNDRY, "FASTAPI_FOUNDRY__ENGINES": json.dumps(engines)}
        with gateway_process(home / "a", env=env) as a:
            engines = [{"name": "a", "url": a.url}]
            env = {"FOUNDRY_BASE_URL": double.url, "FASTAPI_FOUNDRY__ENGINES": json.dumps(engines)}
            with gateway_process(home / "b", env=env) as b:
                assert b.url.endswith(f":{port}")
                eventually_sync(lambda: states(a.url)["b"] == "ready")
                eventually_sync(lambda: states(b.url) == {"foundry": "ready", "a": "ready"})
                yield Pair(a.url, b.url, wire, double)


def states(url: str) -> dict[str, str]:
    return {engine["name"]: engine["state"] for engine in ask(url, "/api/v1/foundry/status").json["engines"]}


def listed(url: str) -> dict[str, str]:
    return {model["id"]: model["state"] for model in ask(url, "/api/v1/models").json["models"]}


def test_an_answer_comes_through_both_whole_and_streamed_with_the_right_key(pair: Pair) -> None:
    for model in (MODEL, f"b::{MODEL}", f"b::foundry::{MODEL}"):
        answer = pair.chat(model)
        assert answer.status == 200, answer.body
        assert answer.json["model"] == MODEL
        assert answer.headers["x-foundry-engine"] == "b"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
    with event_stream(pair.a, CHAT, body) as stream:
        events, _ = stream.rest()
    assert events[-1] == "[DONE]"
    assert "".join(event["choices"][0]["delta"].get("content") or "" for event in events[:-1])

    heads = pair.wire.requests(CHAT)
    assert len(heads) == 4
    for head in heads:
        assert f"authorization: bearer {KEY}" in head
        assert "via: 1.1 foundry-" in head
    assert b"the-clients-key" not in pair.wire.seen
    assert b"a=b" not in pair.wire.seen
    assert all("via: 1.1 foundry-" in head for head in pair.wire.requests("/v1/models"))


def test_models_are_loaded_and_unloaded_through_both(pair: Pair) -> None:
    name = "qwen-x-generic-cpu:1"
    assert listed(pair.a)[name] == "cached"
    path = f"/api/v1/models/b::foundry::{name}"
    assert ask(pair.a, f"{path}/load", method="POST").json["success"] is True
    assert pair.double.model_states()[name] == "loaded"
    assert listed(pair.a)[name] == "loaded"
    assert ask(pair.a, f"{path}/unload", method="POST").status == 200
    assert pair.double.model_states()[name] == "cached"
    answer = ask(pair.a, "/api/v1/models/b::nobody/load", method="POST")
    assert (answer.status, answer.json["code"]) == (404, "model_not_found")
    assert "'nobody' does not exist" in answer.json["detail"]


def test_the_catalogue_of_the_other_gateway_is_shown_and_a_refused_download_keeps_its_words(pair: Pair) -> None:
    body = ask(pair.a, "/api/v1/models/catalog").json
    theirs = {(model["engine"], model["id"]) for model in body["models"]}
    assert theirs == {("b", MODEL), ("b", "qwen-x-generic-cpu:1")}
    # The gateway that asks is an engine of the other one, which says so instead of asking back.
    assert {(source["engine"], source["status"]) for source in body["sources"]} == {
        ("foundry", "unavailable"),
        ("b", "fresh"),
        ("b", "unavailable"),
    }
    refused = ask(pair.a, f"/api/v1/models/b::{MODEL}/download", {})
    assert refused.status == 400
    assert "no way to ask its service for a download" in refused.json["detail"]


def test_lists_end_at_once_and_hold_each_model_once(pair: Pair) -> None:
    expected = {MODEL, "qwen-x-generic-cpu:1"}
    # What was listed before a change is not fresh any more, in both of them.
    assert ask(pair.a, f"/api/v1/models/b::{MODEL}/unload", method="POST").status == 200
    began = time.monotonic()
    assert set(listed(pair.a)) == set(listed(pair.b)) == expected
    for url in (pair.a, pair.b):
        assert {entry["id"] for entry in ask(url, "/v1/models").json["data"]} == expected
    assert time.monotonic() - began < 0.5
    assert states(pair.a)["b"] == states(pair.b)["a"] == "ready"


def test_a_model_that_nobody_has_is_not_found_quickly_and_never_circles(pair: Pair) -> None:
    before = len(pair.wire.requests(CHAT))
    for model, sent in (("nobody", 0), ("b::nobody", 1), ("b::a::nobody", 2)):
        began = time.monotonic()
        answer = pair.chat(model)
        assert (answer.status, answer.error["code"]) in {(404, "model_not_found"), (508, "loop_detected")}
        assert answer.status == (508 if model.startswith("b::a::") else 404)
        assert time.monotonic() - began < 0.5
        assert len(pair.wire.requests(CHAT)) - before == sent


def test_what_the_other_gateway_finds_wrong_keeps_its_status_and_code(pair: Pair) -> None:
    answer = pair.chat(MODEL, logit_bias={"1": 5})
    assert (answer.status, answer.error["code"]) == (400, "unsupported_parameter")
    assert answer.error["param"] == "logit_bias"
    pair.double.fault("rate_limited", times=1, retry_after_s=7)
    answer = pair.chat(MODEL)
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "queue_full", "7")
    pair.double.fault("broken", times=1)
    answer = pair.chat(MODEL)
    assert (answer.status, answer.error["code"]) == (502, "engine_failed")
    assert pair.chat(MODEL).status == 200
