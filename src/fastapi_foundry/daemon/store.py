"""The models on this machine: bundled, in the store, and registered from elsewhere.

The store is ``$FOUNDRY_HOME``, in every layout that Foundry has used: ``models/<directory>``,
``cache/models/<publisher>/<name>/v<n>`` and ``cache/models/<publisher>/<name>-<n>`` (what SDK 2 downloads; the files
may lie one directory deeper). Registrations are remembered in ``registered.json``. Scanning blocks on
the disk, so the service calls it in a thread; look-ups work on the last scan and never block.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from fastapi_foundry.daemon.model_files import (
    CHAT,
    ID_RULE,
    ModelFiles,
    fitting_id,
    fitting_name,
    inference_name,
    inspect,
    is_id,
    split_id,
)
from fastapi_foundry.errors import InvalidInputError, ModelFilesError, ModelNotFoundError
from fastapi_foundry.settings.home import make_private_directory

__all__ = ["DEMO_MODEL_ID", "LocalModel", "ModelStore", "write_json_atomically"]

DEMO_MODEL_ID: Final = "foundry-demo:1"
_VERSION_SUFFIX: Final = re.compile(r"^(?P<name>.+?)(?::|-v|_v)(?P<version>[0-9]{1,9})$")
_MODEL_FILES: Final = ("genai_config.json", "inference_model.json", "download.tmp", "tokenizer.json", "model.onnx")
_MAX_DEPTH: Final = 4
_VERSION_DIRECTORY: Final = re.compile(r"^v(?P<version>[0-9]{1,9})$")


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model directory.

    Attributes:
        id: Full id, ``name:version``.
        path: Where it is.
        source: ``bundled``, ``store`` or ``registered``.
        files: What its files say; None when they cannot be used.
        problem: Why not, in words; empty when they can.
    """

    id: str
    path: Path
    source: str
    files: ModelFiles | None
    problem: str = ""

    @property
    def alias(self) -> str:
        """The id without its version."""
        return self.id.partition(":")[0]

    @property
    def version(self) -> int:
        """The number after the colon; 1 where there is none."""
        version = self.id.partition(":")[2]
        return int(version) if version.isdecimal() else 1

    @property
    def task(self) -> str:
        """What it does; chat until its files say otherwise."""
        return self.files.task if self.files else CHAT


class ModelStore:
    """Knows every model directory. All methods may be called from any thread.

    Args:
        home: ``FOUNDRY_HOME``.
        bundled: Directory of the demo model; left out of the list while it does not exist.
    """

    def __init__(self, home: Path, bundled: Path | None) -> None:
        self._home = home
        self._bundled = bundled
        self._registry = home / "registered.json"
        self._lock = threading.Lock()
        self._models: dict[str, LocalModel] = {}

    @property
    def cache_dir(self) -> Path:
        """Where downloads go."""
        return self._home / "cache" / "models"

    def scan(self) -> dict[str, LocalModel]:
        """Every model by id, from the disk; takes about a millisecond per model."""
        with self._lock:
            self._models = {model.id: model for model in reversed(list(self._found()))}
            return dict(self._models)

    def known(self, name: str, aliases: Mapping[str, str] | None = None) -> LocalModel | None:
        """The model that ``name`` means on the last scan: an id, a name without version (the newest), or an alias.

        Args:
            name: As the caller gave it.
            aliases: Further names, such as the online catalogue's, each with its full id.
        """
        models = self._models
        exact = models.get(name)
        if exact is not None:
            return exact
        wanted = name.casefold()
        matches = [model for model in models.values() if wanted in {model.id.casefold(), model.alias.casefold()}]
        if matches:
            return max(matches, key=lambda model: (not model.problem, model.version))
        further = (aliases or {}).get(wanted)
        return models.get(further) if further is not None else None

    def find(self, name: str, aliases: Mapping[str, str] | None = None) -> LocalModel:
        """The same, looking at the disk again before giving up. Blocks.

        Raises:
            ModelNotFoundError: Nothing here has that name.
        """
        found = self.known(name, aliases)
        if found is None:
            self.scan()
            found = self.known(name, aliases)
        if found is None:
            raise ModelNotFoundError(name, "GET /v1/models lists the models that are.")
        return found

    def register(self, path_text: str, name: str | None) -> LocalModel:
        """Remember a directory of the user's own as a model. Blocks.

        Args:
            path_text: The directory.
            name: Its id, or its id without a version; made of what the files or the directory are called if None.

        Raises:
            ModelFilesError: The directory is no usable model, or the name no usable id.
            InvalidInputError: Another model has that id.
        """
        path = Path(path_text).expanduser()
        if not path.is_absolute():
            raise ModelFilesError("The path must be absolute: the service has a working directory of its own.")
        path = path.resolve()
        files = inspect(path)
        made = name or _own_id(files.name) or _own_id(path.name)
        if not made:
            raise ModelFilesError(f"No model id can be made of '{path.name}', so give a name: {ID_RULE}.", param="name")
        alias, version = split_id(made)
        model = LocalModel(f"{alias}:{version}", path, "registered", files)
        existing = self.scan().get(model.id)
        if existing is not None and existing.path != path:
            raise InvalidInputError(f"There is a model '{model.id}' already.", param="name", code="model_exists")
        if existing is None:
            registry = self._read_registry()
            unusable = [key for key, value in registry.items() if value == str(path) and not is_id(key)]
            self._write_registry({k: v for k, v in registry.items() if k not in unusable} | {model.id: str(path)})
            self.scan()
        return model

    def remove(self, model: LocalModel) -> None:
        """Delete a model of the store, or forget a registration, whose files stay. Blocks.

        Raises:
            InvalidInputError: It is the bundled model.
        """
        if model.source == "bundled":
            raise InvalidInputError(
                f"'{model.id}' is part of the product and cannot be removed.", param="model", code="model_is_bundled"
            )
        if model.source == "registered":
            registry = self._read_registry()
            registry.pop(model.id, None)
            self._write_registry(registry)
        else:
            shutil.rmtree(model.path)
            for parent in model.path.parents:
                if parent in {self._home / "models", self.cache_dir} or any(parent.iterdir()):
                    break
                parent.rmdir()
        self.scan()

    def _found(self) -> Iterator[LocalModel]:
        """Every model; where two have one id, the first counts."""
        if self._bundled is not None and (self._bundled / "genai_config.json").is_file():
            yield _read(DEMO_MODEL_ID, self._bundled, "bundled")
        for model_id, path in self._read_registry().items():
            yield _read(model_id, Path(path), "registered")
        for directory in _subdirectories(self._home / "models"):
            # A directory without any model in it is shown too, with what it lacks.
            for found in list(_model_directories(directory)) or [directory]:
                yield _read(_id_of(found), found, "store")
        for directory in _subdirectories(self.cache_dir):
            for found in _model_directories(directory):
                yield _read(_id_of(found), found, "store")

    def _read_registry(self) -> dict[str, str]:
        try:
            value = orjson.loads(self._registry.read_bytes())
        except (OSError, orjson.JSONDecodeError):
            return {}
        models = value.get("models") if isinstance(value, dict) else None
        return {str(key): str(path) for key, path in models.items()} if isinstance(models, dict) else {}

    def _write_registry(self, models: dict[str, str]) -> None:
        write_json_atomically(self._registry, {"models": models})


