"""What a probe makes of gateways, and which version an engine tells it."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from fastapi_foundry.engines.probe import EngineKind, probe
from fastapi_foundry.engines.restart_policy import RestartPolicy
from fastapi_foundry.engines.supervisor import Supervisor
from tests.support.raw_server import Peer, RawServer, raw_server
from tests.support.waiting import eventually

MODELS = {"/v1/models": {"object": "list", "data": [{"id": "m:1"}]}}
ROLE = {"X-FastAPI-Foundry-Role": "gateway"}


@asynccontextmanager
async def answering(
    documents: Mapping[str, object], *, status: int = 200, headers: Mapping[str, str] | None = None
) -> AsyncIterator[RawServer]:
    """A server with these documents and no other route; one that is None is never answered."""

    async def serve(peer: Peer) -> None:
        request = await peer.request()
        server.requests.append(request)
        path = request.split(b" ")[1].decode()
        document = documents.get(path, {})
        if document is None:
            await peer.until_client_left()
        body = json.dumps(document)
        head = [f"HTTP/1.1 {status if path in documents else 404} x", f"Content-Length: {len(body)}"]
        head += [f"{name}: {value}" for name, value in (headers or {}).items()]
        await peer.say(("\r\n".join(head) + "\r\nConnection: close\r\n\r\n" + body).encode())

    async with raw_server(serve) as server:
        yield server


def paths(server: RawServer) -> list[str]:
    return [request.split(b" ")[1].decode() for request in server.requests]


@pytest.mark.parametrize(
    ("documents", "headers", "kind", "version"),
    [
        ({"/api/v1/version": {"name": "fastapi-foundry", "version": "0.1.0"}}, ROLE, EngineKind.GATEWAY, "0.1.0"),
        ({"/api/version": {"version": "0.11.4"}}, {}, EngineKind.OPENAI, "0.11.4"),
        ({"/version": {"version": "0.9.1"}}, {}, EngineKind.OPENAI, "0.9.1"),
        ({"/props": {"build_info": "b5432-1d36b36"}}, {}, EngineKind.OPENAI, "b5432-1d36b36"),
        ({"/version": {"version": 9}, "/props": {"build_info": "a\nb"}}, {}, EngineKind.OPENAI, ""),
        ({}, {}, EngineKind.OPENAI, ""),
        ({"/status": {"product": "fastapi-foundry-service", "version": "0.1.0"}}, {}, EngineKind.OURS, "0.1.0"),
    ],
    ids=["gateway", "Ollama", "vLLM", "llama.cpp", "nonsense", "nobody knows", "ours"],
)
async def test_an_engine_tells_its_version_where_its_kind_does(client, documents, headers, kind, version):
    async with answering(MODELS | documents, headers=headers) as server:
        seen = await probe(client, server.url, timeout_s=1, takes_gateways=True, asks_version=True)
    assert (seen.kind, seen.version) == (kind, version)
    assert len(server.requests) <= 6


async def test_an_engine_that_never_tells_its_version_is_taken_without(client):
    silent = {"/api/version": None, "/version": None, "/props": None}
    began = time.monotonic()
    async with answering(MODELS | silent) as server:
        seen = await probe(client, server.url, timeout_s=0.2, asks_version=True)
    assert (seen.kind, seen.version) == (EngineKind.OPENAI, "")
    assert time.monotonic() - began < 0.5


async def test_a_gateway_is_taken_only_where_one_will_do(client):
    async with answering(MODELS, headers=ROLE) as server:
        assert (await probe(client, server.url, timeout_s=1)).kind is None
        assert (await probe(client, server.url, timeout_s=1, takes_gateways=True)).kind is EngineKind.GATEWAY


@pytest.mark.parametrize(
    ("documents", "status", "outcome"),
    [
        ({"/v1/models": {"object": "list", "data": [1]}}, 200, "something else than models"),
        ({"/v1/models": {"error": {}}}, 503, "status 503"),
        ({"/v1/models": {"error": {}}}, 508, "this gateway itself"),
        ({}, 200, "status 404"),
    ],
)
async def test_the_role_alone_makes_no_gateway(client, documents, status, outcome):
    async with answering(documents, status=status, headers=ROLE) as server:
        seen = await probe(client, server.url, timeout_s=1, takes_gateways=True)
    assert seen.kind is None
    assert outcome in seen.outcome


async def test_the_version_is_asked_for_when_an_engine_is_found_and_not_while_it_is_watched(client):
    policy = RestartPolicy(check_every_s=0.02, check_gap_s=0.0, probe_timeout_s=1.0)
    async with answering(MODELS | {"/props": {"build_info": "b5432"}}) as server:
        supervisor = Supervisor(client, discovery=None, starter=None, base_url=server.url, policy=policy)
        supervisor.start()
        await supervisor.wait_ready(5)
        assert supervisor.version == "b5432"
        await eventually(lambda: paths(server).count("/v1/models") >= 3)
        await supervisor.aclose()
    assert paths(server).count("/props") == 1
    assert supervisor.version == "b5432"
