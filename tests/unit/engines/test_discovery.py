from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import sys
import time
from pathlib import Path

import pytest

from fastapi_foundry.engines.discovery import Discovery, loopback_base_urls
from fastapi_foundry.engines.probe import EngineKind, probe
from tests.support.engine_double import EngineDouble
from tests.support.raw_server import Peer, raw_server

A_GATEWAY = "it is a gateway, not an engine; to use it, add its address to 'engines' in the configuration"

unix_only = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in CLI is a script with a shebang")


@pytest.fixture
async def double():
    async with EngineDouble() as engine:
        yield engine


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.fixture
def look(client, tmp_path, free_port):
    """A discovery that finds nothing unless the test puts something there."""

    def make(*, ports: range | None = None, default_port: int | None = None) -> Discovery:
        return Discovery(
            client,
            home=tmp_path,
            ports=range(free_port, free_port + 1) if ports is None else ports,
            default_port=free_port if default_port is None else default_port,
            probe_timeout_s=0.5,
            path=str(tmp_path / "bin"),
        )

    return make


def write_daemon_file(home: Path, content: object) -> None:
    (home / "daemon.json").write_text(content if isinstance(content, str) else json.dumps(content))


def install_cli(home: Path, script: str) -> None:
    program = home / "bin" / "foundry"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nimport sys, time, os\narguments = sys.argv[1:]\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


async def answer_with(client, status_line: str, headers: str, body: str):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.say(
            f"HTTP/1.1 {status_line}\r\nContent-Length: {len(body)}\r\n{headers}Connection: close\r\n\r\n{body}".encode()
        )

    async with raw_server(serve) as server:
        return await probe(client, server.url, timeout_s=0.5)


@pytest.mark.parametrize("kind", [EngineKind.OURS, EngineKind.GEN3, EngineKind.OPENAI])
async def test_probe_recognises_each_kind(client, kind):
    async with EngineDouble(kind=str(kind)) as double:
        seen = await probe(client, double.url, timeout_s=1)
    assert seen.kind is kind
    assert seen.pid == (None if kind is EngineKind.OPENAI else os.getpid())


@pytest.mark.parametrize(
    ("body", "outcome"),
    [
        ("<html>hello</html>", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "not a list of models"),
        ('{"object": "list", "data": {}}', "not a list of models"),
        ('{"object": "error", "data": []}', "not a list of models"),
        ('{"object": "list", "data": ["x"]}', "something else than models"),
        ('{"object": "list", "data": [{"name": "x"}]}', "something else than models"),
    ],
)
async def test_a_mere_200_is_no_engine(client, body, outcome):
    seen = await answer_with(client, "200 OK", "", body)
    assert seen.kind is None
    assert outcome in seen.outcome


async def test_an_error_status_is_no_engine(client):
    seen = await answer_with(client, "401 Unauthorized", "", '{"object": "list", "data": []}')
    assert (seen.kind, seen.outcome) == (None, "it answers with status 401")


async def test_a_gateway_is_no_engine(client):
    seen = await answer_with(client, "200 OK", "X-FastAPI-Foundry-Role: gateway\r\n", '{"object": "list", "data": []}')
    assert (seen.kind, seen.outcome) == (None, A_GATEWAY)


@pytest.mark.parametrize(
    ("broken", "outcome", "silent"),
    [("stall", "does not answer", True), ("no_http", "does not speak HTTP", False), ("refuse", "closed the", False)],
)
async def test_what_misbehaves_is_no_engine(client, double, broken, outcome, silent):
    double.broken = broken
    seen = await probe(client, double.url, timeout_s=0.2)
    assert seen.kind is None
    assert outcome in seen.outcome
    assert (seen.silent, seen.refused) == (silent, False)


async def test_closed_port_is_refused(client, free_port):
    seen = await probe(client, f"http://127.0.0.1:{free_port}", timeout_s=0.2)
    assert (seen.kind, seen.refused) == (None, True)


async def test_nothing_anywhere_is_found_out_quickly_and_told(look, tmp_path):
    discovery = look()
    began = time.monotonic()
    assert await discovery.find() is None
    assert time.monotonic() - began < 1
    steps = [(step, outcome) for step, _, outcome in discovery.tried]
    assert steps == [
        ("daemon_file", "no such file"),
        ("cli", "not installed"),
        ("scan", "0 of 1 ports accept connections"),
        ("default_port", "connection refused"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        lambda url: {"web_urls": [url], "pid": 1, "product": "fastapi-foundry", "instance_id": "x"},
        lambda url: {"web_urls": [url + "/"], "pid": 999999999},
        lambda url: {"web_urls": ["http://192.0.2.7:80", "http://127.0.0.1:1", url], "pid": None},
        lambda url: {"webUrls": [url.replace("127.0.0.1", "localhost")]},
        lambda url: {"web_urls": url},
        lambda url: {"web_urls": [url.replace("127.0.0.1", "0.0.0.0"), 7, None]},
    ],
    ids=["ours", "stale pid", "several", "other spelling", "bare text", "wildcard"],
)
async def test_daemon_file_leads_to_the_engine(look, double, tmp_path, content):
    write_daemon_file(tmp_path, content(double.url))
    found = await look().find()
    assert found is not None
    assert found.found_by == "daemon_file"
    assert found.url.endswith(f":{double.port}")
    assert found.kind is EngineKind.OURS


