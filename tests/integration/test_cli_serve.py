"""``fastapi-foundry serve``: its words, its ready line, its end."""

from __future__ import annotations

import re
import signal

from tests.support.cli import cli_in_a_pipe, cli_on_a_terminal
from tests.support.processes import gateway_process


def test_serve_says_where_to_go_and_that_the_demo_is_a_demonstration(foundry_home):
    with cli_on_a_terminal(foundry_home, "serve", "--port", "0") as terminal:
        url = re.split(r"\s+", terminal.until(r"Open\s+http://127\.0\.0\.1:\d+"))[-1]
        terminal.until(re.escape(f"{url}/v1"))
        terminal.until(r"Model\s+foundry-demo:1")
        terminal.until("demonstration")
        terminal.until("Ctrl-C stops it")
        terminal.type("\x03")
        assert terminal.ended() in {0, 130}
        assert "Traceback" not in terminal.screen


def test_serve_ends_in_order_when_told_to(foundry_home):
    with gateway_process(foundry_home, arguments=["--port", "0"]) as gateway:
        assert (foundry_home / "gateway.json").exists()
        gateway.popen.send_signal(signal.SIGTERM)
        gateway.popen.wait(20)
    assert not (foundry_home / "gateway.json").exists()


def test_serve_on_a_taken_port_that_must_not_move_fails_in_one_line(shared_gateway, tmp_path):
    port = shared_gateway.url.rpartition(":")[2]
    env = {"FASTAPI_FOUNDRY__PORT_MANAGEMENT__CONFLICT_RESOLUTION": "fail"}
    outcome = cli_in_a_pipe(tmp_path, "serve", "--port", port, env=env)
    assert outcome.code == 1
    assert port in outcome.err
    assert outcome.err.count("\n") == 1
