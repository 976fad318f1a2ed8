"""With FOUNDRY_OFFLINE=1 no process of the product tries to reach anything beyond the machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.http import ask
from tests.support.trace import foreign_dials, traced_process


@pytest.mark.parametrize(
    ("peer", "loopback", "foreign"),
    [
        ('sa_family=AF_INET, sin_port=htons(443), sin_addr=inet_addr("{}")', "127.0.0.1", "192.0.2.7"),
        ('sa_family=AF_INET6, sin6_port=htons(443), inet_pton(AF_INET6, "{}", &sin6_addr)', "::1", "2001:db8::7"),
    ],
)
def test_the_trace_reader_sees_a_foreign_address(peer: str, loopback: str, foreign: str) -> None:
    local, remote = (f"12 connect(3, {{{peer.format(address)}}}, 16) = -1" for address in (loopback, foreign))
    assert foreign_dials(f"{local}\n{remote}\n") == [remote]


@pytest.mark.strace
def test_gateway_service_and_runner_dial_nobody_when_offline(tmp_path: Path) -> None:
    trace_file = tmp_path / "trace.txt"
    with traced_process(["fastapi_foundry", "serve", "--json"], tmp_path / "home", trace_file) as (url, _):
        body = {"model": "foundry-demo:1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
        assert ask(url, "/v1/chat/completions", body).status == 200
        assert ask(url, "/v1/chat/completions", body | {"model": "phi-4-mini"}).status == 404
        assert ask(url, "/v1/models").status == 200
        time.sleep(2.0)  # the engine's own background work gets time to dial, were it able to
    trace = trace_file.read_text(errors="replace")
    # The watch is worth something only if all three processes were under it and loopback was seen.
    assert "fastapi_foundry.daemon.runner" in trace
    assert trace.count("fastapi_foundry.daemon") > trace.count("fastapi_foundry.daemon.runner")
    assert 'inet_addr("127.0.0.1")' in trace
    assert foreign_dials(trace) == []
