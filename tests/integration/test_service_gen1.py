"""Programs written for Foundry Local 0.x against the service: the requests that its SDKs make, byte for byte.

The SDKs themselves cannot be installed beside ``foundry-local-sdk`` 2, whose name they share. What they send and what
they insist on was read from the Python SDK 0.5.1 and the JavaScript SDK 0.5.0, and run against the service by hand.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import fastapi_foundry
from tests.support.http import Answer, ask, chat_body
from tests.support.processes import ProductProcess, service_process

DEMO = Path(fastapi_foundry.__file__).parent / "demo_model"
PYTHON_SDK = {
    "User-Agent": "foundry-local-python-sdk/0.5.1",
    "Accept": "*/*",
    "Accept-Encoding": "gzip, deflate",
    "Connection": "keep-alive",
}
# Node's fetch adds the mode, and neither an Origin nor Sec-Fetch-Site.
JS_SDK = {"Accept": "*/*", "Accept-Language": "*", "Sec-Fetch-Mode": "cors", "User-Agent": "node"}
# Nobody answers on this address, which is reserved for documentation.
DEAD_CATALOG = "http://192.0.2.1/asset-gallery/v1.0/models"
ONLINE = [
    {"id": "Away-generic-cpu:1", "alias": "away", "size_mb": 812.4, "task": "chat-completion", "device": "CPU"},
    {"id": "Here-generic-gpu:2", "alias": "here", "publisher": "Somebody", "license": "MIT", "device": "GPU"},
    {"id": "Half-generic-cpu:3", "alias": "half", "device": "CPU"},
    {"id": "Odd-npu:4", "alias": None, "size_mb": None, "device": "NPU", "license": None, "tool_calling": None},
    {"id": "Unknown-device:5", "alias": "unknown-device", "device": "TPU"},
]
# The strictest of the SDKs for each field: Python's for most, Rust's for the two at the end, where others allow null.
FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "displayName": str,
    "modelType": str,
    "providerType": str,
    "uri": str,
    "version": str,
    "promptTemplate": (dict, type(None)),
    "publisher": str,
    "task": str,
    "runtime": dict,
    "fileSizeMb": int,
    "modelSettings": dict,
    "alias": str,
    "supportsToolCalling": bool,
    "license": str,
    "licenseDescription": str,
    "parentModelUri": str,
    "maxOutputTokens": int,
    "minFLVersion": str,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductProcess]:
    """Offline, with a list of the online catalogue from an earlier day, one of its models whole and one half here."""
    home = tmp_path_factory.mktemp("gen1-home")
    (home / "catalog-cache.json").write_text(json.dumps({"fetched_at": 1_700_000_000.0, "models": ONLINE}))
    for name in ("Here-generic-gpu-v2", "Half-generic-cpu-v3", "broken-v1"):
        shutil.copytree(DEMO, home / "models" / name, ignore=shutil.ignore_patterns("inference_model.json"))
    (home / "models" / "Half-generic-cpu-v3" / "download.tmp").touch()
    (home / "models" / "broken-v1" / "model.onnx").unlink()
    with service_process(home) as process:
        yield process


@pytest.fixture
def unreachable(foundry_home: Path) -> Iterator[ProductProcess]:
    """A service that may dial out, on a network where its catalogue never answers."""
    env = {"FOUNDRY_OFFLINE": "0", "FASTAPI_FOUNDRY__FOUNDRY_SERVICE__CATALOG_URLS": json.dumps([DEAD_CATALOG])}
    with service_process(foundry_home, env=env) as process:
        yield process


def listed(service: ProductProcess) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in ask(service.url, "/foundry/list", headers=PYTHON_SDK).json}


def loaded(service: ProductProcess) -> list[str]:
    return list(ask(service.url, "/openai/loadedmodels", headers=PYTHON_SDK).json)


def download_body(model_id: str) -> dict[str, Any]:
    """What both SDKs send for an entry of the list; Python sends the token as null, JavaScript leaves it out."""
    model = {"Name": model_id, "Uri": "", "Publisher": "", "ProviderType": "AzureFoundryLocal", "PromptTemplate": None}
    return {"model": model, "token": None, "IgnorePipeReport": True}


def end_of(answer: Answer) -> dict[str, Any]:
    """The JSON at the end of a download's lines, found as the Python SDK finds it."""
    lines = answer.body.decode().splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("{"))
    return dict(json.loads("".join(lines[start:])))


