"""Secrets among the settings: read from files too, and shown nowhere."""

from __future__ import annotations

import os
import threading
import traceback
from collections import Counter
from pathlib import Path

import pytest
from pydantic import SecretStr

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import describe_settings, load_settings
from fastapi_foundry.settings.description import SECRET_TEXT
from fastapi_foundry.settings.secret_files import secret_in_variable
from fastapi_foundry.settings.sources import Given, from_environment

EMPTY = {"HOME": "/nowhere", "USERPROFILE": "/nowhere"}
SECRETS = [setting for setting in describe_settings() if setting.type == SECRET_TEXT]
URL = "postgresql://me:hush-hush@127.0.0.1/foundry"


def words_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_there_are_secrets_and_their_values_are_of_the_type_that_masks_itself():
    assert "storage.url" in {setting.key for setting in SECRETS}
    settings = load_settings(environ=EMPTY | {"FOUNDRY_DATABASE_URL": URL})
    assert isinstance(settings.storage.url, SecretStr)
    assert "hush" not in f"{settings!r} {settings} {settings.model_dump()!r} {settings.model_dump_json()}"


def test_every_setting_that_sounds_like_a_secret_is_one():
    sounding = ("password", "secret", "token", "api_key", "admin_key", "_url_with_password")
    wrong = [s.key for s in describe_settings() if s.key.endswith(sounding) and s.type != SECRET_TEXT]
    assert not wrong


@pytest.mark.parametrize("setting", SECRETS, ids=lambda setting: setting.key)
def test_a_secret_may_be_in_a_file_that_a_variable_names(setting, tmp_path):
    path = tmp_path / "secret"
    path.write_text("\ufeff hush hush \r\n", encoding="utf-8")
    for name in setting.file_environment:
        assert name.endswith("_FILE")
        assert from_environment(EMPTY | {name: str(path)}) == {setting.key: Given("hush hush", name)}


def test_only_secrets_are_read_from_files():
    assert {name for s in describe_settings() if s.type != SECRET_TEXT for name in s.file_environment} == set()
    with pytest.raises(ConfigurationError, match="no such setting"):
        load_settings(environ=EMPTY | {"FASTAPI_FOUNDRY__LOGGING__LEVEL_FILE": "/x"})


def test_no_variable_means_two_things():
    names = Counter(name for s in describe_settings() for name in (*s.environment, *s.file_environment))
    assert {name for name, count in names.items() if count > 1} == set()


def test_the_value_and_its_file_at_the_same_time_are_refused(tmp_path):
    path = tmp_path / "secret"
    path.write_text(URL)
    environ = EMPTY | {"FOUNDRY_DATABASE_URL": URL, "FOUNDRY_DATABASE_URL_FILE": str(path)}
    with pytest.raises(ConfigurationError, match="is set beside FOUNDRY_DATABASE_URL; set one") as caught:
        load_settings(environ=environ)
    assert caught.value.source == "FOUNDRY_DATABASE_URL_FILE"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file"),
        (b"", "holds no text"),
        (b" \n", "holds no text"),
        (b"hush\0hush", "holds no text"),
        (b"hush\xff", "is not UTF-8 text"),
        (b"hush" * 20_000, "is larger than 65536 bytes"),
        (b"hush://hush", "must begin with postgresql://"),
    ],
)
def test_a_file_that_holds_no_secret_is_one_clear_error_that_repeats_nothing(tmp_path, content, reason):
    path = tmp_path / "hush"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ=EMPTY | {"FOUNDRY_DATABASE_URL_FILE": str(path)})
    assert (caught.value.key, caught.value.source) == ("storage.url", "FOUNDRY_DATABASE_URL_FILE")
    assert reason in caught.value.reason
    assert "hush" not in words_of(caught.value)


@pytest.mark.parametrize("named", ["ffk_hushhushhush", "~nobody-hush/x", "hush\0", "/dev/null/hush"])
def test_a_secret_in_the_place_of_the_files_path_is_not_repeated(named):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ=EMPTY | {"FOUNDRY_DATABASE_URL_FILE": named})
    assert "hush" not in words_of(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_serves_as_the_file(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(URL,))
    writer.start()
    settings = load_settings(environ=EMPTY | {"FOUNDRY_DATABASE_URL_FILE": str(path)})
    writer.join()
    assert settings.storage.url.get_secret_value() == URL


def test_a_variable_that_a_setting_names_may_be_a_file_too(tmp_path):
    path = tmp_path / "key"
    path.write_text("hush\n")
    assert secret_in_variable("LAB_KEY", {"LAB_KEY": " hush "}, "k") == "hush"
    assert secret_in_variable("LAB_KEY", {"LAB_KEY_FILE": str(path)}, "k") == "hush"
    assert secret_in_variable("LAB_KEY", {}, "k") is None
    with pytest.raises(ConfigurationError, match="is set beside LAB_KEY"):
        secret_in_variable("LAB_KEY", {"LAB_KEY": "x", "LAB_KEY_FILE": str(path)}, "k")


@pytest.mark.parametrize(
    "content",
    [
        '{"storage": {"url": 1234512345}}',
        '{"storage": {"url": ["hush"]}}',
        '{"storage": ["hush"]}',
        '{"storage": {"url": "hush"}}',
        '{"engines": {"name": "a", "api_key": "hush"}}',
        '{"engines": [{"name": "a", "url": "http://127.0.0.1:1", "api_key": ["hush"]}]}',
        '{"engines": [{"name": "a", "url": "http://127.0.0.1:1", "api_key": 1234512345}]}',
        '{"engines": [{"name": "a", "url": "http://127.0.0.1:1", "headers": {"X-Key": 1234512345}}]}',
        '{"engines": [{"name": "a", "url": "http://127.0.0.1:1", "headers": {"X-Key": "hush\\n"}}]}',
        '{"engines": [{"name": "a", "url": "http://127.0.0.1:1", "headers": ["X-Key: hush"]}]}',
        '{"engines": [{"name": "a", "url": "http://me:hush@127.0.0.1:1"}]}',
    ],
)
def test_a_secret_in_the_wrong_place_or_of_the_wrong_type_is_not_repeated(tmp_path: Path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, EMPTY)
    assert "hush" not in words_of(caught.value)
    assert "12345" not in words_of(caught.value)


def test_the_headers_of_an_engine_are_not_shown(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"engines": [{"name": "a", "url": "http://127.0.0.1:1", "headers": {"X-Key": "hush"}}]}')
    settings = load_settings(path, EMPTY)
    assert settings.engines[0].headers == {"X-Key": "hush"}
    assert "hush" not in repr(settings)
