"""What settings exist: one row for each, the same that ``docs/configuration.md`` shows."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from fastapi_foundry.settings.sections import Settings

__all__ = ["SECRET_TEXT", "Setting", "describe_settings", "settings_table"]

SECRET_TEXT: Final = "secret text"  # noqa: S105 - the name of a type
"""The type of settings of which no message, view or log ever shows a value."""

Kind = Literal["bool", "int", "float", "str", "list", "path", "json"]

# Names that people know. Every setting can also be given as FASTAPI_FOUNDRY__SECTION__KEY; the names
# here win over that.
_WELL_KNOWN: Final[Mapping[str, tuple[str, ...]]] = {
    "home": ("FOUNDRY_HOME",),
    "foundry_ai.base_url": ("FOUNDRY_BASE_URL",),
    "foundry_ai.default_model": ("FOUNDRY_DEFAULT_MODEL",),
    "foundry_ai.temperature": ("FOUNDRY_TEMPERATURE",),
    "foundry_ai.max_tokens": ("FOUNDRY_MAX_TOKENS",),
    "fastapi_server.host": ("API_HOST",),
    "fastapi_server.port": ("API_PORT",),
    "foundry_service.port": ("FOUNDRY_PORT",),
    "foundry_service.offline": ("FOUNDRY_OFFLINE",),
    "logging.mode": ("FASTAPI_FOUNDRY_MODE",),
    "logging.level": ("LOG_LEVEL",),
    "logging.dir": ("LOG_DIR",),
    "security.admin_key": ("FOUNDRY_ADMIN_KEY",),
    "storage.url": ("FOUNDRY_DATABASE_URL",),
}


# Paths of files whose names do not say so.
_FILES: Final = frozenset({"tls.certificate", "tls.private_key"})


class Setting(NamedTuple):
    """One setting.

    ``key`` is dotted; ``type`` is for people (``integer``, ``"auto" or "never"``); ``default`` is as it
    would stand in ``config.json``; ``environment`` lists the variables that set it, the strongest first.
    """

    key: str
    section: str
    kind: Kind
    type: str
    default: object
    environment: tuple[str, ...]
    description: str

    @property
    def file_environment(self) -> tuple[str, ...]:
        """For a secret: the variables that name a file which holds the value, in the order of ``environment``."""
        return tuple(f"{name}_FILE" for name in self.environment) if self.type == SECRET_TEXT else ()


def describe_settings() -> list[Setting]:
    """Every setting, in the order of the sections."""
    return list(settings_table().values())


@functools.cache
def settings_table() -> Mapping[str, Setting]:
    """The same by dotted key."""
    rows: dict[str, Setting] = {}
    for name, field in Settings.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for key, inner in annotation.model_fields.items():
                rows[f"{name}.{key}"] = _row(name, key, inner)
        else:
            rows[name] = _row("", name, field)
    return rows


def _row(section: str, name: str, field: FieldInfo) -> Setting:
    key = f"{section}.{name}" if section else name
    generic = "FASTAPI_FOUNDRY__" + key.replace(".", "__").upper()
    kind, words = _kind(field.annotation)
    if key.endswith("_file") or key in _FILES:
        words = "file"
    default = "~/.foundry" if key == "home" else field.default
    environment = (*_WELL_KNOWN.get(key, ()), generic)
    return Setting(key, section, kind, words, default, environment, field.description or "")


def _kind(annotation: object) -> tuple[Kind, str]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _kind(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        inner = next(part for part in typing.get_args(annotation) if part is not type(None))
        return _kind(inner)
    if typing.get_origin(annotation) is Literal:
        return "str", " or ".join(f'"{choice}"' for choice in typing.get_args(annotation))
    if typing.get_origin(annotation) is dict:
        return "json", "object"
    if typing.get_origin(annotation) is list:
        (item,) = typing.get_args(annotation)
        if isinstance(item, type) and issubclass(item, BaseModel):
            return "json", "list of objects"
        return "list", "list of texts"
    names: dict[object, tuple[Kind, str]] = {
        bool: ("bool", "true or false"),
        int: ("int", "integer"),
        float: ("float", "number"),
        str: ("str", "text"),
        SecretStr: ("str", SECRET_TEXT),
        Path: ("path", "directory"),
    }
    return names[annotation]
