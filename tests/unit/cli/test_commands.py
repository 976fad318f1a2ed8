"""The command line as a whole, in this process, with nothing or a stub running."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import pytest

from fastapi_foundry import __version__
from tests.unit.cli.stub_server import Said, service_status, stub_server


def test_version_says_the_version(cli):
    outcome = cli("version")
    assert outcome.code == 0
    assert __version__ in outcome.out
    assert cli("version", "--json").json["version"] == __version__


def test_help_names_every_group(cli):
    outcome = cli("--help")
    assert outcome.code == 0
    for name in ("serve", "service", "model", "chat", "status", "version"):
        assert name in outcome.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "No such command"),
        (["model", "load"], "Missing argument"),
        (["version", "--nope"], "No such option"),
        (["serve", "--port", "abc"], "--port"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--host", "0.0.0.0"], "security.admin_key"),
        (["--config", "/no/such/file.json", "model", "list"], "/no/such/file.json"),
        (["model", "register", "/no/such/dir"], "/no/such/dir does not exist"),
        (["chat", ""], "prompt is empty"),
        (["model", "run", "m", " "], "prompt is empty"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(cli, arguments, words):
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert words in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_wrong_setting_names_its_source(cli, monkeypatch):
    monkeypatch.setenv("FOUNDRY_MAX_TOKENS", "many")
    outcome = cli("model", "list")
    assert outcome.code == 2
    assert "FOUNDRY_MAX_TOKENS" in outcome.err


def test_registering_a_file_or_an_empty_directory_is_refused_before_anything_starts(cli, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    assert "is not a directory" in cli("model", "register", tmp_path / "file").err
    assert "is empty" in cli("model", "register", tmp_path / "empty").err


def test_with_json_a_failure_is_a_document_and_stderr_stays_empty(cli):
    outcome = cli("model", "unload", "m", "--json")
    assert outcome.code == 3
    assert outcome.json["error"]["code"] == "engine_unavailable"
    assert outcome.json["error"]["exit_code"] == 3
    assert outcome.err == ""


def test_with_json_wrong_usage_is_a_document_too(cli):
    outcome = cli("model", "load", "--json")
    assert (outcome.code, outcome.json["error"]["code"], outcome.err) == (2, "usage_error", "")


def test_model_list_works_with_nothing_running(cli):
    outcome = cli("model", "list", "--json")
    assert outcome.code == 0
    demo = next(model for model in outcome.json["models"] if model["id"] == "foundry-demo:1")
    assert demo["demonstration"] is True
    assert demo["state"] == "cached"


def test_model_info_says_that_the_demo_is_a_demonstration(cli):
    outcome = cli("model", "info", "foundry-demo")
    assert outcome.code == 0
    assert "demonstration" in outcome.out


def test_an_unknown_model_is_code_4(cli):
    outcome = cli("model", "info", "nope")
    assert outcome.code == 4
    assert "'nope'" in outcome.err
    assert outcome.err.count("\n") == 1


def test_status_with_nothing_running_says_what_to_do(cli):
    outcome = cli("status")
    assert outcome.code == 3
    assert "fastapi-foundry service start" in outcome.out
    assert "fastapi-foundry serve" in outcome.out
    assert cli("status", "--json").json["service"] == {"running": False}


def test_stopping_what_does_not_run_is_no_failure(cli):
    assert cli("service", "stop", "--json").json == {"status": "not_running"}


def test_a_server_that_is_not_ours_is_neither_used_nor_stopped(cli, monkeypatch):
    with stub_server({"GET /status": Said({"endpoints": [], "pid": 1})}) as stub:
        monkeypatch.setenv("FOUNDRY_BASE_URL", stub.url)
        assert cli("service", "stop").code == 0
        assert cli("service", "status").code == 3
        assert stub.url in cli("model", "load", "m").err
    assert "POST /shutdown" not in stub.paths


def test_a_daemon_file_that_names_another_machine_is_not_followed(cli, home):
    home.mkdir()
    (home / "daemon.json").write_text(json.dumps({"web_urls": ["http://192.0.2.1:50477", 7, "http://[", "nonsense"]}))
    assert "192.0.2.1" not in cli("status", "--json").out


@pytest.mark.parametrize("content", ["", "[]", "{", '{"web_urls": 5}', '{"web_urls": null}'])
def test_a_broken_daemon_file_is_the_same_as_none(cli, home, content):
    home.mkdir()
    (home / "daemon.json").write_text(content)
    assert cli("service", "status").code == 3


def test_the_service_that_the_daemon_file_names_is_used(cli, home):
    runner = {"model": "m:1\x1b[2J", "state": "loaded", "pid": 7, "memory_mb": 64, "active": 1, "queued": 0}
    with stub_server({"GET /status": service_status(pid=9, memory_mb=80, runners=[runner])}) as stub:
        home.mkdir()
        (home / "daemon.json").write_text(json.dumps({"web_urls": [stub.url]}))
        outcome = cli("service", "status")
        assert cli("service", "start", "--json").json["status"] == "already_running"
    assert outcome.code == 0
    assert stub.url in outcome.out
    assert "m:1[2J" in outcome.out
    assert "\x1b" not in outcome.out


def test_a_download_that_is_refused_offline_is_code_5(cli, monkeypatch):
    refusal = {"error": {"message": "Offline mode is on.", "code": "catalog_unavailable"}}
    routes = {"GET /status": service_status(), "POST /models/download": Said(refusal, 503)}
    with stub_server(routes) as stub:
        monkeypatch.setenv("FOUNDRY_BASE_URL", stub.url)
        outcome = cli("model", "download", "phi")
    assert outcome.code == 5
    assert "Offline mode is on." in outcome.err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"code": "catalog_unavailable", "message": "No network."}, 5),
        ({"code": "model_not_found", "message": "No such model."}, 4),
        ({"code": "download_failed", "type": "server_error", "message": "Disk full."}, 1),
        ({"code": "download_running", "type": "invalid_request_error", "message": "Already running."}, 2),
    ],
)
def test_a_download_that_breaks_says_why(cli, monkeypatch, error, code):
    lines = [{"event": "progress", "percent": 1.5}, {"event": "error", "error": error}]
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    with stub_server({"GET /status": service_status(), "POST /models/download": Said(pieces=pieces)}) as stub:
        monkeypatch.setenv("FOUNDRY_BASE_URL", stub.url)
        outcome = cli("model", "download", "phi")
    assert outcome.code == code
    assert error["message"] in outcome.err


def test_a_download_ends_with_the_full_id(cli, monkeypatch):
    lines = [{"event": "progress", "percent": 50.0}, {"event": "done", "model": "phi:4"}]
    pieces = [json.dumps(line).encode() + b"\n" for line in lines]
    with stub_server({"GET /status": service_status(), "POST /models/download": Said(pieces=pieces)}) as stub:
        monkeypatch.setenv("FOUNDRY_BASE_URL", stub.url)
        assert cli("model", "download", "phi", "--json").json == {"status": "downloaded", "model": "phi:4"}


def test_ctrl_c_cancels_the_download_on_the_service(home, monkeypatch):
    begun, release = threading.Event(), threading.Event()

    def slow(_: object) -> Said:
        begun.set()
        release.wait(20)
        return Said(pieces=[])

    routes = {
        "GET /status": service_status(),
        "POST /models/download": slow,
        "POST /models/download/cancel": Said({"status": "cancelled"}),
    }
    with stub_server(routes) as stub:
        monkeypatch.setenv("FOUNDRY_BASE_URL", stub.url)
        command = [sys.executable, "-m", "fastapi_foundry", "model", "download", "phi"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert begun.wait(20)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        release.set()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "Interrupted."
    assert stub.asked[-1].path == "/models/download/cancel"
    assert stub.asked[-1].body == {"model": "phi"}


def test_a_catalogue_is_listed_with_its_age_when_it_is_stale(cli, monkeypatch):
    model = {"id": "phi:4", "alias": "phi", "size_mb": 2048, "task": "chat-completion", "device": "CPU", "cached": True}
    answer = {"status": "stale", "reason": "No network.", "models": [model]}
    with stub_server({"GET /status": service_status(), "GET /models/catalog?refresh=1": Said(answer)}) as stub:
        monkeypatch.setenv("FOUNDRY_BASE_URL", stub.url)
        outcome = cli("model", "list", "--catalog")
    assert outcome.code == 0
    assert "phi:4" in outcome.out
    assert "2.0 GB" in outcome.out
    assert "stale: No network." in outcome.err


def test_an_unexpected_error_is_one_line_that_names_the_log(cli, monkeypatch, home):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("kaput")

    monkeypatch.setattr("fastapi_foundry.cli.background.find_service", broken)
    outcome = cli("model", "list")
    assert outcome.code == 1
    assert "kaput" in outcome.err
    assert str(home / "logs") in outcome.err
    assert "Traceback" not in outcome.err
    assert "kaput" in (home / "logs" / "fastapi-foundry-cli.log").read_text()


def test_with_debug_an_unexpected_error_shows_its_traceback(cli, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("kaput")

    monkeypatch.setattr("fastapi_foundry.cli.background.find_service", broken)
    with pytest.raises(RuntimeError, match="kaput"):
        cli("--debug", "model", "list")


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["service", "--help"]])
def test_quick_commands_import_no_heavy_part(arguments, home):
    heavy = ("rich", "structlog", "fastapi", "uvicorn", "foundry_local_sdk", "asyncio", "fastapi_foundry.settings")
    code = (
        "import sys\nfrom fastapi_foundry.cli.main import run\n"
        f"run({arguments!r})\nprint([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_into_a_closed_pipe_is_no_traceback(home):
    code = "import os,sys\nr,w=os.pipe()\nos.close(r)\nos.dup2(w,1)\nfrom fastapi_foundry.cli.main import main\n"
    command = [sys.executable, "-c", code + "sys.argv=['x','version']\nmain()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == ""
