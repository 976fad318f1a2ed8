from __future__ import annotations

import socket
import threading

import pytest

from fastapi_foundry import errors
from fastapi_foundry.cli.http import HttpApi, path_segment
from tests.unit.cli.stub_server import Said, stub_server


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_nothing_listening_is_unavailable_and_names_the_address():
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(errors.EngineUnavailableError, match=url):
        HttpApi(url).get("/status")


def test_a_trailing_v1_is_dropped_from_the_address():
    with stub_server({"GET /status": Said({"ok": True})}) as stub:
        assert HttpApi(f"{stub.url}/v1/").get("/status") == {"ok": True}


def test_silence_is_a_timeout_that_names_its_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = HttpApi(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.05)
        with pytest.raises(errors.EngineTimeoutError, match=r"0\.05 s"):
            api.get("/status")


def test_an_error_answer_becomes_the_fact_behind_it():
    refusal = {"error": {"message": "The model 'x' does not exist.", "code": "model_not_found"}}
    with (
        stub_server({"POST /models/load/x": Said(refusal, 404)}) as stub,
        pytest.raises(errors.ModelNotFoundError, match="does not exist"),
    ):
        HttpApi(stub.url).post("/models/load/x", model="x")


def test_an_answer_that_is_no_json_is_the_servers_failure():
    with stub_server({"GET /": Said(pieces=[b"<html>"])}) as stub, pytest.raises(errors.EngineFailedError):
        HttpApi(stub.url).get("/")


def test_an_answer_cut_short_is_the_servers_failure():
    with (
        stub_server({"GET /": Said(pieces=[b"{}"], content_length=100)}) as stub,
        pytest.raises(errors.EngineFailedError, match="broke"),
    ):
        HttpApi(stub.url).get("/")


def test_another_protocol_on_the_port_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        def talk() -> None:
            connection, _ = other.accept()
            connection.sendall(b"SSH-2.0-other\r\n")
            connection.close()

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(errors.EngineUnavailableError):
            HttpApi(f"http://127.0.0.1:{port}").get("/status")
        thread.join(5)


def test_lines_arrive_one_by_one():
    with (
        stub_server({"POST /x": Said(pieces=[b"one\n", b"two\n\nthree"])}) as stub,
        HttpApi(stub.url).lines("/x", {}) as lines,
    ):
        assert list(lines) == [b"one", b"two", b"", b"three"]


def test_an_error_of_the_reader_of_lines_stays_what_it_is():
    with (
        stub_server({"POST /x": Said(pieces=[b"one\n"])}) as stub,
        pytest.raises(BrokenPipeError),
        HttpApi(stub.url).lines("/x", {}),
    ):
        raise BrokenPipeError


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://127.0.0.1:99999999"])
def test_an_address_that_is_none_is_bad_input(url):
    with pytest.raises((errors.InvalidInputError, errors.EngineUnavailableError)):
        HttpApi(url).get("/")


def test_a_name_becomes_one_segment_of_a_path():
    assert path_segment("a/b c:1?x#y") == "a%2Fb%20c:1%3Fx%23y"