class TestList:
    def test_every_entry_has_what_the_strictest_sdk_wants(self, service: ProductProcess):
        entries = ask(service.url, "/foundry/list", headers=PYTHON_SDK).json
        assert isinstance(entries, list)
        for entry in entries:
            assert set(entry) == set(FIELDS)
            for field, kind in FIELDS.items():
                assert isinstance(entry[field], kind), (entry["name"], field)
            assert type(entry["fileSizeMb"]) is int
            assert entry["runtime"]["deviceType"] in {"CPU", "GPU", "NPU"}
            assert entry["runtime"]["executionProvider"].endswith("ExecutionProvider")
            assert entry["alias"]

    def test_it_holds_what_is_here_before_what_the_catalogue_has_besides(self, service: ProductProcess):
        assert list(listed(service)) == [
            "foundry-demo:1",
            "Here-generic-gpu:2",
            "Away-generic-cpu:1",
            "Half-generic-cpu:3",
            "Odd-npu:4",
            "Unknown-device:5",
            "broken:1",
        ]

    def test_a_local_model_tells_what_its_files_say(self, service: ProductProcess):
        demo = listed(service)["foundry-demo:1"]
        assert demo["alias"] == demo["displayName"] == "foundry-demo"
        assert demo["version"] == "1"
        assert demo["task"] == "chat-completion"
        assert demo["supportsToolCalling"] is True
        assert demo["maxOutputTokens"] == 4096
        assert 0 < demo["fileSizeMb"] <= 8
        assert demo["license"] == "MIT"
        assert demo["runtime"] == {"deviceType": "CPU", "executionProvider": "CPUExecutionProvider"}

    def test_a_model_of_the_catalogue_keeps_its_alias_and_device_once_it_is_here(self, service: ProductProcess):
        here = listed(service)["Here-generic-gpu:2"]
        assert here["alias"] == "here"
        assert here["publisher"] == "Somebody"
        assert here["providerType"] == "AzureFoundry"
        assert here["runtime"] == {"deviceType": "GPU", "executionProvider": "WebGpuExecutionProvider"}

    def test_what_the_catalogue_does_not_say_is_empty_and_not_null(self, service: ProductProcess):
        odd = listed(service)["Odd-npu:4"]
        assert (odd["alias"], odd["license"], odd["fileSizeMb"]) == ("Odd-npu", "", 0)
        assert odd["supportsToolCalling"] is False
        assert odd["runtime"]["deviceType"] == "NPU"
        assert listed(service)["Unknown-device:5"]["runtime"]["deviceType"] == "CPU"
        assert listed(service)["Away-generic-cpu:1"]["fileSizeMb"] == 813

    def test_cached_models_are_those_whose_files_are_complete(self, service: ProductProcess):
        assert ask(service.url, "/openai/models", headers=JS_SDK).json == ["foundry-demo:1", "Here-generic-gpu:2"]

    def test_status_names_the_model_directory_and_the_address(self, service: ProductProcess):
        status = ask(service.url, "/openai/status", headers=JS_SDK).json
        assert status["modelDirPath"] == str(service.home / "cache" / "models")
        assert status["endpoints"] == [service.url]
        assert status["pipeName"] is None


