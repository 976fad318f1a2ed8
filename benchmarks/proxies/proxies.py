"""The proxies: how each is configured and started in front of the stub, alone in its process tree, on one core.

All get the same: one worker, requests of any key, no log of requests. Our gateway alone does its daily work: it asks for
a key that has all five limits, the server has the same five, each request is counted, recorded and logged to its files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.proxies.load import Target, first_answer
from benchmarks.proxies.processes import PROXY_CORE, ROOT, Tree, environment, free_port, own_environment
from benchmarks.proxies.stub import MODEL
from benchmarks.proxies.tools import program

START_S = 90.0
LIMITS = {
    "requests_per_minute": 10**9,
    "tokens_per_minute": 10**12,
    "concurrent_requests": 10**6,
    "tokens_per_day": 10**14,
    "tokens_per_month": 10**15,
}
"""None of them is ever reached."""

NGINX = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log stderr crit; worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 100000000; client_body_buffer_size 64k;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """A kind of proxy.

    Attributes:
        command: From its program, a fresh directory, the stub's port and the port to listen on: what to run, and with
            which environment.
        key: From the same environment, the key to show, made before the start; None where there are no keys.
    """

    name: str
    command: Callable[[Path, Path, int, int], tuple[list[str | Path], dict[str, str]]]
    key: Callable[[dict[str, str]], str] | None = None


@dataclass(frozen=True)
class Running:
    """A started proxy; ``target`` is where to send requests."""

    tree: Tree
    target: Target


@contextmanager
def started(proxy: Proxy, tools: Path, home: Path, engine: int, *, keys: bool = True) -> Iterator[Running]:
    """The proxy's processes, ended with the block; whether it answers already is for the caller to see.

    Args:
        proxy: Which.
        tools: Where further programs are installed, if they are not yet.
        home: A directory of its own, fresh.
        engine: The stub's port.
        keys: Make a key first, which also makes our database; without, the gateway finds its home as on the first day.
    """
    port = free_port()
    command, env = proxy.command(program(proxy.name, tools), home, engine, port)
    key = "none"
    if proxy.key and keys:
        env["FASTAPI_FOUNDRY__SECURITY__REQUIRE_KEY"] = "always"
        key = proxy.key(env)
    tree = Tree(command, core=PROXY_CORE, log=home / "output.txt", env=env, cwd=home)
    try:
        yield Running(tree, Target(proxy.name, port, tree.cpu_s, key))
    finally:
        tree.end()


async def answering(running: Running) -> None:
    """Wait for its first answer.

    Raises:
        LoadError: None came, or it has ended.
    """
    await first_answer(running.target, within_s=START_S, alive=lambda: running.tree.popen.poll() is None)
    running.tree.look()


def _nginx(binary: Path, home: Path, engine: int, port: int) -> tuple[list[str | Path], dict[str, str]]:
    (home / "nginx.conf").write_text(NGINX.format(home=home, engine=engine, port=port))
    return [binary, "-e", "stderr", "-p", home, "-c", home / "nginx.conf"], environment()


def _gateway(binary: Path, home: Path, engine: int, port: int) -> tuple[list[str | Path], dict[str, str]]:
    env = {
        "FOUNDRY_HOME": str(home / "foundry"),
        "HOME": str(home),
        "FOUNDRY_BASE_URL": f"http://127.0.0.1:{engine}",
        "FOUNDRY_DEFAULT_MODEL": MODEL,
        "FASTAPI_FOUNDRY__FOUNDRY_AI__PRELOAD": "false",
        "FASTAPI_FOUNDRY__FOUNDRY_AI__PROBE_ENGINES": "false",
    }
    env |= {f"FASTAPI_FOUNDRY__LIMITS__{name.upper()}": str(most) for name, most in LIMITS.items()}
    command: list[str | Path] = [binary, "-m", "fastapi_foundry", "serve", "--json", "--port", str(port)]
    return command, own_environment(env)


def _gateway_key(env: dict[str, str]) -> str:
    flags = [part for name, limit in LIMITS.items() for part in (f"--{name.replace('_', '-')}", str(limit))]
    command = [sys.executable, "-m", "fastapi_foundry", "keys", "create", "benchmark", "--admin", "--json", *flags]
    done = subprocess.run(command, env=env, cwd=ROOT, check=True, capture_output=True)
    return str(json.loads(done.stdout)["key"])


def _vllm_router(binary: Path, home: Path, engine: int, port: int) -> tuple[list[str | Path], dict[str, str]]:
    del home
    command: list[str | Path] = [binary, "--worker-urls", f"http://127.0.0.1:{engine}"]
    command += ["--policy", "round_robin", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    command += ["--max-concurrent-requests", "4096", "--queue-size", "4096"]
    return command, environment()


def _litellm(binary: Path, home: Path, engine: int, port: int) -> tuple[list[str | Path], dict[str, str]]:
    model = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": MODEL, "litellm_params": model}], "litellm_settings": {"telemetry": False}}
    (home / "litellm.json").write_text(json.dumps(config))  # JSON is YAML, too
    command: list[str | Path] = [binary, "--config", home / "litellm.json", "--host", "127.0.0.1", "--port", str(port)]
    # Without the first it would fetch prices from the network at each start.
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    env["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = (
        "true"  # on loopback, for a minute, without anything to guard
    )
    path = os.pathsep.join((str(binary.parent), os.environ.get("PATH", "")))
    return [*command, "--num_workers", "1"], environment({**env, "PATH": path, "HOME": str(home)})


PROXIES = {
    proxy.name: proxy
    for proxy in (
        Proxy("nginx", _nginx),
        Proxy("gateway", _gateway, _gateway_key),
        Proxy("vllm-router", _vllm_router),
        Proxy("litellm", _litellm),
    )
}
