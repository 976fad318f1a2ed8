"""Where values come from: the configuration file, the environment, the command line.

Every function returns ``{dotted key: Given(value, source)}`` and raises ``ConfigurationError`` for what
it cannot read, for unknown names, and for text that does not parse as the setting's type.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from fastapi_foundry.errors import ConfigurationError
from fastapi_foundry.settings.description import Setting, settings_table
from fastapi_foundry.settings.secret_files import secret_in_file
from fastapi_foundry.settings.values import shown

__all__ = ["COMMAND_LINE", "Given", "from_command_line", "from_environment", "from_file"]

COMMAND_LINE: Final = "command line"
_MAX_FILE_BYTES: Final = 1_048_576
_GENERIC_PREFIX: Final = "FASTAPI_FOUNDRY__"
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,18}\Z")


class Given(NamedTuple):
    """A value and where it was found: a file's path, an environment variable's name, the command line."""

    value: object
    source: str


def from_file(path: Path) -> dict[str, Given]:
    """Read ``path``, a JSON object of sections; blocks for the read of a small file."""
    source = str(path)
    document = _read_json(path, source)
    if not isinstance(document, dict):
        raise ConfigurationError("", source, 'must hold a JSON object with sections, such as {"logging": {...}}')
    table = settings_table()
    sections = {setting.section for setting in table.values() if setting.section}
    found: dict[str, Given] = {}
    for name, content in document.items():
        if name in sections:
            if not isinstance(content, dict):
                raise ConfigurationError(name, source, f"must be an object with settings, not {shown(content)}")
            for key, value in content.items():
                found[f"{name}.{key}"] = Given(value, source)
        else:
            found[name] = Given(content, source)
    names = [*table, *sections]
    for key in found:
        if key not in table:
            raise ConfigurationError(key, source, "there is no such setting" + _nearest(key, names))
    return {key: Given(_anchored(table[key], given.value, path.parent), source) for key, given in found.items()}


def from_environment(environ: Mapping[str, str]) -> dict[str, Given]:
    """Take what ``environ`` holds under our names; an empty value counts as not set.

    A secret may be in a file that ``..._FILE`` names instead; blocks for the read of such small files.
    """
    table = settings_table()
    known = {name for setting in table.values() for name in (*setting.environment, *setting.file_environment)}
    found: dict[str, Given] = {}
    for setting in table.values():
        for name in setting.environment:
            text = environ.get(name, "").strip()
            if text:
                found[setting.key] = Given(_parsed(setting, text, name), name)
                break
        for name in setting.file_environment:
            path = environ.get(name, "").strip()
            if path:
                if setting.key in found:
                    raise ConfigurationError(setting.key, name, f"is set beside {found[setting.key].source}; set one")
                found[setting.key] = Given(secret_in_file(Path(path), setting.key, name), name)
    for name in environ:
        if name.startswith(_GENERIC_PREFIX) and name not in known:
            raise ConfigurationError("", name, "there is no such setting" + _nearest(name, known))
    return found


def from_command_line(overrides: Mapping[str, object]) -> dict[str, Given]:
    """Take typed values by dotted key; ``None`` counts as not given, text is parsed as in the environment."""
    table = settings_table()
    found: dict[str, Given] = {}
    for key, value in overrides.items():
        setting = table.get(key)
        if setting is None:
            raise ConfigurationError(key, COMMAND_LINE, "there is no such setting" + _nearest(key, table))
        if value is None:
            continue
        if isinstance(value, str):
            found[key] = Given(_parsed(setting, value, COMMAND_LINE), COMMAND_LINE)
        else:
            found[key] = Given(_anchored(setting, value, Path.cwd()), COMMAND_LINE)
    return found


def _read_json(path: Path, source: str) -> object:
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError("", source, f"cannot be read: {error.strerror or error}") from error
    if len(raw) > _MAX_FILE_BYTES:
        raise ConfigurationError("", source, f"is larger than {_MAX_FILE_BYTES} bytes")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError("", source, f"is not UTF-8 text (byte {error.start})") from error
    return _parse_json(text, source)


def _parse_json(text: str, source: str) -> object:
    def refuse_constant(name: str) -> NoReturn:
        raise ConfigurationError("", source, f"holds {name}, which is no JSON number")

    def refuse_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise ConfigurationError(name, source, "is given twice in one object")
            found[name] = value
        return found

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_repeats)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ConfigurationError("", source, f"is not valid JSON: {error.msg} at {where}") from error
    except RecursionError as error:
        raise ConfigurationError("", source, "is nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise ConfigurationError("", source, f"is not valid JSON: {error}") from error


def _parsed(setting: Setting, text: str, source: str) -> object:
    """``text`` as the setting's type; ranges and choices are checked later, with everything else."""
    text = text.strip()
    match setting.kind:
        case "bool":
            word = text.lower()
            if word in _TRUE or word in _FALSE:
                return word in _TRUE
            raise ConfigurationError(setting.key, source, f"must be true or false (1/0, yes/no, on/off), not {text!r}")
        case "int":
            if _INTEGER.match(text):
                return int(text)
            raise ConfigurationError(setting.key, source, f"must be a whole number, not {shown(text)}")
        case "float":
            try:
                return float(text)
            except ValueError:
                raise ConfigurationError(setting.key, source, f"must be a number, not {shown(text)}") from None
        case "list":
            return _parsed_list(setting, text, source)
        case "json":
            return _parse_json(text, source)
        case "path":
            return _anchored(setting, text, Path.cwd())
        case _:
            return text


def _parsed_list(setting: Setting, text: str, source: str) -> list[object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise ConfigurationError(setting.key, source, f'must be a JSON list such as ["a", "b"], not {shown(text)}')
    return value


def _anchored(setting: Setting, value: object, base: Path) -> object:
    """A directory made absolute: ``~`` is the user's home, a relative one starts at ``base``."""
    if setting.kind != "path" or not isinstance(value, str | Path) or not str(value).strip():
        return value
    try:
        return base.absolute() / Path(value).expanduser()
    except RuntimeError:  # "~nobody"
        return base.absolute() / value


def _nearest(name: str, known: Iterable[str]) -> str:
    """Words that name the known setting most like ``name``, if one is."""
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not match:
        last = {candidate.rpartition(".")[2]: candidate for candidate in reversed(names)}
        match = [last[word] for word in difflib.get_close_matches(name.rpartition(".")[2], last, n=1, cutoff=0.75)]
    return f"; did you mean {match[0]!r}?" if match else ""
