"""docs/configuration.md and config.example.json say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import describe_settings, load_settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_.]+)` \|(.*)\|$", re.MULTILINE)


def documented() -> dict[str, list[str]]:
    return {key: [cell.strip() for cell in rest.split(" | ")] for key, rest in ROW.findall(PAGE)}


def test_every_setting_is_documented_and_nothing_else():
    assert sorted(documented()) == sorted(setting.key for setting in describe_settings())


@pytest.mark.parametrize("setting", describe_settings(), ids=lambda setting: setting.key)
def test_the_row_of_a_setting_is_true(setting):
    kind, default, environment, description = documented()[setting.key]
    shown = setting.default if setting.key == "home" else json.dumps(setting.default)
    assert kind == setting.type
    assert default == ("unset" if setting.default is None else f"`{shown}`")
    assert environment == ", ".join(f"`{name}`" for name in setting.environment)
    assert description == setting.description
    assert len(setting.description) > 10


def test_the_example_holds_valid_settings_with_the_defaults():
    path = ROOT / "config.example.json"
    environ = {"HOME": "/nowhere", "USERPROFILE": "/nowhere"}
    assert load_settings(path, environ) == load_settings(environ=environ)


def test_the_examples_on_the_page_are_true(tmp_path):
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "config.json"
    path.write_text(example, encoding="utf-8")
    environ = {"HOME": "/nowhere", "USERPROFILE": "/nowhere"}
    assert load_settings(path, environ).fastapi_server.port == 9700
    path.write_text('{"fastapi_server": {"prot": 1}}', encoding="utf-8")
    for given, environment in ((path, environ), (None, environ | {"API_PORT": "x"})):
        with pytest.raises(ConfigurationError) as caught:
            load_settings(given, environment)
        assert caught.value.message.replace(str(tmp_path) + "/", "") in PAGE
