"""Processes die by ``kill -9``; clients get an error frame, the next request an answer, and nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.http import Answer, EventStream, ask, event_stream
from tests.support.models import make_endless_model
from tests.support.processes import ProductProcess, children_of, gateway_process, service_process
from tests.support.waiting import eventually_sync

ENDLESS = "endless:1"


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[ProductProcess]:
    with gateway_process(tmp_path / "home") as process:
        _register_endless(process, tmp_path / "endless")
        yield process


def _register_endless(gateway: ProductProcess, directory: Path) -> None:
    make_endless_model(directory)
    eventually_sync((gateway.home / "daemon.json").exists)
    answer = ask(_service_url(gateway), "/models/register", {"path": str(directory), "name": ENDLESS})
    assert answer.status == 200, answer.body


def _service_and_runners(gateway_pid: int) -> tuple[psutil.Process, list[psutil.Process]]:
    runners, services = [], []
    for child in children_of(gateway_pid):
        command = " ".join(child.cmdline())
        if "fastapi_foundry.daemon.runner" in command:
            runners.append(child)
        elif "fastapi_foundry.daemon" in command:
            services.append(child)
    assert len(services) == 1, services
    return services[0], runners


def _chat(url: str, *, model: str = "foundry-demo:1", max_tokens: int = 16) -> Answer:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": max_tokens}
    return ask(url, "/v1/chat/completions", body)


def _endless_request() -> dict[str, object]:
    return {
        "model": ENDLESS,
        "messages": [{"role": "user", "content": "Count for ever."}],
        "max_tokens": 2048,
    }


def _first_content(stream: EventStream) -> None:
    for event in stream.events():
        if event != "[DONE]" and event["choices"] and event["choices"][0]["delta"].get("content"):
            return
    raise AssertionError("the stream ended before any content")


def _assert_ended_by_an_error_frame(events: list[object], seconds: float) -> None:
    assert "[DONE]" not in events
    assert "broken" not in events
    assert events
    last = events[-1]
    assert isinstance(last, dict)
    assert "error" in last, last
    assert last["error"]["message"]
    assert seconds < 2.0


@pytest.mark.parametrize("victims", ["runner", "service", "both"])
def test_a_stream_whose_engine_is_killed_ends_with_an_error_frame_and_the_next_request_succeeds(
    gateway: ProductProcess, victims: str
) -> None:
    with event_stream(gateway.url, "/v1/chat/completions", _endless_request()) as stream:
        assert stream.status == 200
        _first_content(stream)
        service, runners = _service_and_runners(gateway.pid)
        assert runners
        # Freeze first, so that the answer is certainly in mid-stream when the process dies.
        for runner in runners:
            os.kill(runner.pid, signal.SIGSTOP)
        targets = {"runner": runners, "service": [service], "both": [service, *runners]}[victims]
        for target in targets:
            os.kill(target.pid, signal.SIGKILL)
        if victims == "service":
            for runner in runners:
                os.kill(runner.pid, signal.SIGCONT)
        events, seconds = stream.rest()
    _assert_ended_by_an_error_frame(events, seconds)

    assert gateway.popen.poll() is None
    answer = _chat(gateway.url)
    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"]


def _runner_of(gateway: ProductProcess, model: str) -> psutil.Process:
    runners = ask(_service_url(gateway), "/status").json["runners"]
    return psutil.Process(next(runner["pid"] for runner in runners if runner["model"] == model))


def _is_asked(gateway: ProductProcess, model: str) -> bool:
    runners = ask(_service_url(gateway), "/status").json["runners"]
    return any(runner["active"] for runner in runners if runner["model"] == model)


@contextmanager
def _asking(gateway: ProductProcess, *, max_tokens: int) -> Iterator[list[Answer]]:
    """Ask for a whole answer in a thread; the list holds it once the block is left."""
    answers: list[Answer] = []

    def ask_whole() -> None:
        answers.append(_chat(gateway.url, model=ENDLESS, max_tokens=max_tokens))

    thread = threading.Thread(target=ask_whole)
    thread.start()
    yield answers
    thread.join(20)
    assert len(answers) == 1


def test_a_whole_answer_whose_runner_is_killed_at_work_is_a_502_that_names_the_cause(gateway: ProductProcess) -> None:
    assert _chat(gateway.url, model=ENDLESS).status == 200
    runner = _runner_of(gateway, ENDLESS)
    before = runner.cpu_times().user
    with _asking(gateway, max_tokens=4000) as answers:
        eventually_sync(lambda: runner.cpu_times().user > before + 0.1, interval_s=0.005)
        runner.kill()
    assert answers[0].status == 502, answers[0].body
    assert answers[0].json["error"]["code"] == "engine_failed"


def test_a_request_that_its_dying_runner_never_took_up_is_answered_by_the_next_one(gateway: ProductProcess) -> None:
    assert _chat(gateway.url, model=ENDLESS).status == 200
    runner = _runner_of(gateway, ENDLESS)
    runner.suspend()
    with _asking(gateway, max_tokens=16) as answers:
        eventually_sync(lambda: _is_asked(gateway, ENDLESS))
        runner.kill()
    assert answers[0].status == 200, answers[0].body


def _service_url(gateway: ProductProcess) -> str:
    return str(json.loads((gateway.home / "daemon.json").read_text())["web_urls"][0])


def test_killing_the_gateway_leaves_no_orphan(tmp_path: Path) -> None:
    with gateway_process(tmp_path / "home") as gateway:
        assert _chat(gateway.url).status == 200
        family = children_of(gateway.pid)
        assert len(family) >= 2
        gateway.kill()
        eventually_sync(lambda: not [child for child in family if child.is_running()], timeout_s=5.0)


def test_killing_the_gateway_spares_a_service_that_was_started_on_its_own(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with service_process(home) as service, gateway_process(home) as gateway:
        assert _chat(gateway.url).status == 200
        assert not [
            child for child in children_of(gateway.pid) if "fastapi_foundry.daemon" in " ".join(child.cmdline())
        ]
        gateway.kill()
        assert ask(service.url, "/status").status == 200


def test_a_gateway_that_is_told_to_end_takes_its_service_along_and_removes_the_daemon_file(tmp_path: Path) -> None:
    with gateway_process(tmp_path / "home") as gateway:
        assert _chat(gateway.url).status == 200
        family = children_of(gateway.pid)
        assert (gateway.home / "daemon.json").exists()
        assert gateway.stop() == 0
        assert not [child for child in family if child.is_running()]
        assert not (gateway.home / "daemon.json").exists()
