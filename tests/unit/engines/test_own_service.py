from __future__ import annotations

import os
import sys
from pathlib import Path

from fastapi_foundry.engines.own_service import OwnService
from fastapi_foundry.settings import FoundryServiceSettings, LoggingSettings, Settings, load_settings


class Records:
    """Stands in for the module's logger."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, object]]] = []

    def info(self, message: str, **fields: object) -> None:
        self.entries.append((message, fields))

    warning = info


def test_service_gets_the_settings_that_the_gateway_was_given(tmp_path):
    settings = Settings(
        home=tmp_path / "home",
        foundry_service=FoundryServiceSettings(
            port=50555, offline=True, max_loaded_models=7, catalog_urls=["http://127.0.0.1:1/a,b"], load_timeout_s=2.5
        ),
        logging=LoggingSettings(mode="dev", dir=tmp_path / "logs"),
    )
    # What the gateway was started with says something else; flags had the last word.
    inherited = {"FOUNDRY_PORT": "1", "FOUNDRY_OFFLINE": "0", "FOUNDRY_HOME": "/elsewhere", "PATH": os.environ["PATH"]}
    service = OwnService(settings, environ=inherited)
    received = load_settings(environ=service._env)
    assert received.home == settings.home
    assert received.foundry_service == settings.foundry_service
    assert received.logging == settings.logging
    assert service._env["PATH"] == os.environ["PATH"]


def test_secrets_of_the_gateway_stay_with_the_gateway(tmp_path):
    engines = [{"name": "lab", "url": "http://127.0.0.1:1", "api_key_env": "LAB_KEY"}]
    settings = load_settings(None, {"HOME": str(tmp_path)}, {"engines": engines})
    secrets = {
        "FOUNDRY_ADMIN_KEY": "x" * 40,
        "FOUNDRY_ADMIN_KEY_FILE": "/run/x",
        "FOUNDRY_DATABASE_URL": "postgresql://u:geheim@h/db",
        "FASTAPI_FOUNDRY__STORAGE__URL": "postgresql://u:geheim@h/db",
        "LAB_KEY": "geheim",
        "LAB_KEY_FILE": "/run/y",
    }
    received = OwnService(settings, environ={**secrets, "PATH": "/bin"})._env
    assert received["PATH"] == "/bin"
    assert not secrets.keys() & received.keys()
    assert "geheim" not in str(received)


def test_service_is_started_as_a_supervised_module_with_the_same_file():
    service = OwnService(Settings(), Path("/etc/foundry.json"), environ={})
    assert service._argv == [
        sys.executable,
        "-m",
        "fastapi_foundry.daemon",
        "--supervised",
        "--config",
        "/etc/foundry.json",
    ]


def test_stderr_of_the_service_cannot_fill_the_log(monkeypatch):
    records, now = Records(), 0.0
    monkeypatch.setattr("fastapi_foundry.engines.own_service.logger", records)
    service = OwnService(Settings(), environ={}, clock=lambda: now)
    for number in range(1000):
        service._log_line(f"line {number}")
    assert len(records.entries) == 50
    now = 11.0
    service._log_line("later")
    assert records.entries[-2:] == [("service stderr shortened", {"lines": 950}), ("service stderr", {"line": "later"})]