def write_json_atomically(path: Path, value: Any) -> None:
    """Replace a JSON file such that a reader sees the old one or the new one, never a part. Blocks."""
    make_private_directory(path.parent)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(orjson.dumps(value, option=orjson.OPT_INDENT_2))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read(model_id: str, path: Path, source: str) -> LocalModel:
    if not is_id(model_id):
        return LocalModel(model_id, path, source, None, _id_problem(model_id, source))
    try:
        return LocalModel(model_id, path, source, inspect(path))
    except ModelFilesError as error:
        return LocalModel(model_id, path, source, None, error.message)
    except OSError as error:
        return LocalModel(model_id, path, source, None, f"The directory cannot be read: {error.strerror}.")


def _id_problem(model_id: str, source: str) -> str:
    """Why a model cannot be used under this id, and what can be done about it."""
    better = f", as '{fitting}' for example" if (fitting := fitting_id(model_id)) else ""
    way_out = f"Register it again{better}." if source == "registered" else "Rename its directory."
    return f"The engine does not take its id: {ID_RULE}. {way_out}"


def _model_directories(directory: Path, depth: int = _MAX_DEPTH) -> Iterator[Path]:
    """The directories at or below ``directory`` that hold a model's files, complete or not."""
    if any((directory / name).is_file() for name in _MODEL_FILES):
        yield directory
    elif depth:
        for entry in _subdirectories(directory):
            yield from _model_directories(entry, depth - 1)


def _id_of(directory: Path) -> str:
    """A store directory's id: what ``inference_model.json`` says, else what its place says."""
    name = _own_id(inference_name(directory))
    if ":" in name:
        return name
    version_directory = _VERSION_DIRECTORY.match(directory.name)
    if version_directory:
        version = int(version_directory["version"])
        return _made_id(name or directory.parent.name.removesuffix(f"-{version}"), version)
    match = _VERSION_SUFFIX.match(directory.name)
    if match:
        return _made_id(name or match["name"], int(match["version"]))
    if name and directory.name.startswith(f"{name}-") and directory.name[len(name) + 1 :].isdigit():
        return _made_id(name, int(directory.name[len(name) + 1 :]))
    return _made_id(name or directory.name, 1)


def _made_id(name: str, version: int) -> str:
    """An id that fits; as the name stands where none can be made of it, so that it can be listed."""
    return f"{fitting_name(name) or name}:{version}"


def _own_id(name: str) -> str:
    """An id made of what a model calls itself, which may have its publisher in front; empty where none can be."""
    return fitting_id(name.strip().rsplit("/", 1)[-1])


def _subdirectories(path: Path) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
