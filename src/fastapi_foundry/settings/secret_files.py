"""Secrets that a file holds, as containers and service managers hand them over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fastapi_foundry.errors import ConfigurationError

__all__ = ["secret_in_file", "secret_in_variable"]

_MAX_BYTES: Final = 65_536


def secret_in_file(path: Path, key: str, source: str) -> str:
    """The text that ``path`` holds, without blanks and line ends around it; blocks for the read of a small file.

    Args:
        path: A file or a pipe; ``~`` is the user's home.
        key: The setting that it is for.
        source: What named the file; stands in the error.

    Raises:
        ConfigurationError: It cannot be read, or holds no text. The message repeats neither its content nor its
            path, in the place of which somebody may have put the secret itself.
    """
    try:
        with path.expanduser().open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no path"
        raise ConfigurationError(key, source, f"the file that it names cannot be read: {why}") from None
    if len(raw) > _MAX_BYTES:
        raise ConfigurationError(key, source, f"the file that it names is larger than {_MAX_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        # Without its cause, whose text would repeat a byte.
        raise ConfigurationError(key, source, "the file that it names is not UTF-8 text") from None
    if not text or "\0" in text:
        raise ConfigurationError(key, source, "the file that it names holds no text")
    return text


def secret_in_variable(name: str, environ: Mapping[str, str], key: str) -> str | None:
    """What the variable ``name`` holds, or else the file that ``name`` + ``_FILE`` names; None where neither is set.

    Raises:
        ConfigurationError: Both are set, or the file cannot be read.
    """
    text, path = environ.get(name, "").strip(), environ.get(f"{name}_FILE", "").strip()
    if text and path:
        raise ConfigurationError(key, f"{name}_FILE", f"is set beside {name}; set one")
    if path:
        return secret_in_file(Path(path), key, f"{name}_FILE")
    return text or None
