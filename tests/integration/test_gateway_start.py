"""How the gateway starts: what has begun by the time of the ready line, and what was put off until it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fastapi_foundry.app import create_app
from tests.support.gateway import gateway_settings
from tests.support.http import ask
from tests.support.processes import children_of, gateway_process, product_environment

NO_SERVICE = {"FASTAPI_FOUNDRY__FOUNDRY_SERVICE__START": "never", "FASTAPI_FOUNDRY__FOUNDRY_AI__DISCOVERY": "false"}
# The first line on stdout is the ready line; by then the collector must be at work again.
COLLECTOR = """
import gc, os, sys
from fastapi_foundry.cli.main import run
def write(text):
    os.write(1, f"{gc.isenabled()} {gc.get_freeze_count() > 10_000}".encode())
    os._exit(0)
sys.stdout.write = write
run(["serve", "--json", "--port", "0"])
"""


def test_the_service_is_on_its_way_before_the_gateway_is_ready(tmp_path: Path) -> None:
    with gateway_process(tmp_path / "home", arguments=["--port", "0"]) as gateway:
        assert any("fastapi_foundry.daemon" in child.cmdline() for child in children_of(gateway.pid))


def test_a_start_that_fails_ends_the_service_that_it_has_begun(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "foundry.db").write_bytes(b"no database" * 1000)
    command = [sys.executable, "-m", "fastapi_foundry", "serve", "--port", "0"]
    done = subprocess.run(
        command, env=product_environment(home), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert done.stderr.count("\n") == 1
    log = (home / "logs" / "fastapi-foundry.log").read_text(encoding="utf-8")
    assert "service ended" in log
    assert not (home / "daemon.json").exists()


def test_garbage_is_collected_in_a_gateway_that_is_ready(tmp_path: Path) -> None:
    env = product_environment(tmp_path, NO_SERVICE)
    out = subprocess.run(
        [sys.executable, "-c", COLLECTOR], env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert out.stdout == "True True"


def test_the_document_of_the_api_is_whole_although_its_models_were_not_built_at_the_start(tmp_path: Path) -> None:
    with gateway_process(tmp_path / "home", arguments=["--port", "0"], env=NO_SERVICE) as gateway:
        assert ask(gateway.url, "/openapi.json").json == create_app(gateway_settings(tmp_path / "other")).openapi()
