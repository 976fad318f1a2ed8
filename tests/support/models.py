"""Model directories for tests, made from the demo model that ships with the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fastapi_foundry

__all__ = ["DEMO_DIRECTORY", "make_endless_model"]

DEMO_DIRECTORY = Path(fastapi_foundry.__file__).parent / "demo_model"


def make_endless_model(directory: Path) -> Path:
    """A copy of the demo model that never ends by itself, so that a test can act in mid-stream.

    Its end-of-text token is one that an answer does not contain, hence it runs to its token limit.
    """
    shutil.copytree(DEMO_DIRECTORY, directory)
    config_path = directory / "genai_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["model"]["eos_token_id"] = [config["model"]["vocab_size"] - 1]
    config_path.write_text(json.dumps(config), encoding="utf-8")
    return directory
