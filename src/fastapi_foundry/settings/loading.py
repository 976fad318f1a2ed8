"""Flags over environment over file over defaults, and errors that name the setting and its source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings.description import SECRET_TEXT, settings_table
from fastapi_foundry.settings.sections import Settings, default_home
from fastapi_foundry.settings.sources import COMMAND_LINE, Given, from_command_line, from_environment, from_file
from fastapi_foundry.settings.values import shown

__all__ = ["load_settings"]

_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})

# Pydantic's words that speak of types in Python's terms, in the terms of a configuration file.
_WORDS: Final[Mapping[str, str]] = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "too_short": "must hold at least {min_length} entries",
    "path_type": "must be the path of a directory",
    "finite_number": "must be a finite number",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "string_too_long": "must not be longer than {max_length} characters",
    "too_long": "must not hold more than {max_length} entries",
}


def load_settings(
    config_path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] = _NOTHING,
) -> Settings:
    """Make the settings from all their sources; blocks for the read of one small file.

    Args:
        config_path: The configuration file, which must then exist. Without one ``FASTAPI_FOUNDRY_CONFIG``
            names it, and without that ``config.json`` in the home directory is used if it is there.
        environ: The environment; the process's own unless given.
        overrides: Values of command-line flags by dotted key (``{"fastapi_server.port": 9700}``); ``None``
            stands for a flag that was not given.

    Raises:
        ConfigurationError: A file cannot be read, a setting is unknown, or a value is wrong; the error
            names the setting, the source of its value, and what would be right.
    """
    environ = os.environ if environ is None else environ
    flags, variables = from_command_line(overrides), from_environment(environ)
    path = _config_file(config_path, environ, flags.get("home") or variables.get("home"))
    given = (from_file(path) if path is not None else {}) | variables | flags
    given.setdefault("home", Given(default_home(environ), "default"))
    try:
        return Settings.model_validate(_nested(given))
    except ValidationError as error:
        raise _translated(error.errors(include_url=False)[0], given) from error


def _config_file(explicit: Path | None, environ: Mapping[str, str], home: Given | None) -> Path | None:
    if explicit is not None:
        return explicit.expanduser().absolute()
    named = environ.get("FASTAPI_FOUNDRY_CONFIG", "").strip()
    if named:
        path = Path(named).expanduser().absolute()
        if not path.exists():
            raise ConfigurationError("", "FASTAPI_FOUNDRY_CONFIG", f"there is no file {str(path)!r}")
        return path
    directory = Path(str(home.value)) if home is not None else default_home(environ)
    candidate = directory / "config.json"
    return candidate if candidate.is_file() else None


def _nested(given: Mapping[str, Given]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for key, (value, _) in given.items():
        section, _, name = key.rpartition(".")
        if section:
            branch = tree.setdefault(section, {})
            if isinstance(branch, dict):
                branch[name] = value
        else:
            tree[name] = value
    return tree


def _translated(detail: ErrorDetails, given: Mapping[str, Given]) -> ConfigurationError:
    """The error of one value, or of two that contradict each other, with the source of what is at fault."""
    context = detail.get("ctx", {})
    if detail["loc"][:1] in {("engines",), ("model_aliases",)} or "path" in context:
        return _translated_entry(detail, given)
    location = ".".join(str(part) for part in detail["loc"][:2])
    if "field" in context:
        location = f"{location}.{context['field']}"
    table = settings_table()
    key = next((known for known in table if known in {location, location.partition(".")[0]}), location)
    source = given[key].source if key in given else _section_source(key, given)
    kind = detail["type"]
    if kind in _WORDS:
        # A wrong value of a secret may be the secret in a wrong place.
        what = "" if key in table and table[key].type == SECRET_TEXT else f", not {shown(detail['input'])}"
        reason = _WORDS[kind].format(**context) + what
    else:
        reason = detail["msg"].removeprefix("Value error, ")
    return ConfigurationError(key, source, reason)


def _translated_entry(detail: ErrorDetails, given: Mapping[str, Given]) -> ConfigurationError:
    """The error inside ``engines`` or ``model_aliases``, with the path of the entry."""
    context = detail.get("ctx", {})
    parts = [str(part) for part in detail["loc"]] + ([context["field"]] if "field" in context else [])
    key = str(context.get("path") or ".".join(parts))
    root = key.partition(".")[0]
    source = given[root].source if root in given else COMMAND_LINE
    match detail["type"]:
        case "missing":
            reason = "is missing"
        case "extra_forbidden":
            reason = "there is no such setting"
        case kind if kind in _WORDS:
            secret = key.endswith(".api_key") or ".headers." in key
            what = "" if secret else f", not {shown(detail['input'])}"
            reason = _WORDS[kind].format(**context) + what
        case _:
            reason = detail["msg"].removeprefix("Value error, ")
    return ConfigurationError(key, source, reason)


def _section_source(key: str, given: Mapping[str, Given]) -> str:
    """The source of a default's opponent: of two settings that contradict, one was given."""
    section = key.partition(".")[0]
    order = [entry.source for name, entry in given.items() if name.startswith(f"{section}.")]
    return order[-1] if order else COMMAND_LINE
