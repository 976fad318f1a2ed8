"""Runners come, die and go: the service with real processes that are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import fastapi_foundry
from tests.support.http import LONG_ANSWER, ask, chat_body, event_stream
from tests.support.processes import ProductProcess, children_of, product_environment, service_process
from tests.support.waiting import eventually_sync

CHAT = "/v1/chat/completions"
DEMO = Path(fastapi_foundry.__file__).parent / "demo_model"


@pytest.fixture
def service(foundry_home: Path) -> Iterator[ProductProcess]:
    with service_process(foundry_home) as process:
        yield process


def runners_of(service: ProductProcess) -> list[dict[str, Any]]:
    return list(ask(service.url, "/status").json["runners"])


def only_runner(service: ProductProcess) -> dict[str, Any]:
    (runner,) = runners_of(service)
    return runner


def idle_runner(service: ProductProcess) -> dict[str, Any] | None:
    runner = only_runner(service)
    return runner if runner["active"] == 0 and runner["queued"] == 0 else None


def runner_pids(service: ProductProcess) -> set[int]:
    return {child.pid for child in children_of(service.pid) if "daemon.runner" in " ".join(child.cmdline())}


def rss_of_tree(pid: int) -> float:
    processes = [psutil.Process(pid), *children_of(pid)]
    return sum(process.memory_info().rss for process in processes) / 2**20


class TestLoading:
    def test_many_first_requests_share_one_load(self, service: ProductProcess):
        assert runner_pids(service) == set()
        names = ["foundry-demo", "foundry-demo:1", "Foundry-Demo"] * 8
        seen: set[int] = set()
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                seen.update(runner_pids(service))
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(len(names)) as pool:
            answers = list(
                pool.map(lambda name: ask(service.url, CHAT, chat_body(max_tokens=3) | {"model": name}), names)
            )
        done.set()
        watcher.join()
        assert {answer.status for answer in answers} == {200}
        assert len(seen) == 1
        assert only_runner(service)["requests"] == len(names)

    def test_load_and_unload_say_what_they_did(self, service: ProductProcess):
        first = ask(service.url, "/models/load/foundry-demo", method="POST").json
        assert (first["status"], first["model"]) == ("loaded", "foundry-demo:1")
        assert first["duration"] > 0
        assert first["memory_mb"] > 10
        assert ask(service.url, "/models/load/foundry-demo:1").json["status"] == "already_loaded"
        assert ask(service.url, "/models/loaded").json == ["foundry-demo:1"]
        assert ask(service.url, "/models/unload/foundry-demo%3A1", method="POST").json["status"] == "unloaded"
        assert ask(service.url, "/models/unload/foundry-demo").json["status"] == "not_loaded"
        assert ask(service.url, "/models/loaded").json == []
        assert ask(service.url, "/models/load/nothing", method="POST").status == 404

    def test_the_states_of_a_model_are_visible(self, service: ProductProcess):
        def state() -> str:
            return str(ask(service.url, "/v1/models/foundry-demo").json["state"])

        assert state() == "cached"
        with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
            stream.take(3)
            assert state() == "in_use"
        assert eventually_sync(lambda: state() == "loaded")
        ask(service.url, "/models/unload/foundry-demo", method="POST")
        assert state() == "cached"

    def test_an_unload_ends_the_process_and_returns_its_memory(self, service: ProductProcess):
        ask(service.url, "/v1/models")
        before = rss_of_tree(service.pid)
        ask(service.url, CHAT, chat_body())
        pid = only_runner(service)["pid"]
        loaded = rss_of_tree(service.pid)
        assert loaded > before + 40
        ask(service.url, "/models/unload/foundry-demo", method="POST")
        assert not psutil.pid_exists(pid)
        assert rss_of_tree(service.pid) < before + 8

    def test_an_unload_ends_what_was_running_with_a_clear_error(self, service: ProductProcess):
        with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
            stream.take(3)
            ask(service.url, "/models/unload/foundry-demo", method="POST")
            *_, last = stream.payloads()
        assert "unloaded" in json.loads(last)["error"]["message"]
        assert ask(service.url, CHAT, chat_body()).status == 200

    def test_an_idle_model_makes_room_for_another_and_a_busy_one_does_not(self, foundry_home: Path):
        env = {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__MAX_LOADED_MODELS": "1"}
        env |= {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__LOAD_TIMEOUT_S": "2"}
        with service_process(foundry_home, env=env) as service:
            ask(service.url, "/models/register", {"path": str(DEMO), "name": "second:1"})
            assert ask(service.url, CHAT, chat_body()).status == 200
            assert ask(service.url, CHAT, chat_body() | {"model": "second"}).status == 200
            assert ask(service.url, "/models/loaded").json == ["second:1"]
            with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER) | {"model": "second"}) as stream:
                stream.take(3)
                refused = ask(service.url, CHAT, chat_body())
                assert refused.status == 503
                assert refused.error["code"] == "model_load_failed"
                assert int(refused.headers["retry-after"]) >= 1
                assert stream.take(1)
            assert ask(service.url, CHAT, chat_body()).status == 200


class TestQueue:
    def test_more_than_may_wait_are_told_to_come_back(self, foundry_home: Path):
        env = {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__MAX_ACTIVE_PER_MODEL": "1"}
        env |= {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__MAX_QUEUED_PER_MODEL": "1"}
        with service_process(foundry_home, env=env) as service, ThreadPoolExecutor(1) as pool:
            with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
                stream.take(2)
                waiting = pool.submit(ask, service.url, CHAT, chat_body(max_tokens=2))
                assert eventually_sync(lambda: only_runner(service)["queued"] == 1)
                refused = ask(service.url, CHAT, chat_body())
                assert refused.status == 429
                assert refused.error["code"] == "queue_full"
                assert int(refused.headers["retry-after"]) >= 1
            assert waiting.result(20).status == 200

    def test_a_client_that_leaves_the_queue_costs_nothing(self, foundry_home: Path):
        env = {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__MAX_ACTIVE_PER_MODEL": "1"}
        with service_process(foundry_home, env=env) as service:
            with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
                stream.take(2)
                with pytest.raises(TimeoutError):
                    ask(service.url, CHAT, chat_body(), timeout_s=0.3)
                assert eventually_sync(lambda: only_runner(service)["queued"] == 0)
            runner = eventually_sync(lambda: idle_runner(service))
            assert (runner["requests"], runner["cancelled"]) == (1, 1)


class TestDisconnect:
    def test_leaving_a_stream_stops_the_decode(self, service: ProductProcess):
        with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
            stream.take(5)
        runner = eventually_sync(lambda: idle_runner(service), timeout_s=2)
        assert runner["cancelled"] == 1
        assert runner["tokens_generated"] < 2000
        before = psutil.Process(runner["pid"]).cpu_times().user
        time.sleep(0.3)
        assert psutil.Process(runner["pid"]).cpu_times().user - before < 0.1

    def test_leaving_a_whole_answer_stops_the_decode(self, service: ProductProcess):
        ask(service.url, "/models/load/foundry-demo", method="POST")
        with pytest.raises(TimeoutError):
            ask(service.url, CHAT, chat_body(**LONG_ANSWER), timeout_s=0.3)
        runner = eventually_sync(lambda: idle_runner(service), timeout_s=1)
        assert (runner["requests"], runner["cancelled"]) == (1, 1)

    def test_leaving_while_the_model_loads_leaves_a_loaded_idle_model(self, service: ProductProcess):
        with pytest.raises(TimeoutError):
            ask(service.url, CHAT, chat_body(**LONG_ANSWER), timeout_s=0.1)
        assert eventually_sync(lambda: ask(service.url, "/models/loaded").json == ["foundry-demo:1"])
        runner = eventually_sync(lambda: idle_runner(service))
        assert runner["requests"] - runner["cancelled"] == 0
        assert runner["tokens_generated"] < 100


class TestRunnerDeath:
    def test_a_stream_ends_with_an_error_frame_within_two_seconds(self, service: ProductProcess):
        with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
            stream.take(5)
            os.kill(only_runner(service)["pid"], signal.SIGKILL)
            killed = time.monotonic()
            payloads = list(stream.payloads())
            assert time.monotonic() - killed < 2
        assert "[DONE]" not in payloads
        assert json.loads(payloads[-1])["error"]["code"] == "engine_failed"
        assert ask(service.url, CHAT, chat_body()).status == 200

    def test_a_whole_answer_becomes_502_and_the_next_request_succeeds(self, service: ProductProcess):
        ask(service.url, "/models/load/foundry-demo", method="POST")
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(ask, service.url, CHAT, chat_body(**LONG_ANSWER))
            runner = eventually_sync(lambda: next((r for r in runners_of(service) if r["active"]), None))
            os.kill(runner["pid"], signal.SIGKILL)
            answer = pending.result(5)
        assert answer.status == 502
        assert answer.error["code"] == "engine_failed"
        assert ask(service.url, CHAT, chat_body()).status == 200

    def test_a_model_that_keeps_dying_is_put_aside_until_it_is_loaded_explicitly(self, service: ProductProcess):
        for _ in range(3):
            with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
                stream.take(2)
                os.kill(only_runner(service)["pid"], signal.SIGKILL)
                assert "error" in list(stream.payloads())[-1]
        refused = ask(service.url, CHAT, chat_body())
        assert refused.status == 503
        assert refused.error["code"] == "model_put_aside"
        assert "3 failures" in refused.error["message"]
        card = ask(service.url, "/v1/models/foundry-demo").json
        assert card["state"] == "put_aside"
        assert "put aside" in card["reason"]
        assert runner_pids(service) == set()
        assert ask(service.url, "/models/unload/foundry-demo", method="POST").json["status"] == "not_loaded"
        assert ask(service.url, CHAT, chat_body()).status == 503
        assert ask(service.url, "/models/load/foundry-demo", method="POST").status == 200
        assert ask(service.url, CHAT, chat_body()).status == 200

    def test_a_success_between_deaths_counts_as_recovery(self, service: ProductProcess):
        for _ in range(4):
            assert ask(service.url, CHAT, chat_body(max_tokens=2)).status == 200
            os.kill(only_runner(service)["pid"], signal.SIGKILL)
            eventually_sync(lambda: not runners_of(service))
        assert ask(service.url, CHAT, chat_body()).status == 200

    def test_who_waits_for_a_place_survives_the_runners_death(self, foundry_home: Path):
        env = {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__MAX_ACTIVE_PER_MODEL": "1"}
        with (
            service_process(foundry_home, env=env) as service,
            ThreadPoolExecutor(1) as pool,
            event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream,
        ):
            stream.take(2)
            waiting = pool.submit(ask, service.url, CHAT, chat_body(max_tokens=2))
            assert eventually_sync(lambda: only_runner(service)["queued"] == 1)
            os.kill(only_runner(service)["pid"], signal.SIGKILL)
            assert waiting.result(10).status == 200

    def test_an_unload_in_the_middle_of_a_load_ends_it(self, service: ProductProcess):
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, service.url, CHAT, chat_body())
            assert eventually_sync(lambda: runner_pids(service), interval_s=0.005)
            assert ask(service.url, "/models/unload/foundry-demo", method="POST").status == 200
            answer = waiting.result(10)
        # Whoever is faster, the load or the unload, nothing is left and the next request works.
        assert answer.status in {200, 502, 503}
        assert ask(service.url, CHAT, chat_body(max_tokens=2)).status == 200
        assert len(runner_pids(service)) == 1


class TestServiceEnd:
    def test_runners_leave_when_the_service_is_killed_in_mid_decode(self, foundry_home: Path):
        with service_process(foundry_home) as service:
            ask(service.url, "/models/register", {"path": str(DEMO), "name": "second:1"})
            ask(service.url, "/models/load/second", method="POST")
            with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
                stream.take(3)
                pids = runner_pids(service)
                assert len(pids) == 2
                service.kill()
                assert eventually_sync(lambda: not any(psutil.pid_exists(pid) for pid in pids), timeout_s=2)
                assert "[DONE]" not in list(stream.payloads())
        assert not list((foundry_home / "run").glob("service-*/*"))
        # The next service on the same home finds its daemon file stale and takes it over.
        with service_process(foundry_home) as service:
            assert json.loads((foundry_home / "daemon.json").read_text())["pid"] == service.pid
            assert ask(service.url, "/v1/models/second").json["source"] == "registered"

    def test_a_supervised_service_goes_with_its_parent(self, foundry_home: Path):
        with service_process(foundry_home, arguments=["--supervised"], supervised=True) as service:
            ask(service.url, CHAT, chat_body(max_tokens=2))
            pids = {service.pid, *runner_pids(service)}
            assert len(pids) == 2
            assert service.popen.stdin is not None
            service.popen.stdin.close()
            assert service.popen.wait(5) == 0
            assert eventually_sync(lambda: not any(psutil.pid_exists(pid) for pid in pids), timeout_s=2)
        assert not (foundry_home / "daemon.json").exists()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_streams_with_an_error_frame_and_then_everything(
        self, foundry_home: Path, number: signal.Signals
    ):
        with service_process(foundry_home) as service:
            with event_stream(service.url, CHAT, chat_body(**LONG_ANSWER)) as stream:
                stream.take(3)
                pids = runner_pids(service)
                started = time.monotonic()
                service.popen.send_signal(number)
                *_, last = stream.payloads()
            assert "shutting down" in json.loads(last)["error"]["message"]
            assert service.popen.wait(5) == 0
            assert time.monotonic() - started < 5
            assert not any(psutil.pid_exists(pid) for pid in pids)
        assert not (foundry_home / "daemon.json").exists()
        assert not list((foundry_home / "run").iterdir())

    def test_shutdown_by_post_ends_in_order(self, foundry_home: Path):
        with service_process(foundry_home) as service:
            assert ask(service.url, "/shutdown").status == 405
            assert ask(service.url, "/shutdown", method="POST").json == {"status": "shutting_down"}
            assert service.popen.wait(5) == 0


class TestStart:
    def test_start_is_quick_and_small(self, foundry_home: Path):
        started = time.monotonic()
        with service_process(foundry_home) as service:
            assert time.monotonic() - started < 2.5
            assert psutil.Process(service.pid).memory_info().rss < 90 * 2**20
            assert not runner_pids(service)

    def test_the_next_free_port_of_the_range_is_taken_when_the_wanted_one_is_not_free(self, tmp_path: Path):
        env = {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__PORT_RANGE_START": "50740"}
        env |= {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__PORT_RANGE_END": "50780", "FOUNDRY_PORT": "50740"}
        with (
            service_process(tmp_path / "one", env=env) as first,
            service_process(tmp_path / "two", env=env) as second,
        ):
            assert first.url != second.url
            assert 50740 <= int(second.url.rpartition(":")[2]) <= 50780
            assert ask(second.url, "/status").json["pid"] == second.pid

    def test_a_living_foreign_daemon_file_is_left_alone(self, foundry_home: Path):
        foreign = {"web_urls": ["http://127.0.0.1:1"], "pid": os.getpid(), "product": "other"}
        (foundry_home / "daemon.json").write_text(json.dumps(foreign))
        with service_process(foundry_home):
            assert json.loads((foundry_home / "daemon.json").read_text()) == foreign
        assert json.loads((foundry_home / "daemon.json").read_text()) == foreign

    def test_wrong_settings_are_reported_on_the_ready_line(self, foundry_home: Path):
        env = product_environment(foundry_home, {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__MAX_LOADED_MODELS": "none"})
        command = [sys.executable, "-m", "fastapi_foundry.daemon"]
        done = subprocess.run(command, env=env, capture_output=True, timeout=20, check=False)
        assert done.returncode != 0
        line = json.loads(done.stdout)
        assert line["event"] == "failed"
        assert "max_loaded_models" in line["error"].lower()