class TestLoad:
    def test_the_first_lines_of_a_python_program_lead_to_an_answer(self, service: ProductProcess):
        """``FoundryLocalManager("foundry-demo")``, then the OpenAI client with its key, then an unload."""
        model_id = next(name for name, entry in listed(service).items() if entry["alias"] == "foundry-demo")
        assert model_id in ask(service.url, "/openai/models", headers=PYTHON_SDK).json
        assert ask(service.url, f"/openai/load/{model_id}?ttl=600&ep=", headers=PYTHON_SDK).status == 200
        assert loaded(service) == [model_id]
        key = {"Authorization": "Bearer OPENAI_API_KEY"}
        answer = ask(service.url, "/v1/chat/completions", chat_body(max_tokens=3) | {"model": model_id}, headers=key)
        assert answer.json["model"] == model_id
        assert ask(service.url, f"/openai/unload/{model_id}?force=false", headers=PYTHON_SDK).status == 200
        assert loaded(service) == []

    def test_a_javascript_program_loads_and_unloads(self, service: ProductProcess):
        assert ask(service.url, "/openai/load/foundry-demo:1?ttl=600", headers=JS_SDK).json["status"] == "loaded"
        assert ask(service.url, "/openai/load/foundry-demo:1", headers=JS_SDK).json["status"] == "already_loaded"
        assert ask(service.url, "/openai/unload/foundry-demo:1?force=true", headers=JS_SDK).json["status"] == "unloaded"
        assert ask(service.url, "/openai/unload/foundry-demo:1?force=True", headers=JS_SDK).status == 200
        assert loaded(service) == []

    def test_ids_may_be_encoded_and_hold_a_slash(self, service: ProductProcess, tmp_path: Path):
        own = tmp_path / "own"
        shutil.copytree(DEMO, own)
        # The engine loads no id with a slash, so what is looked at is which model was understood.
        (service.home / "registered.json").write_text(json.dumps({"models": {"team/own:7": str(own)}}))
        refused = ask(service.url, "/openai/load/team/own:7")
        assert (refused.status, refused.error["code"]) == (400, "model_files_invalid")
        assert "'team-own:7'" in refused.error["message"]
        for path in ("team%2Fown%3A7?force=false", "team/own:7", "team%2fown"):
            assert ask(service.url, f"/openai/unload/{path}").json == {"status": "not_loaded", "model": "team/own:7"}
        assert ask(service.url, "/models/remove", {"model": "team/own:7"}).status == 200
        assert ask(service.url, "/openai/load/foundry-demo%3A1?ttl=0&ep=cpu").json["model"] == "foundry-demo:1"
        assert ask(service.url, "/openai/unload/foundry%2Ddemo%3A1").json["status"] == "unloaded"

    def test_a_model_that_must_be_downloaded_first_is_told_in_the_words_that_sdks_look_for(
        self, service: ProductProcess
    ):
        for route in ("load", "unload"):
            for name in ("Away-generic-cpu:1", "away"):
                refused = ask(service.url, f"/openai/{route}/{name}?ttl=600&ep=", headers=PYTHON_SDK)
                assert refused.status == 400
                assert refused.error["code"] == "model_not_cached"
                assert f"No OpenAIService provider found for modelName:{name}" in refused.body.decode()
                assert "download it first" in refused.error["message"]

    def test_an_unknown_model_is_404(self, service: ProductProcess):
        for route in ("load", "unload"):
            refused = ask(service.url, f"/openai/{route}/nobody:1")
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")
            assert "nobody:1" in refused.error["message"]

    @pytest.mark.parametrize(
        ("model", "lacks"), [("Half-generic-cpu:3", "download.tmp"), ("half", "download.tmp"), ("broken", "model.onnx")]
    )
    def test_a_model_whose_files_are_incomplete_says_what_is_missing(
        self, service: ProductProcess, model: str, lacks: str
    ):
        refused = ask(service.url, f"/openai/load/{model}")
        assert refused.status == 400
        assert lacks in refused.error["message"]
        assert str(service.home) not in refused.body.decode()

    @pytest.mark.parametrize(
        ("path", "param"),
        [
            ("/openai/load/foundry-demo?ttl=-1", "ttl"),
            ("/openai/load/foundry-demo?ttl=1.5", "ttl"),
            ("/openai/load/foundry-demo?ttl=soon", "ttl"),
            ("/openai/load/foundry-demo?ttl=%D9%A1", "ttl"),
            ("/openai/unload/foundry-demo?force=maybe", "force"),
        ],
    )
    def test_what_a_parameter_cannot_be_is_refused(self, service: ProductProcess, path: str, param: str):
        refused = ask(service.url, path)
        assert (refused.status, refused.error["param"]) == (400, param)
        assert loaded(service) == []


