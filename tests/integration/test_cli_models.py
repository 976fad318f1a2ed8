"""``fastapi-foundry model`` and ``chat`` with a real service and the real demo model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import cli_in_a_pipe, cli_on_a_terminal, end_service_of
from tests.support.models import DEMO_DIRECTORY, make_endless_model
from tests.support.processes import ProductProcess, gateway_process, service_process
from tests.support.waiting import eventually_sync


@pytest.fixture
def home(foundry_home: Path) -> Iterator[Path]:
    yield foundry_home
    end_service_of(foundry_home)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    with service_process(tmp_path_factory.mktemp("cli-service")) as process:
        yield process


def test_a_model_is_loaded_seen_and_unloaded(service):
    home = service.home
    loaded = cli_in_a_pipe(home, "model", "load", "foundry-demo", "--json").json
    assert loaded["status"] in {"loaded", "already_loaded"}
    assert loaded["model"] == "foundry-demo:1"
    assert "foundry-demo:1" in cli_in_a_pipe(home, "service", "status").out
    assert "loaded" in cli_in_a_pipe(home, "model", "list").out
    assert "already loaded" in cli_in_a_pipe(home, "model", "load", "foundry-demo:1").out
    assert cli_in_a_pipe(home, "model", "stop", "foundry-demo", "--json").json["status"] == "unloaded"
    assert "No model is loaded." in cli_in_a_pipe(home, "service", "status").out


@pytest.mark.parametrize("command", ["load", "unload", "info", "run", "remove"])
def test_an_unknown_model_is_one_line_and_code_4(service, command):
    prompt = ["hi"] if command == "run" else []
    outcome = cli_in_a_pipe(service.home, "model", command, "nope", *prompt)
    assert outcome.code == 4
    assert "'nope'" in outcome.err
    assert [line for line in outcome.err.splitlines() if "..." not in line] == outcome.err.splitlines()[-1:]


def test_download_and_catalogue_are_code_5_when_offline(service):
    assert cli_in_a_pipe(service.home, "model", "download", "phi-4-mini", "--json").code == 5
    outcome = cli_in_a_pipe(service.home, "model", "list", "--catalog", "--json")
    assert outcome.code == 5
    assert outcome.json["error"]["code"] == "catalog_unavailable"


def test_a_directory_of_ones_own_is_registered_answers_and_is_forgotten(service, tmp_path):
    home, own = service.home, tmp_path / "own-model"
    shutil.copytree(DEMO_DIRECTORY, own)
    assert cli_in_a_pipe(home, "model", "register", own, "--name", "mine", "--json").json == {
        "status": "registered",
        "model": "mine:1",
    }
    assert "registered" in cli_in_a_pipe(home, "model", "info", "mine").out
    assert cli_in_a_pipe(home, "model", "run", "mine", "What are you?").out.strip()
    assert cli_in_a_pipe(home, "model", "remove", "mine", "--json").json["status"] == "removed"
    assert own.exists()
    assert cli_in_a_pipe(home, "model", "info", "mine").code == 4


def test_a_directory_that_is_no_model_is_refused_with_what_is_missing(service, tmp_path):
    (tmp_path / "notes.txt").write_text("not a model")
    outcome = cli_in_a_pipe(service.home, "model", "register", tmp_path)
    assert outcome.code == 2
    assert "genai_config.json" in outcome.err
    shutil.copytree(DEMO_DIRECTORY, tmp_path / "m")
    assert cli_in_a_pipe(service.home, "model", "register", tmp_path / "m", "--name", "../evil").code == 2


def test_the_bundled_model_cannot_be_removed(service):
    outcome = cli_in_a_pipe(service.home, "model", "remove", "foundry-demo")
    assert outcome.code == 2
    assert "cannot be removed" in outcome.err


def test_files_are_deleted_only_after_a_yes(home):
    stored = home / "models" / "stored-1"
    shutil.copytree(DEMO_DIRECTORY, stored)
    (stored / "inference_model.json").unlink()
    name = next(
        m["id"] for m in cli_in_a_pipe(home, "model", "list", "--json").json["models"] if m["source"] == "store"
    )
    with cli_on_a_terminal(home, "model", "remove", name) as terminal:
        terminal.until("Delete the files of")
        terminal.type("n\n")
        assert terminal.ended() != 0
    assert stored.exists()
    outcome = cli_in_a_pipe(home, "model", "remove", name, "--yes")
    assert outcome.code == 0
    assert not stored.exists()


def test_a_command_that_needs_the_service_starts_it_and_says_so(home):
    outcome = cli_in_a_pipe(home, "model", "run", "foundry-demo", "What are you?")
    assert outcome.code == 0
    assert "foundry" in outcome.out.lower()
    assert "Starting the Foundry service in the background" in outcome.err
    assert "fastapi-foundry service stop" in outcome.err
    assert "demonstration" in outcome.err
    assert cli_in_a_pipe(home, "service", "status").code == 0


def test_chat_answers_a_prompt_from_the_command_line_and_from_a_pipe(service):
    answer = cli_in_a_pipe(service.home, "chat", "What are you?", "--json").json
    assert answer["content"]
    assert answer["demonstration"] is True
    assert answer["usage"]["completion_tokens"] > 0
    piped = cli_in_a_pipe(service.home, "chat", text="What are you?\n")
    assert piped.code == 0
    assert piped.out.strip()
    assert "is a demonstration" in piped.err


def test_chat_with_an_unknown_model_is_code_4(service):
    assert cli_in_a_pipe(service.home, "chat", "--model", "nope", "hi").code == 4


def test_chat_uses_a_gateway_on_whatever_port_it_listens(home):
    with gateway_process(home, arguments=["--port", "0"]) as gateway:
        assert json.loads((home / "gateway.json").read_bytes())["url"] == gateway.url
        assert cli_in_a_pipe(home, "chat", "What are you?").code == 0
        status = eventually_sync(lambda: healthy(home), timeout_s=20)
        assert status["gateway"]["url"] == gateway.url
        assert [step["outcome"] for step in status["discovery"]]
        requests = (home / "logs" / "api-requests.log").read_text()
    assert "/v1/chat/completions" in requests
    assert not (home / "gateway.json").exists()


def healthy(home: Path) -> dict[str, Any] | None:
    status: dict[str, Any] = cli_in_a_pipe(home, "status", "--json").json
    return status if status["gateway"].get("status") == "healthy" else None


def test_an_interactive_chat_remembers_forgets_and_ends(service):
    with cli_on_a_terminal(service.home, "chat") as terminal:
        terminal.until("Talking to foundry-demo:1")
        terminal.until("is a demonstration")
        terminal.until("> ")
        terminal.type("What are you?\r")
        terminal.until(r"\(\d+ tokens, \d+ tokens/s\)")
        terminal.until("> ")
        terminal.type("/model nope\r")
        terminal.until("'nope' does not exist")
        terminal.type("/model foundry-demo\r")
        terminal.until("Now talking to foundry-demo:1")
        terminal.type("/clear\r")
        terminal.until("forgotten")
        terminal.type("/what\r")
        terminal.until("/exit ends it")
        terminal.interrupt_until("Ctrl-D ends the chat")
        terminal.type("/exit\r")
        assert terminal.ended() == 0


def test_ctrl_c_stops_an_answer_and_the_chat_goes_on(service, tmp_path):
    directory = make_endless_model(tmp_path / "endless")
    assert cli_in_a_pipe(service.home, "model", "register", directory, "--name", "endless").code == 0
    with cli_on_a_terminal(service.home, "chat", "--model", "endless") as terminal:
        terminal.until("> ")
        terminal.type("What are you?\r")
        terminal.until("foundry")
        terminal.type("\x03")
        terminal.until(r"\(stopped\)")
        terminal.until("> ")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert "Traceback" not in terminal.screen


def test_ctrl_c_ends_a_single_answer_with_code_130(service, tmp_path):
    directory = make_endless_model(tmp_path / "endless-too")
    assert cli_in_a_pipe(service.home, "model", "register", directory, "--name", "endless-too").code == 0
    with cli_on_a_terminal(service.home, "chat", "--model", "endless-too", "What are you?") as terminal:
        terminal.until("foundry")
        terminal.type("\x03")
        assert terminal.ended() == 130
        assert "Traceback" not in terminal.screen


def test_a_table_on_a_terminal_shows_whole_names(service):
    with cli_on_a_terminal(service.home, "model", "list", env={"COLUMNS": "60"}) as terminal:
        assert terminal.ended() == 0
        assert "foundry-demo:1" in terminal.screen