@pytest.mark.parametrize(
    "content",
    [
        "",
        "garbage",
        "[]",
        "{}",
        '{"web_urls": []}',
        '{"web_urls": ["http://192.0.2.7:50477"]}',
        '{"web_urls": ["http://127.0.0.1.example.org:50477", "https://127.0.0.1:5", "http://u@127.0.0.1:5"]}',
        '{"web_urls": ["http://127.0.0.1"]}',
        "\xff\xfe",
        '{"web_urls": ["' + "x" * 100_000 + '"]}',
    ],
)
async def test_daemon_file_without_a_usable_address_is_told(look, tmp_path, content):
    write_daemon_file(tmp_path, content)
    discovery = look()
    assert await discovery.find() is None
    step, address, outcome = discovery.tried[0]
    assert (step, address) == ("daemon_file", str(tmp_path / "daemon.json"))
    assert outcome in {"not a JSON object", "it names no address on loopback"}


async def test_stale_daemon_file_is_told_and_passed_over(look, tmp_path, free_port, double):
    write_daemon_file(tmp_path, {"web_urls": [f"http://127.0.0.1:{free_port}"], "pid": 999999999})
    discovery = look(ports=range(double.port, double.port + 1))
    found = await discovery.find()
    assert found is not None
    assert found.found_by == "scan"
    assert discovery.tried[0] == ("daemon_file", f"http://127.0.0.1:{free_port}", "connection refused")


@unix_only
@pytest.mark.parametrize(
    "script",
    [
        "if arguments == ['server', 'status', '--output', 'json']: print('{{\"webUrls\": [\"{url}\"]}}')",
        (
            "if arguments[0] == 'server': sys.exit('unknown command')\n"
            "if arguments == ['service', 'status']: print('\\U0001f7e2 Model management service is running on {url}/openai/status')"
        ),
        "if arguments[0] == 'server': print('{{}}')\nelse: print('running at {url}.', file=sys.stderr)",
    ],
    ids=["second generation", "first generation", "on stderr"],
)
async def test_installed_cli_is_asked_in_the_words_that_it_has(look, double, tmp_path, script):
    install_cli(tmp_path, script.format(url=double.url))
    found = await look().find()
    assert found is not None
    assert (found.found_by, found.url) == ("cli", double.url)


@unix_only
async def test_cli_that_hangs_is_ended(look, tmp_path, monkeypatch):
    monkeypatch.setattr("fastapi_foundry.engines.discovery._CLI_TIMEOUT_S", 0.3)
    pids = tmp_path / "pids"
    install_cli(tmp_path, f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}}\\n'); time.sleep(60)")
    discovery = look()
    async with asyncio.timeout(5):
        assert await discovery.find() is None
    assert [outcome for step, _, outcome in discovery.tried if step == "cli"] == ["no end within 0.3 s"] * 2
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@unix_only
async def test_cli_that_leaves_a_service_behind_is_not_waited_for(look, double, tmp_path):
    background = "import time; time.sleep(5)"
    install_cli(
        tmp_path,
        f"import subprocess; subprocess.Popen([{sys.executable!r}, '-c', {background!r}]); print({double.url!r})",
    )
    async with asyncio.timeout(2):
        found = await look().find()
    assert found is not None
    assert found.found_by == "cli"


@unix_only
@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("sys.exit(3)", "status 3"),
        ("print('not running')", "it names no address on loopback"),
        ("print('http://192.0.2.7:50477')", "it names no address on loopback"),
        ("while True: print('x' * 1000)", "it does not stop talking"),
    ],
)
async def test_cli_that_names_no_address_is_told(look, tmp_path, script, outcome):
    install_cli(tmp_path, script)
    discovery = look()
    assert await discovery.find() is None
    told = [text for step, _, text in discovery.tried if step == "cli"]
    assert told == [outcome] * 2


async def test_scan_finds_the_engine_among_other_servers(look, free_port):
    wrong, right = EngineDouble(), EngineDouble()
    wrong.models = [{"name": "no id"}]
    try:
        await wrong.listen(free_port)
        await right.listen(free_port + 2)
    except OSError:
        pytest.skip("another program has just taken the port")
    async with wrong, right:
        discovery = look(ports=range(free_port, free_port + 10), default_port=1)
        found = await discovery.find()
    assert found is not None
    assert (found.found_by, found.url) == ("scan", f"http://127.0.0.1:{free_port + 2}")
    assert ("scan", f"http://127.0.0.1:{free_port}", "its list holds something else than models") in discovery.tried


async def test_default_port_comes_last(look, double):
    found = await look(ports=range(double.port, double.port + 1), default_port=double.port).find()
    assert found is not None
    assert found.found_by == "default_port"


async def test_daemon_file_beats_the_scan(look, tmp_path):
    async with EngineDouble() as named, EngineDouble() as scanned:
        write_daemon_file(tmp_path, {"web_urls": [named.url]})
        found = await look(ports=range(scanned.port, scanned.port + 1)).find()
    assert found is not None
    assert (found.found_by, found.url) == ("daemon_file", named.url)


def test_addresses_are_read_from_any_text():
    text = """
      {"urls":["http://127.0.0.1:5273/v1","http://localhost:5274"]} see http://[::1]:5275/openai/status,
      http://127.0.0.1:5273/again http://10.0.0.1:5 https://127.0.0.1:6 http://127.0.0.1:99999 http://[::1
    """
    assert loopback_base_urls(text) == ["http://127.0.0.1:5273", "http://localhost:5274", "http://[::1]:5275"]
