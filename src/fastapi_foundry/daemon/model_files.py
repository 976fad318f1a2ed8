"""What a directory must hold to be a model, and what its files say about it. Blocks on the disk."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from fastapi_foundry.errors import ModelFilesError

__all__ = [
    "CHAT",
    "EMBEDDINGS",
    "ID_RULE",
    "ModelFiles",
    "fitting_id",
    "fitting_name",
    "inference_name",
    "inspect",
    "is_id",
    "split_id",
]

CHAT: Final = "chat-completion"
EMBEDDINGS: Final = "embeddings"
_MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024
# The engine's rule for names, measured with foundry-local-sdk 2.2.1; it sets no limit to their length.
_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,127}")
_NOT_IN_A_NAME: Final = re.compile(r"[^a-zA-Z0-9._-]+")
_MAX_NAME_CHARS: Final = 128
_VERSION: Final = re.compile(r"[0-9]{1,10}")
_MAX_VERSION: Final = 2**31 - 1
_SHOWN_CHARS: Final = 160

ID_RULE: Final = (
    "a name begins with a letter or a digit and holds only letters, digits, '.', '_' and '-' "
    "([a-zA-Z0-9][a-zA-Z0-9._-]*, 128 characters at most), and a version is a number, as in 'my-model:1'"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model's files say.

    Attributes:
        name: From ``inference_model.json``; empty where that is missing.
        task: ``chat-completion`` or ``embeddings``.
        tool_calling: Whether its chat template knows tools.
        context_length: Tokens; 0 when the files do not say.
        size_bytes: Of all files together.
        created: Unix time of ``genai_config.json``.
    """

    name: str
    task: str
    tool_calling: bool
    context_length: int
    size_bytes: int
    created: int


def split_id(name: str, *, param: str = "name") -> tuple[str, int]:
    """Name and version of a model id; without a version it is 1.

    Raises:
        ModelFilesError: The engine would not take it; the message has the rule, and an id that fits.
    """
    alias, colon, version = name.partition(":")
    if _NAME.fullmatch(alias) and (not colon or _is_version(version)):
        return alias, int(version or 1)
    fitting = fitting_id(name)
    suggestion = f" '{fitting}' would do." if fitting else ""
    raise ModelFilesError(f"'{name[:_SHOWN_CHARS]}' cannot be a model id: {ID_RULE}.{suggestion}", param=param)


def is_id(model_id: str) -> bool:
    """Whether the engine takes it as a full id, which has a version without leading zeros."""
    name, _, version = model_id.partition(":")
    return bool(_NAME.fullmatch(name)) and _is_version(version) and str(int(version)) == version


def fitting_id(name: str) -> str:
    """The id nearest to ``name`` that the engine takes, with its version where it has one; empty where none is near."""
    alias, colon, version = name.rpartition(":")
    if not colon or not _is_version(version):
        return fitting_name(name)
    fitting = fitting_name(alias)
    return f"{fitting}:{int(version)}" if fitting else ""


def fitting_name(name: str) -> str:
    """``name`` with '-' instead of what cannot be in the name of an id; empty where nothing of it is left."""
    return _NOT_IN_A_NAME.sub("-", name).strip("-").lstrip("._-")[:_MAX_NAME_CHARS]


def _is_version(text: str) -> bool:
    return bool(_VERSION.fullmatch(text)) and int(text) <= _MAX_VERSION


def inspect(path: Path) -> ModelFiles:
    """Read a model directory.

    Raises:
        ModelFilesError: Something is missing or wrong; the message names each such file, without its directory.
    """
    if not path.is_dir():
        raise ModelFilesError("There is no such directory.")
    if (path / "download.tmp").exists():
        raise ModelFilesError("Its download is not complete: it holds 'download.tmp'.")
    config = _json_object(path / "genai_config.json")
    model = config.get("model")
    if not isinstance(model, dict):
        raise ModelFilesError("'genai_config.json' has no object 'model'.")
    missing = [name for name in (*_onnx_files(model), "tokenizer.json") if not (path / name).is_file()]
    if missing:
        raise ModelFilesError("The directory lacks " + ", ".join(f"'{name}'" for name in missing) + ".")
    search = config.get("search")
    context = model.get("context_length") or (search.get("max_length") if isinstance(search, dict) else None)
    stat = (path / "genai_config.json").stat()
    return ModelFiles(
        name=inference_name(path),
        task=_task(model),
        tool_calling="tools" in _chat_template(path),
        context_length=context if isinstance(context, int) and context > 0 else 0,
        size_bytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        created=int(stat.st_mtime),
    )


def _json_object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelFilesError(f"'{path.name}' is too large to be what its name says.")
        value = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelFilesError(f"The directory lacks '{path.name}'.") from None
    except OSError as error:
        raise ModelFilesError(f"'{path.name}' cannot be read: {error.strerror}.") from error
    except orjson.JSONDecodeError as error:
        raise ModelFilesError(f"'{path.name}' is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelFilesError(f"'{path.name}' is not a JSON object.")
    return value


def _onnx_files(model: Mapping[str, Any]) -> Iterator[str]:
    """Every file that the parts of a model (decoder, embedding, vision, ...) name."""
    found = False
    for part in model.values():
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("filename"), str):
            found = True
            yield part["filename"]
        for stage in part.get("pipeline") or ():
            for step in stage.values() if isinstance(stage, dict) else ():
                if isinstance(step, dict) and isinstance(step.get("filename"), str):
                    found = True
                    yield step["filename"]
    if not found:
        raise ModelFilesError("'genai_config.json' names no ONNX file.")


def _task(model: Mapping[str, Any]) -> str:
    decoder = model.get("decoder")
    outputs = decoder.get("outputs") if isinstance(decoder, dict) else None
    if isinstance(outputs, dict) and "hidden_states" in outputs and "logits" not in outputs:
        return EMBEDDINGS
    return CHAT


def _chat_template(path: Path) -> str:
    try:
        return (path / "chat_template.jinja").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    try:
        template = _json_object(path / "tokenizer_config.json").get("chat_template")
    except ModelFilesError:
        return ""
    return template if isinstance(template, str) else str(template or "")


def inference_name(path: Path) -> str:
    """``Name`` in ``inference_model.json``, which SDK 2 writes as ``name:version``; empty where there is none."""
    try:
        name = _json_object(path / "inference_model.json").get("Name")
    except ModelFilesError:
        return ""
    return name if isinstance(name, str) else ""
