from __future__ import annotations

from pathlib import Path

import pytest

from fastapi_foundry.bootstrap import build_engine
from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings import load_settings


def test_a_key_that_is_not_set_is_named_by_the_place_of_its_engine(tmp_path: Path):
    engines = [
        {"name": "first", "url": "http://127.0.0.1:1"},
        {"name": "lab", "url": "http://127.0.0.1:2", "api_key_env": "NO_SUCH_KEY_HERE"},
    ]
    settings = load_settings(environ={"HOME": str(tmp_path)}, overrides={"engines": engines})
    with pytest.raises(ConfigurationError, match="NO_SUCH_KEY_HERE is not set") as caught:
        build_engine(settings)
    assert caught.value.key == "engines.1.api_key_env"