class TestWhoMayAsk:
    @pytest.mark.parametrize("path", ["/openai/load/foundry-demo:1", "/openai/unload/foundry-demo:1"])
    @pytest.mark.parametrize(
        ("method", "headers"),
        [
            ("GET", {"Origin": "http://127.0.0.1:9696"}),
            ("GET", {"Origin": "null"}),
            ("GET", {"Host": "evil.example:50477"}),
            ("GET", {"Sec-Fetch-Site": "cross-site"}),
            ("HEAD", {}),
        ],
    )
    def test_a_web_page_cannot_load_or_unload(
        self, service: ProductProcess, path: str, method: str, headers: dict[str, str]
    ):
        assert ask(service.url, path, method=method, headers=headers).status == 403
        assert loaded(service) == []

    def test_a_web_page_cannot_download(self, service: ProductProcess):
        headers = {"Origin": "http://127.0.0.1:9696"}
        assert ask(service.url, "/openai/download", download_body("foundry-demo:1"), headers=headers).status == 403

    @pytest.mark.parametrize("path", ["/foundry/list", "/openai/status", "/openai/models", "/openai/loadedmodels"])
    def test_a_name_that_was_bound_to_loopback_reads_nothing(self, service: ProductProcess, path: str):
        assert ask(service.url, path, headers={"Host": "evil.example"}).status == 403
        assert ask(service.url, path, {}).status == 405


class TestDownload:
    def test_a_model_that_is_here_ends_in_success(self, service: ProductProcess):
        answer = ask(service.url, "/openai/download", download_body("foundry-demo:1"), headers=PYTHON_SDK)
        assert answer.status == 200
        assert re.search(r"(\d+(?:\.\d+)?)%", answer.body.decode().splitlines()[0])
        assert end_of(answer) == {"success": True, "errorMessage": None}

    def test_the_json_arrives_apart_from_the_lines_before_it(self, service: ProductProcess):
        """The JavaScript SDK takes what arrives together for one line."""
        parts = urlsplit(service.url)
        body = json.dumps(download_body("foundry-demo:1")).encode()
        head = (
            f"POST /openai/download HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        pieces = []
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as sock:
            sock.sendall(head.encode() + body)
            while piece := sock.recv(65536):
                pieces.append(piece)
        assert any(re.match(rb"[0-9a-f]+\r\n\{\"success\":true", piece) for piece in pieces), pieces

    @pytest.mark.parametrize(
        "body",
        [
            {"model": "foundry-demo:1"},
            {"model": "foundry-demo", "ignorePipeReport": True},
            {"Model": {"name": "foundry-demo:1"}, "Token": ""},
        ],
    )
    def test_other_forms_of_the_request_mean_the_same(self, service: ProductProcess, body: dict[str, Any]):
        assert end_of(ask(service.url, "/openai/download", body))["success"] is True

    @pytest.mark.parametrize("body", [{}, {"model": None}, {"model": {"Uri": "x"}}, {"model": {"Name": " "}}, b"{"])
    def test_a_request_that_names_no_model_is_refused(self, service: ProductProcess, body: Any):
        refused = ask(service.url, "/openai/download", body)
        assert refused.status == 400
        assert refused.json["success"] is False
        assert refused.json["errorMessage"] == refused.error["message"]

    def test_offline_the_python_sdk_finds_the_reason_although_it_ignores_the_status(self, service: ProductProcess):
        refused = ask(service.url, "/openai/download", download_body("Away-generic-cpu:1"), headers=PYTHON_SDK)
        assert (refused.status, refused.error["code"]) == (503, "catalog_unavailable")
        end = end_of(refused)
        assert end["success"] is False
        assert "FOUNDRY_OFFLINE" in end["errorMessage"]


class TestUnreachable:
    def test_no_request_waits_for_the_network(self, unreachable: ProductProcess):
        for path in ("/foundry/list", "/openai/status", "/openai/models", "/openai/loadedmodels", "/foundry/list"):
            started = time.monotonic()
            assert ask(unreachable.url, path).status == 200
            assert time.monotonic() - started < 0.5

    def test_a_download_that_fails_on_the_way_says_why(self, unreachable: ProductProcess):
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(ask, unreachable.url, "/openai/download", download_body("phi-4-mini:1"))
            while not ask(unreachable.url, "/status").json["downloads"]:
                assert not pending.done()
            ask(unreachable.url, "/models/download/cancel", {"model": "phi-4-mini:1"})
            answer = pending.result(10)
        assert answer.status == 200
        end = end_of(answer)
        assert end["success"] is False
        # The Python SDK shows the one, the JavaScript SDK the other.
        assert "cancelled" in end["errorMessage"]
        assert end["error"] == end["errorMessage"]
